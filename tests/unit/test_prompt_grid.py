"""A round does not wait for the coordinator's next look, and no wait is endless."""

from itertools import count

import pytest
from flwr.app import Message, RecordDict

from evenhand_federated.prompt_grid import PromptGrid
from evenhand_federated.testing import FakeGrid
from federation_fakes import silent


class LateGrid(FakeGrid):
    """Answers of a node can be fetched from the look on that `late` names for it."""

    def __init__(self, nodes, late):
        super().__init__(nodes)
        self.late = late
        self.looks = 0

    def pull_messages(self, message_ids):
        """What has come by now."""
        self.looks += 1
        nodes = {one.metadata.message_id: one.metadata.dst_node_id for one in self.sent}
        here = [one for one in message_ids if self.late.get(nodes[one], 0) <= self.looks]
        return super().pull_messages(here)


def answer(message):
    """An empty answer."""
    return Message(RecordDict(), reply_to=message)


def ask(nodes, late, timeout):
    """Ask every node, and tell what came, how long was waited, and of which grid."""
    inner, waits = LateGrid(nodes, late), []
    now = count()
    grid = PromptGrid(inner, sleep=waits.append, clock=lambda: next(now))
    questions = [Message(RecordDict(), node, "query") for node in nodes]
    replies = list(grid.send_and_receive(questions, timeout=timeout))
    assert list(grid.get_node_ids()) == list(nodes), "all but the waiting is the inner grid's"
    return [one.metadata.src_node_id for one in replies], waits, inner


@pytest.mark.parametrize("timeout", [None, 100])
def test_waits_for_all(timeout):
    """Each question is sent once, each answer handed out once, soon after it came."""
    came, waits, inner = ask({7: answer, 8: answer}, {8: 4}, timeout)
    assert len(came) == 2
    assert len(inner.sent) == 2
    assert len(waits) == 3
    assert max(waits) < 0.5


def test_the_silent_are_not_waited_for_without_end():
    """What came until then counts."""
    came, waits, _ = ask({7: answer, 8: silent}, {}, 5)
    assert len(came) == 1
    assert len(waits) < 6


def test_nothing_asked_nothing_waited_for():
    """A round that asks nobody ends at once, though nothing limits it."""
    came, waits, inner = ask({}, {}, None)
    assert (came, waits, inner.looks) == ([], [], 0)


def test_answers_are_given_as_they_come():
    """What has come can be written down before the slowest hospital has answered."""
    inner = LateGrid({7: answer, 8: answer}, {8: 4})
    grid = PromptGrid(inner, sleep=lambda _: None)
    replies = grid.send_and_receive([Message(RecordDict(), node, "query") for node in inner.nodes])
    assert len(inner.sent) == 2, "sent whether anybody looks at the answers or not"
    next(iter(replies))
    assert inner.looks == 1
    assert len(list(replies)) == 1
