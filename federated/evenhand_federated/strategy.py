"""Flower's FedAvg that knows hospitals by name, keeps a record and survives being stopped."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from safetensors.torch import save_file

from evenhand.errors import FederationError
from evenhand.experiment.layout import ArmFolder

__all__ = ["FederationPlan", "RecordedFedAvg"]


@dataclass(frozen=True)
class FederationPlan:
    """What a federated arm is to do.

    Attributes:
        arm: its name.
        rounds: in all.
        done: rounds that an earlier, stopped run has finished.
        hospitals: names by node id; only these take part.
        minimum_hospitals: a round with fewer answers ends the arm.
    """

    arm: str
    rounds: int
    done: int
    hospitals: dict[int, str]
    minimum_hospitals: int


class RecordedFedAvg(FedAvg):
    """FedAvg, weighted by training patients; writes a record and a checkpoint each round."""

    def __init__(self, plan: FederationPlan, folder: ArmFolder) -> None:
        super().__init__(
            fraction_evaluate=0.0,
            weighted_by_key="patients",
            min_train_nodes=plan.minimum_hospitals,
            min_available_nodes=plan.minimum_hospitals,
        )
        self._plan = plan
        self._folder = folder
        self._asked: dict[str, str] = {}
        self._started = 0.0
        self._bytes_down = 0

    def configure_train(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,  # noqa: ARG002 - nodes are named in the plan, never sampled
    ) -> Iterable[Message]:
        """Send the adapter to every hospital of the plan."""
        self._started = time.monotonic()
        self._bytes_down = arrays.count_bytes()
        number = server_round + self._plan.done
        order = ConfigRecord(
            {**config, "arm": self._plan.arm, "round": number, "rounds": self._plan.rounds}
        )
        content = RecordDict({"arrays": arrays, "config": order})
        return [Message(content, node, MessageType.TRAIN) for node in self._plan.hospitals]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average what came, then write down who answered and what it cost.

        Raises:
            FederationError: fewer hospitals answered than the plan needs.
        """
        answered: dict[str, MetricRecord] = {}
        failed: dict[str, str] = {}
        valid: list[Message] = []
        for reply in replies:
            hospital = self._plan.hospitals.get(reply.metadata.src_node_id, "unknown node")
            if reply.has_error():
                failed[hospital] = reply.error.reason
            else:
                answered[hospital] = reply.content["metrics"]
                valid.append(reply)
        self._record(server_round + self._plan.done, answered, failed)
        if len(valid) < self._plan.minimum_hospitals:
            reasons = ", ".join(f"{name}: {reason}" for name, reason in sorted(failed.items()))
            raise FederationError(
                f"Round {server_round + self._plan.done} of {self._plan.arm}: {len(valid)} "
                f"hospitals answered, {self._plan.minimum_hospitals} are needed "
                f"({reasons or 'the others were silent'}). See each hospital's node.log."
            )
        arrays, _ = super().aggregate_train(server_round, valid)
        self._checkpoint(server_round + self._plan.done, arrays)
        return arrays, None

    def _record(
        self, number: int, answered: dict[str, MetricRecord], failed: dict[str, str]
    ) -> None:
        hospitals = {
            name: {"bytes_down": self._bytes_down, **dict(metrics)}
            for name, metrics in sorted(answered.items())
        }
        silent = sorted(set(self._plan.hospitals.values()) - answered.keys() - failed.keys())
        record = {
            "arm": self._plan.arm,
            "round": number,
            "rounds": self._plan.rounds,
            "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": time.monotonic() - self._started,
            "hospitals": hospitals,
            "failed": failed,
            "silent": silent,
        }
        with self._folder.rounds_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def _checkpoint(self, number: int, arrays: ArrayRecord | None) -> None:
        if arrays is None:
            return
        draft = self._folder.checkpoint_path.with_suffix(".tmp")
        state = {name: t.contiguous() for name, t in arrays.to_torch_state_dict().items()}
        save_file(state, draft, metadata={"round": str(number)})
        draft.replace(self._folder.checkpoint_path)
