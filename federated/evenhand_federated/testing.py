"""A grid without Flower's runtime, for tests: nodes are functions in this process."""

from collections.abc import Callable, Iterable, Mapping
from itertools import count

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["LINK_NODE_ID", "NODE_UNAVAILABLE", "FakeGrid"]

LINK_NODE_ID = 1
"""Node id under which Flower's link answers for a node that is gone."""

NODE_UNAVAILABLE = 5
"""Flower's error code of such an answer."""

Node = Callable[[Message], Message | None]


class FakeGrid(Grid):
    """Answers at once, in the order in which messages came.

    Args:
        nodes: what each node does with a message, by node id; None in place of a reply
            is silence, None in place of a node is one that has gone.
    """

    def __init__(self, nodes: Mapping[int, Node | None]) -> None:
        self.nodes = dict(nodes)
        self.sent: list[Message] = []
        self._replies: dict[str, Message] = {}
        self._number = count(1)
        # A message bears its sender, which Flower keeps for the whole process.
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = LINK_NODE_ID

    def set_run(self, run: object) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> None:
        """There is none."""

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message in the deprecated way."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Ids of all nodes, those that have gone too."""
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Let the nodes answer; give each message its id, as Flower's grids do."""
        ids = []
        for message in messages:
            own = message.metadata.__dict__
            own["_message_id"] = f"message-{next(self._number)}"
            ids.append(message.metadata.message_id)
            self.sent.append(message)
            reply = self._answer(message)
            if reply is not None:
                self._replies[message.metadata.message_id] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand out the replies to these messages, each once."""
        return [self._replies.pop(one) for one in message_ids if one in self._replies]

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002 - nobody is waited for
    ) -> Iterable[Message]:
        """Push and pull in one."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message | None:
        node = self.nodes[message.metadata.dst_node_id]
        if node is not None:
            return node(message)
        reply = Message(Error(NODE_UNAVAILABLE, "Node Unavailable"), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = LINK_NODE_ID
        return reply
