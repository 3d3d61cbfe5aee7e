"""The Flower ClientApp: one hospital behind each SuperNode.

Every handler is wrapped: the text of an exception would otherwise travel to the
coordinator word for word. What leaves is the kind of error; the whole of it goes to
the hospital's own log.
"""

import functools
import traceback
from collections.abc import Callable

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp

from evenhand_federated import wire
from evenhand_federated.answers import note, refusal
from evenhand_federated.node import HospitalNode
from evenhand_federated.orders import RoundOrder

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
                note(node.home, traceback.format_exc())
            return refusal(error, message)

    return guarded


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
    order = RoundOrder.of(message.content["config"])
    precision = node.precision(order.arm)
    before = wire.received(message.content, precision)
    state, figures = node.train_round(order, before.to_torch_state_dict())
    leaving = wire.update(before, ArrayRecord(state), precision)
    sent = f"{len(state)} tensors, {wire.bytes_of(leaving)} bytes"
    note(node.home, f"sent {sent} for {order.arm}, round {order.round}{node.what_stayed()}")
    content = RecordDict({**leaving, "metrics": MetricRecord(figures)})
    return Message(content, reply_to=message)
