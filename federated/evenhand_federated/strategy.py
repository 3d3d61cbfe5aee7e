"""Flower's FedAvg that knows hospitals by name, keeps a record and survives being stopped."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from evenhand.config import FederationConfig, Precision
from evenhand.errors import FederationError
from evenhand.experiment.layout import ArmFolder
from evenhand_federated import wire
from evenhand_federated.answers import figures_fault
from evenhand_federated.checkpoint import write_checkpoint
from evenhand_federated.orders import BUDGET_REFUSED, FAILED
from evenhand_federated.strategies import Combiner, combiner_of

__all__ = ["FederationPlan", "RecordedFedAvg"]

_FIGURES = ("patients", "seconds", "first_loss", "last_loss", "epsilon", "delta")
"""What is kept of a hospital's figures; anything else that it sends is dropped."""


@dataclass(frozen=True)
class FederationPlan:
    """What a federated arm is to do.

    Attributes:
        arm: its name.
        rounds: in all.
        done: rounds that an earlier, stopped run has finished.
        hospitals: names by node id; only these take part.
        minimum_hospitals: a round with fewer answers ends the arm.
        timeout_s: after it a message of a round is not delivered any more; None: Flower's limit.
        precision: in which numbers travel, see `evenhand_federated.orders.precision_of`.
    """

    arm: str
    rounds: int
    done: int
    hospitals: dict[int, str]
    minimum_hospitals: int
    timeout_s: float | None = None
    precision: Precision = field(kw_only=True)


