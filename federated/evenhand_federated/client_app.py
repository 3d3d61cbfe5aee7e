"""The Flower ClientApp: one hospital behind each SuperNode.

Every handler is wrapped: the text of an exception would otherwise travel to the
coordinator word for word. What leaves is the kind of error; the whole of it goes to
the hospital's own log.
"""

import functools
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp

from evenhand.errors import BudgetError
from evenhand_federated.node import HospitalNode, RoundOrder

__all__ = ["BUDGET_REFUSED", "FAILED", "app", "introduce", "train"]

FAILED = 1001
"""Error code of a hospital that could not do what was asked."""
BUDGET_REFUSED = 1002
"""Error code of a hospital whose privacy ledger refuses."""

app = ClientApp()

Handler = Callable[[Message, HospitalNode], Message]


def _guarded(handler: Handler) -> Callable[[Message, Context], Message]:
    @functools.wraps(handler)
    def guarded(message: Message, context: Context) -> Message:
        node: HospitalNode | None = None
        try:
            node = HospitalNode.of_partition(int(context.node_config["partition-id"]))
            return handler(message, node)
        except Exception as error:  # noqa: BLE001 - nothing of it may leave unseen
            if node is not None:
                _log(node, traceback.format_exc())
            code = BUDGET_REFUSED if isinstance(error, BudgetError) else FAILED
            return Message(Error(code, type(error).__name__), reply_to=message)

    return guarded


def _log(node: HospitalNode, text: str) -> None:
    with node.home.log_path.open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")


@app.query()
@_guarded
def introduce(message: Message, node: HospitalNode) -> Message:
    """Say which hospital this is, so that a missing one can be named."""
    content = RecordDict({"hospital": ConfigRecord({"name": node.home.name})})
    return Message(content, reply_to=message)


@app.train()
@_guarded
def train(message: Message, node: HospitalNode) -> Message:
    """Train one round and answer with the hospital's adapter."""
    started = time.monotonic()
    config = message.content["config"]
    order = RoundOrder(str(config["arm"]), int(config["round"]), int(config["rounds"]))
    state, figures = node.train_round(order, message.content["arrays"].to_torch_state_dict())
    arrays = ArrayRecord(state)
    metrics = MetricRecord(
        {**figures, "seconds": time.monotonic() - started, "bytes": arrays.count_bytes()}
    )
    _log(node, f"sent {arrays.count_bytes()} bytes for {order.arm}, round {order.round}")
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
