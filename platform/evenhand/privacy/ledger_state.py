"""What a ledger's entries say together: the grant, who was used, and for what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evenhand.privacy.accounting import Mechanism
from evenhand.privacy.chain import Entry
from evenhand.privacy.cohort import Cohort, Members, heaviest

__all__ = ["Charge", "Grant", "LedgerState"]


@dataclass(frozen=True)
class Grant:
    """The most that may be spent on each of this hospital's patients."""

    epsilon: float
    delta: float
    by: str = ""
    reason: str = ""
    at: str = ""


@dataclass(frozen=True)
class Charge:
    """What was run on whom; `cohort` is a digest, or None where it counts for everybody.

    `trust` says in words who must be trusted that the noise is there.
    """

    study: str
    purpose: str
    release: str
    cohort: str | None
    mechanism: Mechanism
    trust: str = "local"
    at: str = ""
    position: int = 0


@dataclass(frozen=True)
class LedgerState:
    """A ledger, read.

    Attributes:
        hospital: whose it is.
        synthetic: there is no person behind the patients.
        public_key: hex, which signs.
        grants: in order; the last one counts.
        charges: in order.
        cohorts: members by digest.
        releases: what was answered before: question and values.
    """

    hospital: str = ""
    synthetic: bool = False
    public_key: str = ""
    grants: tuple[Grant, ...] = ()
    charges: tuple[Charge, ...] = ()
    cohorts: Mapping[str, Members] = field(default_factory=dict)
    releases: tuple[tuple[dict[str, Any], tuple[float, ...]], ...] = ()

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> "LedgerState":
        """Read entries that have been checked."""
        first = entries[0].body() if entries else {}
        bodies = [(entry, entry.body()) for entry in entries[1:]]
        return cls(
            hospital=first.get("hospital", ""),
            synthetic=first.get("synthetic", False),
            public_key=first.get("public_key", ""),
            grants=tuple(_grant(entry, body) for entry, body in bodies if entry.kind == "grant"),
            charges=tuple(_charge(entry, body) for entry, body in bodies if entry.kind == "charge"),
            cohorts={
                body["digest"]: tuple(tuple(tags) for tags in body["members"])
                for entry, body in bodies
                if entry.kind == "cohort"
            },
            releases=tuple(
                (body["question"], tuple(body["values"]))
                for entry, body in bodies
                if entry.kind == "release"
            ),
        )

    @property
    def grant(self) -> Grant | None:
        """The grant that counts; None where nothing was granted."""
        return self.grants[-1] if self.grants else None

    def with_charge(self, charge: Charge, cohort: Cohort | None) -> "LedgerState":
        """As it would be after a charge."""
        cohorts = dict(self.cohorts)
        if cohort is not None:
            cohorts[cohort.digest] = cohort.members
        return replace(self, charges=(*self.charges, charge), cohorts=cohorts)

    def loads(self, study: str | None = None) -> list[list[Mechanism]]:
        """Charges of the heaviest patients, see `evenhand.privacy.cohort.heaviest`.

        Args:
            study: only what belongs to it; None: everything.
        """
        counted = [one for one in self.charges if study is None or one.study == study]
        return heaviest(self.cohorts, [(one.cohort, one.mechanism) for one in counted])


def _grant(entry: Entry, body: Mapping[str, Any]) -> Grant:
    return Grant(body["epsilon"], body["delta"], body["by"], body["reason"], entry.at)


def _charge(entry: Entry, body: Mapping[str, Any]) -> Charge:
    mechanism = Mechanism(body["sampling_rate"], body["noise_multiplier"], body["steps"])
    return Charge(
        body["study"],
        body["purpose"],
        body["release"],
        body["cohort"],
        mechanism,
        body.get("trust", "local"),  # entries of before there was a choice
        entry.at,
        entry.position,
    )
