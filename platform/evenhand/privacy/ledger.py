"""What one hospital has spent of its patients' privacy, on disk and append-only.

The ledger lies with the hospital, outside Flower, whose state ends with a run, and outside
run folders, so that two runs over the same patients compose. A charge is on disk before the
release that it pays for leaves; a round that fails afterwards stays charged. A charge that
would exceed the grant is refused. What is spent is what the worst patient has spent: a charge
applies to the patients in its cohort.

Kinds of entries: `ledger` (whose it is, the first one), `grant`, `cohort`, `charge`,
`release` (numbers that left and may be told again at no cost), `clock` (that the clock was
set back, and that somebody knows).
"""

import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from evenhand.errors import BudgetError, LedgerError, PrivacyError
from evenhand.privacy.accounting import (
    ACCOUNTANT,
    UNIT,
    Mechanism,
    epsilon_of,
    rdp_epsilon_of,
)
from evenhand.privacy.chain import Entry, Head, Receipt, chain_faults, head_faults, seal
from evenhand.privacy.cohort import Cohort
from evenhand.privacy.keys import HospitalKey, fingerprint_of
from evenhand.privacy.ledger_file import LedgerFile, LedgerWriter
from evenhand.privacy.ledger_state import Charge, Grant, LedgerState

__all__ = ["Charge", "Grant", "Ledger", "LedgerState", "Receipt", "Spending"]

_FORMAT = 1
_ROUNDING = 1e-6
"""Room for floating point when the last charge uses up the grant exactly."""
_CLOCK_SLACK = timedelta(minutes=5)
"""How far a clock may be corrected backwards, as time servers do, without anybody's word."""


@dataclass(frozen=True)
class Spending:
    """What was spent, in words that can stand in a report; `steps` are the worst patient's."""

    hospital: str
    epsilon: float
    delta: float
    granted: float
    steps: int
    unit: str = UNIT
    accountant: str = ACCOUNTANT.upper()


