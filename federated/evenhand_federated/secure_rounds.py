"""Rounds in which the coordinator sees only the sum: `evenhand_federated.masked_sum` in messages.

What is summed is a hospital's update times its patients, and behind it the number of patients.
Neither is told in clear. What came is kept while it is opened, so that a coordinator that is lost
meanwhile finishes the round without anybody (`evenhand_federated.kept_opening`). What is made of
the mean goes on as ever, so the strategies that need no more than the mean can be had (fedavg,
fedprox, fedadam, fedyogi, scaffold).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from numpy.typing import NDArray

from evenhand.errors import FederationError, ResourceError
from evenhand_federated.answers import figures_fault, tensor_fault
from evenhand_federated.certified import Roll, context_of, key_statement, list_statement
from evenhand_federated.deployed import DeployedFedAvg
from evenhand_federated.fixed_point import Ring, ring_of
from evenhand_federated.kept_opening import KeptOpening, Opening
from evenhand_federated.masked_sum import (
    CHECKS,
    Unmasking,
    UnopenedSumError,
    is_key,
    threshold_of,
)
from evenhand_federated.orders import FAILED
from evenhand_federated.secure_hospital import AGREE, KEYS, MASKED, UNMASK

__all__ = ["SecureFedAvg"]

Numbers = NDArray[np.float64]

_NOBODY = 1
"""Node id in the message that the mean is put into; it is not sent."""


class SecureFedAvg(DeployedFedAvg):
    """Rounds among connected hospitals of which only the sum is seen.

    Args:
        study: what the masks depend on, with the run and the round.
        roll: who takes part, and by which keys.
        timeout_s: of an exchange without training.
        options: see `DeployedFedAvg`.
    """

    def __init__(
        self, *arguments: Any, study: str, roll: Roll, timeout_s: float, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._study = study
        self._roll = roll
        self._context = ""
        self._uncertified: dict[str, str] = {}
        self._timeout_s = timeout_s
        self._grid: Grid | None = None
        self._keys: dict[str, bytes] = {}
        self._kept = KeptOpening(self._folder.path)
        self._finished: Numbers | None = None
        self._ring = ring_of(self._plan.precision)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Collect keys, then send the adapter to those who gave one.

        Nobody is asked where all that the round needs had come before the coordinator was lost.

        Raises:
            FederationError: too few gave a key.
        """
        self._grid = grid
        self._finished = self._kept.sum_of(server_round + self._plan.done)
        if self._finished is not None:
            self._arrays = arrays
            return []
        messages = list(super().configure_train(server_round, arrays, config, grid))
        if not messages:
            return []
        number = server_round + self._plan.done
        order = ConfigRecord({"arm": self._plan.arm, "round": number})
        asked = {
            message.metadata.dst_node_id: RecordDict({"config": order}) for message in messages
        }
        self._context = context_of(self._study, number, messages[0].metadata.run_id)
        signatures = self._take_keys(dict(self._ask(KEYS, asked)))
        if len(self._keys) < self._plan.minimum_hospitals:
            wrong = "".join(f" {name}: {why}." for name, why in self._uncertified.items())
            raise FederationError(
                f"Round {number} of {self._plan.arm}: {len(self._keys)} hospitals gave a key, "
                f"{self._plan.minimum_hospitals} are needed.{wrong}"
            )
        self._sent = [
            message
            for message in messages
            if self._plan.hospitals[message.metadata.dst_node_id] in self._keys
        ]
        steady = self._steady(number, set(self._keys))  # of those who are left
        for message in self._sent:
            message.content["keys"] = ConfigRecord(dict(self._keys))
            message.content["signatures"] = ConfigRecord(dict(signatures))
            message.content["config"]["steady"] = steady
        return self._sent

    def _take_keys(self, replies: Mapping[str, Message]) -> dict[str, bytes]:
        """Keep the keys that their hospitals have signed; return the signatures.

        One that is not would have every hospital refuse the round, so its hospital is left out.
        """
        self._keys, self._uncertified, signatures = {}, {}, {}
        for name, reply in replies.items():
            key = reply.content.get("key", {}).get(name)
            signature = reply.content.get("signature", {}).get(name)
            statement = key_statement(self._context, name, key) if isinstance(key, bytes) else b""
            if self._roll.is_signed(name, statement, signature) and is_key(key):
                self._keys[name], signatures[name] = key, signature
            else:
                self._uncertified[name] = "a key that it has not signed as the study names it"
        return signatures

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Open the sum of what came.

        Raises:
            UnopenedSumError: it cannot be; hospitals have trained in vain.
            ResourceError: the disk did not take what came of it; enough of the sum is kept, so
                trying again finishes the round.
        """
        number = server_round + self._plan.done
        try:
            if self._finished is None:
                arrays = super().aggregate_train(server_round, replies)[0]
            else:
                arrays = self._combined(number, [self._as_answer(self._finished)])
        except FederationError as error:
            raise self._in_vain(str(error)) from None
        except (ResourceError, OSError) as error:
            if self._kept.sum_of(number) is not None:
                raise
            raise self._in_vain(
                f"Round {number} of {self._plan.arm}: hospitals have trained, and their sum is "
                f"lost to a fault of this machine. {error}"
            ) from None
        self._kept.end()
        return arrays, None

    def _in_vain(self, why: str) -> UnopenedSumError:
        """Forget a sum that cannot be opened by trying again."""
        with suppress(ResourceError):  # a full disk; the reason must come through
            self._kept.end()
        return UnopenedSumError(why)

    def _sorted(
        self, replies: Iterable[Message]
    ) -> tuple[dict[str, Message], dict[str, str], set[int]]:
        answered, failed, codes = {}, dict(self._uncertified), set[int]()
        size = 1 + CHECKS + sum(int(np.prod(one.shape)) for one in self._arrays.values())
        for hospital, reply in self._by_hospital(replies).items():
            if reply.has_error():
                failed[hospital] = reply.error.reason or f"error {reply.error.code}"
                codes.add(reply.error.code)
            elif (fault := _fault(reply.content, size, self._ring, set(self._keys))) is not None:
                failed[hospital] = fault
                codes.add(FAILED)
            else:
                answered[hospital] = reply
        return answered, failed, codes

    def _opened(self, number: int, answered: Mapping[str, Message]) -> list[Message]:
        """The mean of what came, as the answer of one hospital with all patients.

        Raises:
            UnopenedSumError: too few sent or opened it.
            ResourceError: what came cannot be kept; nobody was asked to open it.
        """
        needed = threshold_of(len(self._keys), self._plan.minimum_hospitals)
        if len(answered) < needed:
            raise UnopenedSumError(
                f"Round {number} of {self._plan.arm}: {len(self._keys)} hospitals began a hidden "
                f"sum and {len(answered)} sent their part; {needed} are needed to open it."
            )
        order = ConfigRecord({"arm": self._plan.arm, "round": number})
        signatures = ConfigRecord(self._agreed(order, answered, needed))
        nodes = {name: node for node, name in self._plan.hospitals.items()}
        asked = {}
        for name in answered:
            parts = {other: reply.content["shares"][name] for other, reply in answered.items()}
            content = {"config": order, "shares": ConfigRecord(parts), "signatures": signatures}
            asked[nodes[name]] = RecordDict(content)
        opening = Opening(
            number,
            self._context,
            self._plan.minimum_hospitals,
            tuple(self._keys),
            {name: reply.content["arrays"][MASKED].numpy() for name, reply in answered.items()},
        )
        self._kept.begin(opening)
        for name, reply in self._ask(UNMASK, asked):
            if (answer := _unmasking(reply.content)) is not None:
                opening.opened[name] = answer
                self._kept.add(name, answer)
        return [self._as_answer(opening.total())]

    def _agreed(
        self, order: ConfigRecord, answered: Mapping[str, Message], needed: int
    ) -> dict[str, bytes]:
        """Signatures of the list of those who sent; none where all did who began.

        Raises:
            UnopenedSumError: too few have signed it.
        """
        if set(answered) == set(self._keys):
            return {}
        came = ConfigRecord({"names": sorted(answered)})
        asked = {
            node: RecordDict({"config": order, "came": came})
            for node, name in self._plan.hospitals.items()
            if name in answered
        }
        statement = list_statement(self._context, self._keys, answered)
        told = {
            name: reply.content.get("signature", {}).get(name)
            for name, reply in self._ask(AGREE, asked)
        }
        signed = self._roll.signers(statement, told)
        if len(signed) < needed:
            raise UnopenedSumError(
                f"{len(signed)} hospitals have signed the list of those who sent; {needed} are "
                "needed to open the sum."
            )
        return {name: told[name] for name in sorted(signed)}

    def _as_answer(self, total: Numbers) -> Message:
        counted, at, state = float(total[-1]) / self._ring.one, 0, {}
        patients = round(counted)
        if patients < 1 or abs(counted - patients) > 1e-3:
            raise UnopenedSumError("The sum makes no sense; a hospital sent something else.")
        for name in sorted(self._arrays):
            one = self._arrays[name].numpy()
            mean = total[at : at + one.size].reshape(one.shape) / patients
            state[name] = Array(np.asarray(one + mean, dtype=one.dtype))
            at += one.size
        content = {"arrays": ArrayRecord(state), "metrics": MetricRecord({"patients": patients})}
        return Message(RecordDict(content), _NOBODY, MessageType.TRAIN)

    def _ask(self, kind: str, contents: Mapping[int, RecordDict]) -> Iterator[tuple[str, Message]]:
        """Answers to a question of each node as they come; errors and silence are left out."""
        if self._grid is None:
            raise FederationError("No round was begun.")
        messages = [
            Message(content, node, kind, ttl=self._timeout_s) for node, content in contents.items()
        ]
        replies = self._grid.send_and_receive(messages, timeout=self._timeout_s)
        asked = {
            one.metadata.message_id: self._plan.hospitals[one.metadata.dst_node_id]
            for one in messages
        }
        for reply in replies:
            if reply.has_content() and reply.metadata.reply_to_message_id in asked:
                yield asked[reply.metadata.reply_to_message_id], reply


def _unmasking(content: RecordDict) -> Unmasking | None:
    """What opens a sum, in an answer; None where it is something else."""
    if {*content.config_records} != {"shares", "pairs"}:
        return None
    shares, pairs = dict(content["shares"]), dict(content["pairs"])
    if not all(isinstance(part, bytes) for part in (*shares.values(), *pairs.values())):
        return None
    return Unmasking(shares, pairs)


def _fault(content: RecordDict, size: int, ring: Ring, began: set[str]) -> str | None:
    """Why a masked answer cannot be summed; None where it can."""
    if {*content.array_records} != {"arrays"} or {*content.config_records} != {"shares"}:
        return "an answer of another form"
    if "metrics" in content and (fault := figures_fault(content["metrics"])) is not None:
        return fault
    shares = content["shares"]
    if not all(isinstance(part, bytes) for part in shares.values()):
        return "masks of another form"
    if {*content["arrays"]} != {MASKED} or {*shares} != began:
        return "masks of another form"
    return tensor_fault(content["arrays"][MASKED], (size,), ring.dtype.name)