class RecordedFedAvg(FedAvg):
    """Rounds among named hospitals, with a record and a checkpoint each.

    Args:
        plan: what is to be done.
        folder: of the arm.
        combiner: how updates are put together; None: their mean, weighted by patients.

    Raises:
        FederationError: what the combiner remembers of earlier rounds is missing.
    """

    def __init__(
        self, plan: FederationPlan, folder: ArmFolder, combiner: Combiner | None = None
    ) -> None:
        super().__init__(
            fraction_evaluate=0.0,
            weighted_by_key="patients",
            min_train_nodes=plan.minimum_hospitals,
            min_available_nodes=plan.minimum_hospitals,
        )
        self._plan = plan
        self._folder = folder
        self._combiner = combiner or combiner_of(FederationConfig())
        self._combiner.load(folder.path, plan.done)
        self._sent: list[Message] = []
        self._arrays = ArrayRecord()
        self._bytes_down = 0
        self._started = 0.0
        self._budget_is_spent = False

    def configure_train(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> Iterable[Message]:
        """Send the adapter to those hospitals of the plan that are asked."""
        if self._budget_is_spent:
            return []
        asked = self._asked(grid)
        self._started = time.monotonic()
        self._arrays = arrays
        number = server_round + self._plan.done
        leaving = wire.common(arrays, self._plan.precision)
        self._bytes_down = wire.bytes_of(leaving)
        content = RecordDict(
            {
                **leaving,
                "config": ConfigRecord(
                    {
                        **config,
                        "arm": self._plan.arm,
                        "round": number,
                        "steady": self._steady(number, set(asked.values())),
                    }
                ),
            }
        )
        # Kept, because the grid gives them their ids, by which replies are known.
        self._sent = [
            Message(content, node, MessageType.TRAIN, ttl=self._plan.timeout_s) for node in asked
        ]
        return self._sent

    def _asked(self, grid: Grid) -> dict[int, str]:  # noqa: ARG002 - never sampled
        """Who takes part in a round, by node id: here all of the plan."""
        return self._plan.hospitals

    def _steady(self, number: int, asked: set[str]) -> int:
        """See `RoundOrder.steady`; read from the records, which outlive this process."""
        records: list[dict[str, Any]] = self._folder.read_rounds()
        counted = {record["round"]: set(record["hospitals"]) for record in records}
        if counted.get(number - 1) != asked:
            return 0
        return 2 if counted.get(number - 2) == asked else 1

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average what came, then write down who answered and what it cost.

        When hospitals' ledgers refuse another round of an arm that has finished some,
        the arm ends with what it has.

        Raises:
            FederationError: fewer hospitals answered than the plan needs.
        """
        if self._budget_is_spent:
            return None, None
        number = server_round + self._plan.done
        answered, failed, codes = self._sorted(replies)
        self._record(number, answered, failed)
        if len(answered) < self._plan.minimum_hospitals:
            if number > 1 and codes == {BUDGET_REFUSED}:
                self._budget_is_spent = True
                return None, None
            raise FederationError(self._too_few(number, answered, failed))
        # In the order of names: a float sum in order of arrival would differ from run to run.
        return self._combined(number, self._opened(number, answered)), None

    def _combined(self, number: int, answers: list[Message]) -> ArrayRecord | None:
        """Put a round's answers together, and write it down."""
        arrays = self._combiner.combine(number, self._arrays, answers)
        if arrays is not None:
            self._combiner.save(self._folder.path, number)
            write_checkpoint(self._folder, number, arrays.to_torch_state_dict())
        return arrays

    def _opened(self, number: int, answered: Mapping[str, Message]) -> list[Message]:  # noqa: ARG002
        """What is put together, of what was answered in a round: here all of it."""
        for reply in answered.values():
            came = wire.answered(reply.content, self._arrays, self._plan.precision)
            reply.content["arrays"] = came
        return list(answered.values())

    def _sorted(
        self, replies: Iterable[Message]
    ) -> tuple[dict[str, Message], dict[str, str], set[int]]:
        """What can be averaged, and why the rest cannot, by hospital; error codes of the rest."""
        answered: dict[str, Message] = {}
        failed: dict[str, str] = {}
        codes: set[int] = set()
        for hospital, reply in self._by_hospital(replies).items():
            if reply.has_error():
                failed[hospital] = reply.error.reason or f"error {reply.error.code}"
                codes.add(reply.error.code)
            elif (fault := _fault(reply.content, self._arrays, self._plan.precision)) is not None:
                failed[hospital] = fault
                codes.add(FAILED)
            else:
                answered[hospital] = reply
        return answered, failed, codes

    def _by_hospital(self, replies: Iterable[Message]) -> dict[str, Message]:
        """Replies by hospital, in the order of names.

        A reply is known by the message that it answers: where a node is gone, the
        link answers in its stead and with its own node id.
        """
        asked = {
            message.metadata.message_id: self._plan.hospitals[message.metadata.dst_node_id]
            for message in self._sent
        }
        known = {}
        for reply in replies:
            hospital = asked.get(reply.metadata.reply_to_message_id)
            if hospital is not None:
                known[hospital] = reply
        return dict(sorted(known.items()))

    def _too_few(
        self, number: int, answered: Mapping[str, Message], failed: Mapping[str, str]
    ) -> str:
        reasons = [f"{name}: {reason}" for name, reason in sorted(failed.items())]
        reasons += [f"{name}: silent" for name in self._silent({*answered, *failed})]
        return (
            f"Round {number} of {self._plan.arm}: {len(answered)} hospitals answered, "
            f"{self._plan.minimum_hospitals} are needed ({', '.join(reasons)}). "
            "See each hospital's node.log."
        )

    def _silent(self, heard: set[str]) -> list[str]:
        return sorted(set(self._plan.hospitals.values()) - heard)

    def _record(
        self, number: int, answered: Mapping[str, Message], failed: Mapping[str, str]
    ) -> None:
        hospitals = {}
        for name, reply in answered.items():
            figures = reply.content.get("metrics", {})
            hospitals[name] = {
                "bytes_down": self._bytes_down,
                "bytes": wire.bytes_of(reply.content),
                **{key: figures[key] for key in _FIGURES if key in figures},
            }
        self._folder.append_round(
            {
                "arm": self._plan.arm,
                "round": number,
                "rounds": self._plan.rounds,
                "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": time.monotonic() - self._started,
                "hospitals": hospitals,
                "failed": dict(failed),
                "silent": self._silent({*answered, *failed}),
            }
        )


def _fault(content: RecordDict, wanted: ArrayRecord, precision: Precision) -> str | None:
    """Why a hospital's answer cannot be averaged; None where it can."""
    if {*content.array_records} != {"arrays"} or {*content.metric_records} != {"metrics"}:
        return "an answer of another form"
    figures = content["metrics"]
    patients = figures.get("patients")
    if not isinstance(patients, int) or patients < 1:
        return "no number of patients"
    if (fault := figures_fault(figures)) is not None:
        return fault
    return wire.answer_fault(content, wanted, precision)
