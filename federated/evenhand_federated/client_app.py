"""The Flower ClientApp: one hospital behind each SuperNode.

Every handler is wrapped: the text of an exception would otherwise travel to the
coordinator word for word. What leaves is the kind of error; the whole of it goes to
the hospital's own log.
"""

import functools
import traceback
from collections.abc import Callable
from contextlib import suppress
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
from evenhand_federated.node import BUDGET_REFUSED, FAILED, HospitalNode, RoundOrder

__all__ = ["app", "introduce", "train"]

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
    # A full disk must not turn into an error that names the log's path and leaves.
    with suppress(OSError), node.home.log_path.open("a", encoding="utf-8") as file:
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
    config = message.content["config"]
    order = RoundOrder(str(config["arm"]), int(config["round"]))
    state, figures = node.train_round(order, message.content["arrays"].to_torch_state_dict())
    arrays = ArrayRecord(state)
    _log(node, f"sent {arrays.count_bytes()} bytes for {order.arm}, round {order.round}")
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord(figures)})
    return Message(content, reply_to=message)