class Ledger:
    """The ledger of one hospital.

    Args:
        path: SQLite file; made if it does not exist.
        hospital: whose patients are protected.
        key: of this hospital; None: the one in the ledger's folder, made if need be.
        at_most: epsilon that the site policy allows whatever was granted; None: no limit.
        synthetic: there is no person behind these patients; said in the ledger itself.

    Raises:
        LedgerError: the ledger is another hospital's, of another key, or damaged.
    """

    def __init__(
        self,
        path: Path,
        hospital: str,
        *,
        key: HospitalKey | None = None,
        at_most: float | None = None,
        synthetic: bool = False,
    ) -> None:
        self.path = path
        self.hospital = hospital
        self._file = LedgerFile(path)
        self._at_most = math.inf if at_most is None else at_most
        self._synthetic = synthetic
        self._given_key = key
        if not path.exists():
            with self._writing():
                pass

    @cached_property
    def key(self) -> HospitalKey:
        """The hospital's key, which signs here.

        Raises:
            LedgerError: there is a ledger, but not its key any more.
        """
        make = not self._file.path.exists()
        return self._given_key or HospitalKey.open(self.path.parent, make=make)

    def grant(self, epsilon: float, delta: float, *, by: str = "", reason: str = "") -> None:
        """Set what may be spent in all. A grant equal to the present one changes nothing.

        Args:
            epsilon: for each patient, over everything in this ledger together.
            delta: the same for all; may become smaller, never larger.
            by: who grants; whether that person may is the site policy's business.
            reason: free text for whoever reads the ledger later.

        Raises:
            PrivacyError: the figures make no sense, or delta is larger than before.
        """
        if not 0 < epsilon < math.inf or not 0 < delta < 1:
            raise PrivacyError(
                f"Hospital {self.hospital}: a grant needs a finite epsilon above 0 and delta "
                f"between 0 and 1; got {epsilon} and {delta}."
            )
        with self._writing() as writer:
            present = LedgerState.of(writer.entries).grant
            if present is not None and (present.epsilon, present.delta) == (epsilon, delta):
                return
            if present is not None and delta > present.delta:
                raise PrivacyError(
                    f"Hospital {self.hospital}: the ledger's delta is {present.delta:g}; "
                    f"{delta:g} came in. It can become smaller, never larger: what is spent "
                    "would look cheaper than it was."
                )
            body = {"epsilon": epsilon, "delta": delta, "by": by, "reason": reason}
            self._append(writer, "grant", body)

    def charge(
        self,
        mechanism: Mechanism,
        purpose: str,
        *,
        study: str = "",
        cohort: Cohort | None = None,
        release: str = "training",
        trust: str = "local",
    ) -> Receipt:
        """Write a charge to disk, or refuse it.

        Args:
            mechanism: what is run on the cohort.
            purpose: what it is for, in words.
            study: what it belongs to; see `spent`.
            cohort: whose data go in; None counts for every patient.
            release: kind of what will leave.
            trust: who is trusted with what, in words; the mechanism is what others see.

        Raises:
            BudgetError: the grant would be exceeded; nothing is written.
            PrivacyError: nothing was granted.
            LedgerError: the ledger is damaged, or the clock went backwards.
        """
        with self._writing() as writer:
            state = LedgerState.of(writer.entries)
            digest = None if cohort is None else cohort.digest
            wanted = Charge(study, purpose, release, digest, mechanism, trust)
            self._refuse_beyond(state, wanted, cohort)
            if cohort is not None and digest not in state.cohorts:
                self._append(writer, "cohort", {"digest": digest, "members": cohort.members})
            body = {
                "study": study,
                "purpose": purpose,
                "release": release,
                "cohort": digest,
                "sampling_rate": mechanism.sampling_rate,
                "noise_multiplier": mechanism.noise_multiplier,
                "steps": mechanism.steps,
                "trust": trust,
            }
            entry = self._append(writer, "charge", body)
        return Receipt(entry.position, entry.at, entry.hash)

    def record_release(self, question: Mapping[str, object], values: Sequence[float]) -> None:
        """Keep numbers that were charged for, so that the same question costs nothing again."""
        with self._writing() as writer:
            body = {"question": dict(question), "values": list(values)}
            self._append(writer, "release", body)

    def affords(self, mechanism: Mechanism, cohort: Cohort | None = None) -> None:
        """Check that a charge would be admitted now; writes nothing.

        Raises:
            BudgetError: it would not.
            PrivacyError: nothing was granted.
        """
        digest = None if cohort is None else cohort.digest
        self._refuse_beyond(self.state(), Charge("", "", "", digest, mechanism), cohort)

    def accept_clock(self, by: str) -> None:
        """Write down that the clock was set back and somebody knows; time goes on from now."""
        with self._writing() as writer:
            self._append(writer, "clock", {"by": by}, at=_now())

    def state(self) -> LedgerState:
        """Grants, cohorts and charges as they stand.

        Raises:
            LedgerError: the ledger is damaged.
        """
        head = self._file.head()  # first: what is appended meanwhile must not seem to be missing
        entries = self._file.entries()
        self._check(entries, head)
        return LedgerState.of(entries)

    def spent(self, study: str | None = None) -> Spending | None:
        """What is spent so far; None where nothing was granted.

        Args:
            study: count only what belongs to it; None: everything.
        """
        state = self.state()
        if state.grant is None:
            return None
        delta = state.grant.delta
        epsilon, steps = _worst(state.loads(study), delta)
        return Spending(self.hospital, epsilon, delta, state.grant.epsilon, steps)

    def _refuse_beyond(self, state: LedgerState, wanted: Charge, cohort: Cohort | None) -> None:
        if state.grant is None:
            raise PrivacyError(
                f"Hospital {self.hospital} has granted no privacy budget; nothing is trained. "
                f"Grant one: evenhand ledger grant {self.hospital} --epsilon E --delta D"
            )
        limit = min(state.grant.epsilon, self._at_most)
        for load in state.with_charge(wanted, cohort).loads():
            if _fits(load, limit, state.grant.delta):
                continue
            epsilon, _ = _worst([load], state.grant.delta)
            raise BudgetError(
                f"Hospital {self.hospital} has granted epsilon {limit:g}; this step would "
                f"bring it to {epsilon:.3f}, counting all that these patients were used for "
                f"before (evenhand ledger show {self.hospital}). Grant more, or stop here."
            )

    @contextmanager
    def _writing(self) -> Iterator[LedgerWriter]:
        """One transaction on a ledger that has been found whole; a new one is begun."""
        key = self.key  # before SQLite makes the file, so that it is known whether it is new
        with self._file.writing() as writer:
            self._check(writer.entries, self._file.head())
            if not writer.entries:
                self._begin(writer, key)
            yield writer

    def _begin(self, writer: LedgerWriter, key: HospitalKey) -> None:
        body = {
            "hospital": self.hospital,
            "ledger": secrets.token_hex(16),
            "public_key": key.public,
            "unit": UNIT,
            "synthetic": self._synthetic,
            "format": _FORMAT,
        }
        self._append(writer, "ledger", body)

    def _append(
        self,
        writer: LedgerWriter,
        kind: str,
        body: Mapping[str, object],
        at: datetime | None = None,
    ) -> Entry:
        last = writer.entries[-1] if writer.entries else None
        if at is None:
            at, behind = self._time_after(last)
            body = {**body, "clock_behind_s": behind} if behind else body
        entry = seal(last, at.isoformat(timespec="milliseconds"), kind, body, self.key)
        writer.append(entry)
        writer.head = Head.of(entry, self.key)
        return entry

    def _time_after(self, last: Entry | None) -> tuple[datetime, float]:
        """The time of the next entry, never before the last one, and by how much that lies."""
        now = _now()
        if last is None:
            return now, 0.0
        before = datetime.fromisoformat(last.at)
        if before - now > _CLOCK_SLACK:
            raise LedgerError(
                f"Hospital {self.hospital}: this machine's clock says {now:%Y-%m-%d %H:%M}, but "
                f"the ledger's last entry is of {before:%Y-%m-%d %H:%M} (UTC). Nothing is "
                "charged. Set the clock; if it was ahead before, say so: "
                f"evenhand ledger grant {self.hospital} --accept-clock"
            )
        return max(now, before), round(max(0.0, (before - now).total_seconds()), 3)

    def _check(self, entries: Sequence[Entry], head: Head | None) -> None:
        """Trust nothing that the chain, the key and the head do not vouch for."""
        public = self.key.public
        if entries and entries[0].right_hash() == entries[0].hash:
            first = LedgerState.of(entries[:1])
            if first.hospital != self.hospital:
                raise LedgerError(
                    f"'{self.path}' is the ledger of hospital {first.hospital}, "
                    f"not of {self.hospital}."
                )
            if first.public_key != public:
                raise LedgerError(
                    f"'{self.path}' belongs to the key {fingerprint_of(first.public_key)}; the "
                    f"key beside it is {fingerprint_of(public)}. Restore the right one."
                )
        faults = [*chain_faults(entries, public, all_signatures=False)]
        faults += head_faults(entries, head, public)
        if faults:
            raise LedgerError(
                f"The ledger of hospital {self.hospital} is damaged ({faults[0]}) Nothing is "
                f"charged. See all of it: evenhand ledger verify {self.hospital}; then restore "
                "the ledger and its head from a copy."
            )


def _fits(load: Sequence[Mechanism], limit: float, delta: float) -> bool:
    """Whether charges stay within a limit, by the quick bound or else by the close one.

    Both are upper bounds of the true cost, so the smaller one may decide. NaN fits nothing.
    """
    if rdp_epsilon_of(load, delta) <= limit:
        return True
    return epsilon_of(load, delta) <= limit + _ROUNDING


def _worst(loads: Sequence[Sequence[Mechanism]], delta: float) -> tuple[float, int]:
    """Largest epsilon of several, and its steps; PRV only where it can still be the largest."""
    worst, steps = 0.0, 0
    bounds = sorted(
        ((rdp_epsilon_of(load, delta), n) for n, load in enumerate(loads)), reverse=True
    )
    for bound, n in bounds:
        if bound <= worst:
            break
        epsilon = epsilon_of(loads[n], delta)
        if epsilon > worst:
            worst, steps = epsilon, sum(one.steps for one in loads[n])
    return worst, steps


def _now() -> datetime:
    return datetime.now(UTC)
