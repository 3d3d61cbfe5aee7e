"""Rounds in which the coordinator sees only the sum: `evenhand_federated.masked_sum` in messages.

What is summed is a hospital's update times its patients, and behind it the number of patients.
Neither is told in clear. What is made of the mean goes on as ever, so the strategies that need
no more than the mean can be had (fedavg, fedprox, fedadam, fedyogi).
"""

import fcntl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from torch import Tensor

from evenhand.artifacts import write_atomically
from evenhand.errors import FederationError
from evenhand_federated.answers import figures_fault, tensor_fault
from evenhand_federated.deployed import DeployedFedAvg
from evenhand_federated.masked_sum import (
    Contributor,
    Unmasking,
    UnopenedSumError,
    open_sum,
    threshold_of,
)
from evenhand_federated.node import FAILED

__all__ = ["KEYS", "UNMASK", "SecureFedAvg", "SecureRound", "context_of"]

KEYS = "query.keys"
"""Type of the message of the first exchange."""

UNMASK = "query.unmask"
"""Type of the message of the third exchange; the second is the training message."""

_MASKED = "masked"


def context_of(study: str, number: int) -> str:
    """What the masks of a round depend on."""
    return f"{study} round {number}"


class SecureRound:
    """A hospital's part in one round, kept in a file between exchanges.

    Args:
        folder: of the hospital, for this study.
        hospital: its name.
        context: see `context_of`.
        minimum: contributors that it asks for.
    """

    def __init__(self, folder: Path, hospital: str, context: str, minimum: int) -> None:
        self._path = folder / "secure-sum.json"
        self._hospital = hospital
        self._context = context
        self._minimum = minimum

    def answer_keys(self, message: Message) -> Message:
        """Begin the round anew with fresh keys."""
        own = Contributor(self._hospital, self._context, self._minimum)
        with self._held():
            self._keep(own)
        content = RecordDict({"key": ConfigRecord({self._hospital: own.public()})})
        return Message(content, reply_to=message)

    def mask(
        self,
        content: RecordDict,
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
        patients: int,
    ) -> RecordDict:
        """What leaves in place of an adapter.

        Args:
            content: of the training message, with everybody's keys.
            before: the adapter that came.
            after: the one that was trained.
            patients: whom it was trained on.
        """
        parts = [(after[name] - before[name]).double().numpy().ravel() for name in sorted(before)]
        values = np.concatenate([*parts, [1.0]]) * patients
        keys = {name: bytes(key) for name, key in content["keys"].items()}
        with self._held():
            own = self._load()
            masked = own.mask(keys, values)
            self._keep(own)
        return RecordDict(
            {
                "arrays": ArrayRecord({_MASKED: Array(masked.values)}),
                "shares": ConfigRecord(dict(masked.shares)),
            }
        )

    def answer_unmask(self, message: Message) -> Message:
        """Open the sum, once; then forget the round.

        Raises:
            FederationError: too few came, or the round is another or was opened already.
        """
        with self._held():
            own = self._load()
            came = {name: bytes(part) for name, part in message.content["shares"].items()}
            opened = own.unmask(came)
            self._path.unlink()
        content = RecordDict(
            {
                "shares": ConfigRecord(dict(opened.shares)),
                "pairs": ConfigRecord(dict(opened.pairs)),
            }
        )
        return Message(content, reply_to=message)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Alone with the file: two messages at once are two processes, and each is asked once."""
        with self._path.with_name(".secure-sum.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _load(self) -> Contributor:
        if not self._path.exists():
            raise FederationError("This round was not begun here, or was opened already; refused.")
        own = Contributor.from_json(self._path.read_text("utf-8"))
        if own.context != self._context:
            raise FederationError("Another round was begun here; refused.")
        return own

    def _keep(self, own: Contributor) -> None:
        write_atomically(self._path, own.to_json().encode())


class SecureFedAvg(DeployedFedAvg):
    """Rounds among connected hospitals of which only the sum is seen.

    Args:
        study: what the masks depend on, with the round.
        timeout_s: of an exchange without training.
        options: see `DeployedFedAvg`.
    """

    def __init__(self, *arguments: Any, study: str, timeout_s: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._study = study
        self._timeout_s = timeout_s
        self._grid: Grid | None = None
        self._keys: dict[str, bytes] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Collect keys, then send the adapter to those who gave one.

        Raises:
            FederationError: too few gave a key.
        """
        self._grid = grid
        messages = list(super().configure_train(server_round, arrays, config, grid))
        if not messages:
            return []
        number = server_round + self._plan.done
        order = ConfigRecord({"arm": self._plan.arm, "round": number})
        asked = {
            message.metadata.dst_node_id: RecordDict({"config": order}) for message in messages
        }
        self._keys = {
            name: bytes(reply.content["key"][name])
            for name, reply in self._ask(KEYS, asked).items()
            if name in reply.content.get("key", {})
        }
        if len(self._keys) < self._plan.minimum_hospitals:
            raise FederationError(
                f"Round {number} of {self._plan.arm}: {len(self._keys)} hospitals gave a key, "
                f"{self._plan.minimum_hospitals} are needed."
            )
        self._sent = [
            message
            for message in messages
            if self._plan.hospitals[message.metadata.dst_node_id] in self._keys
        ]
        for message in self._sent:
            message.content["keys"] = ConfigRecord(dict(self._keys))
        return self._sent

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Open the sum of what came.

        Raises:
            UnopenedSumError: it cannot be; hospitals have trained in vain.
        """
        try:
            return super().aggregate_train(server_round, replies)
        except FederationError as error:
            raise UnopenedSumError(str(error)) from None

    def _sorted(
        self, replies: Iterable[Message]
    ) -> tuple[dict[str, Message], dict[str, str], set[int]]:
        answered, failed, codes = {}, {}, set()
        size = 1 + sum(int(np.prod(one.shape)) for one in self._arrays.values())
        for hospital, reply in self._by_hospital(replies).items():
            if reply.has_error():
                failed[hospital] = reply.error.reason or f"error {reply.error.code}"
                codes.add(reply.error.code)
            elif (fault := _fault(reply.content, size, set(self._keys))) is not None:
                failed[hospital] = fault
                codes.add(FAILED)
            else:
                answered[hospital] = reply
        return answered, failed, codes

    def _opened(self, number: int, answered: Mapping[str, Message]) -> list[Message]:
        """The mean of what came, as the answer of one hospital with all patients.

        Raises:
            UnopenedSumError: too few sent or opened it.
        """
        needed = threshold_of(len(self._keys), self._plan.minimum_hospitals)
        if len(answered) < needed:
            raise UnopenedSumError(
                f"Round {number} of {self._plan.arm}: {len(self._keys)} hospitals began a hidden "
                f"sum and {len(answered)} sent their part; {needed} are needed to open it."
            )
        nodes = {name: node for node, name in self._plan.hospitals.items()}
        asked = {}
        for name in answered:
            parts = {other: reply.content["shares"][name] for other, reply in answered.items()}
            asked[nodes[name]] = RecordDict(
                {
                    "config": ConfigRecord({"arm": self._plan.arm, "round": number}),
                    "shares": ConfigRecord(parts),
                }
            )
        opened = {
            name: Unmasking(dict(reply.content["shares"]), dict(reply.content["pairs"]))
            for name, reply in self._ask(UNMASK, asked).items()
            if {*reply.content} == {"shares", "pairs"}
        }
        total = open_sum(
            {name: reply.content["arrays"][_MASKED].numpy() for name, reply in answered.items()},
            opened,
            began=self._keys,
            context=context_of(self._study, number),
            minimum=self._plan.minimum_hospitals,
        )
        return [self._as_answer(total)]

    def _as_answer(self, total: np.ndarray[Any, np.dtype[np.float64]]) -> Message:
        patients, at, state = round(float(total[-1])), 0, {}
        if patients < 1 or abs(total[-1] - patients) > 1e-3:
            raise UnopenedSumError("The sum makes no sense; a hospital sent something else.")
        for name in sorted(self._arrays):
            one = self._arrays[name].numpy()
            mean = total[at : at + one.size].reshape(one.shape) / patients
            state[name] = Array(np.asarray(one + mean, dtype=one.dtype))
            at += one.size
        content = {"arrays": ArrayRecord(state), "metrics": MetricRecord({"patients": patients})}
        return Message(RecordDict(content), reply_to=self._sent[0])

    def _ask(self, kind: str, contents: Mapping[int, RecordDict]) -> dict[str, Message]:
        """Answers to a question of each node, by hospital; errors and silence are left out."""
        if self._grid is None:
            raise FederationError("No round was begun.")
        messages = [
            Message(content, node, kind, ttl=self._timeout_s) for node, content in contents.items()
        ]
        replies = list(self._grid.send_and_receive(messages, timeout=self._timeout_s))
        asked = {
            one.metadata.message_id: self._plan.hospitals[one.metadata.dst_node_id]
            for one in messages
        }
        return {
            asked[reply.metadata.reply_to_message_id]: reply
            for reply in replies
            if reply.has_content() and reply.metadata.reply_to_message_id in asked
        }


def _fault(content: RecordDict, size: int, began: set[str]) -> str | None:
    """Why a masked answer cannot be summed; None where it can."""
    if {*content.array_records} != {"arrays"} or {*content.config_records} != {"shares"}:
        return "an answer of another form"
    if "metrics" in content and (fault := figures_fault(content["metrics"])) is not None:
        return fault
    if {*content["arrays"]} != {_MASKED} or {*content["shares"]} != began:
        return "masks of another form"
    return tensor_fault(content["arrays"][_MASKED], (size,), "uint64")
