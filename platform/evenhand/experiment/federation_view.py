"""What a coordinator sees of its federation, as plain records: for the terminal and for the page.

`evenhand_federated` fills them (entry point `evenhand.views`), whoever shows them reads them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["FederationView", "MemberView", "RoundView", "StudyView"]


@dataclass(frozen=True)
class MemberView:
    """A hospital that was admitted; `key` is the name of its node's key."""

    hospital: str
    admitted_at: str
    key: str


@dataclass(frozen=True)
class RoundView:
    """One round that was tried.

    Attributes:
        number: from 1.
        seconds: from the first message to the last answer.
        answered: hospitals, by name.
        missing: why, by hospital.
        losses: the last loss, of hospitals that tell it.
        epsilon: spent by the study so far, of hospitals that tell it.
        bytes_sent: by all hospitals together.
        bytes_received: by all of them.
    """

    number: int
    seconds: float
    answered: tuple[str, ...]
    missing: Mapping[str, str]
    losses: Mapping[str, float]
    epsilon: Mapping[str, float]
    bytes_sent: int
    bytes_received: int


@dataclass(frozen=True)
class StudyView:
    """A study that was submitted.

    Attributes:
        name: in the study's file.
        digest: its hash.
        status: running, waiting, stopped, failed, finished.
        done: finished rounds.
        rounds: in all.
        tried: every round that was run, again ones too.
        reason: of what went wrong last; empty: nothing did.
        seconds_left: by the mean of rounds so far; None: it does not run, or no round is done.
        adapter: where it is, once it is there.
    """

    name: str
    digest: str
    status: str
    done: int
    rounds: int
    tried: tuple[RoundView, ...]
    reason: str = ""
    seconds_left: float | None = None
    adapter: str = ""


@dataclass(frozen=True)
class FederationView:
    """All of it; `damaged` says what could not be read."""

    members: tuple[MemberView, ...]
    studies: tuple[StudyView, ...]
    damaged: tuple[str, ...] = ()
