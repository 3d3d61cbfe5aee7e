"""The core finds the rooms that stand on it by what they announce."""

from importlib.metadata import EntryPoint

import pytest

from evenhand import plugins
from evenhand.errors import ResourceError


@pytest.fixture
def installed(monkeypatch):
    """Two rooms in a group, announced in the wrong order."""
    points = [EntryPoint(name, f"os.path:{name}", "evenhand.tests") for name in ("join", "exists")]

    def entry_points(group):
        return [point for point in points if point.group == group]

    monkeypatch.setattr(plugins, "entry_points", entry_points)


def test_announced_in_order_of_name(installed):
    """The order of commands does not depend on the order of installation."""
    assert [point.name for point in plugins.announced("evenhand.tests")] == ["exists", "join"]


def test_load(installed):
    """A room's object comes by name."""
    import os.path

    assert plugins.load("evenhand.tests", "join") is os.path.join


def test_unknown_name(installed):
    """The error names what was wanted, what is there, and the way out."""
    with pytest.raises(ResourceError, match=r"'split'.*installed: exists, join.*make install"):
        plugins.load("evenhand.tests", "split")


def test_empty_group(installed):
    """So where there is nothing at all."""
    with pytest.raises(ResourceError, match="installed: none"):
        plugins.load("evenhand.nothing", "join")


@pytest.mark.parametrize(
    ("group", "name"), [("evenhand.arms", "federated"), ("evenhand.reports", "audit")]
)
def test_the_house_is_complete(group, name):
    """What `evenhand run` asks for is announced and can be loaded."""
    assert callable(plugins.load(group, name))
