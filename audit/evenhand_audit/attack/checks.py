"""Does the code do what the accountant was told? Checks that a site can run by itself.

The accountant prices a mechanism on paper: every patient drawn by an own coin, clipped as a
whole, Gaussian noise on every number, fresh each time, and everything charged to one ledger.
A bug in any of these leaves epsilon on paper as it is and the patient unprotected. Each check
below looks for one of them, from outside.

Statistical checks raise a false alarm about a correct step at most once in a million runs
(`FALSE_ALARM`, shared out among the tests that a check makes).
"""

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from evenhand.errors import BudgetError, PrivacyError
from evenhand.privacy.accounting import Mechanism
from evenhand.privacy.step import PrivateStep
from evenhand_audit.attack.probes import Person, Probe, draws, equal_seeds

__all__ = [
    "FALSE_ALARM",
    "Check",
    "SpendingBook",
    "check_clipping",
    "check_fresh_noise",
    "check_noise",
    "check_runs_compose",
    "check_sampling",
    "coin_fault",
    "noise_fault",
]

FALSE_ALARM = 1e-6
"""Chance that a statistical check fails a correct step."""

ROUNDING = 1e-6
"""Relative room for floating point where a check is exact."""


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it passed, and why, for a data officer."""

    name: str
    passed: bool
    finding: str

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


class SpendingBook(Protocol):
    """What a run writes its costs to."""

    def charge(self, mechanism: Mechanism, purpose: str) -> Any:
        """Book a cost, or refuse it with a BudgetError."""

    def spent_epsilon(self) -> float:
        """All that was spent so far."""


def check_noise(
    step_type: type[PrivateStep] = PrivateStep, *, rounds: int = 250, sigma: float = 1.3
) -> Check:
    """Noise of the promised size is on every tensor, also when nobody was drawn."""
    name = "noise on every tensor"
    clip = 0.7
    somebody = [Person(_directions(2))]
    quiet = Probe(step_type, noise_multiplier=0.0, clip_norm=clip).release(somebody)
    tests = 2 * (len(Probe.parts()) + 1)
    for who, people, known in (
        ("nobody drawn", [], torch.zeros(Probe.size(), dtype=torch.float64)),
        ("somebody drawn", somebody, quiet),
    ):
        probe = Probe(step_type, noise_multiplier=sigma, clip_norm=clip)
        noise = torch.stack([probe.release(people) for _ in range(rounds)]) - known
        scaled = (noise / (sigma * clip)).numpy()
        for number, part in enumerate(Probe.parts(), start=1):
            fault = noise_fault(scaled[:, part].ravel(), chance=FALSE_ALARM / tests)
            if fault:
                where = f"Tensor {number} of {len(Probe.parts())}, {who}: "
                return Check(name, False, where + fault)
        if stats.kstest(scaled.ravel()[:20_000], "norm").pvalue < FALSE_ALARM / tests:
            return Check(name, False, f"The noise is not Gaussian ({who}).")
    return Check(
        name, True, f"Gaussian noise of the promised size on {len(Probe.parts())} of "
        f"{len(Probe.parts())} tensors, with and without anybody drawn.",
    )  # fmt: skip


def check_clipping(step_type: type[PrivateStep] = PrivateStep) -> Check:
    """One patient moves the sum by the clipping norm at most, however many slices."""
    name = "clipping by patient"
    clip, slices = 0.7, 8
    one = _directions(1)
    cases = {
        "one long slice": Person(1e3 * one),
        "eight equal slices": Person(1e3 * one.expand(slices, -1)),
        "eight different slices": Person(1e3 * _directions(slices)),
        "a slice that moves all tensors": Person(torch.full_like(one, 50.0)),
    }
    quiet = Probe(step_type, noise_multiplier=0.0, clip_norm=clip)
    for what, person in cases.items():
        far = float(quiet.release([person]).norm()) / clip
        if far > 1 + ROUNDING:
            return Check(name, False, f"A patient with {what} counts {far:.1f} times.")
    alone = quiet.release([cases["one long slice"]])
    both = quiet.release([cases["one long slice"], cases["eight different slices"]])
    other = quiet.release([cases["eight different slices"]])
    if float((both - alone - other).norm()) > ROUNDING * clip:
        return Check(name, False, "What one patient adds depends on who else was drawn.")
    broken = Person(torch.full_like(one, math.nan))
    if not bool(quiet.release([broken, cases["one long slice"]]).isfinite().all()):
        return Check(name, False, "A patient whose gradient is not a number shows in the sum.")
    try:
        quiet.release([Person(one.expand(slices + 1, -1))])
    except PrivacyError:
        pass
    else:
        return Check(name, False, "A patient can give more slices than the bound.")
    # Once more with noise: a step could clip rightly only where no noise is asked for.
    sigma, rounds = 0.5, 60
    noisy = Probe(step_type, noise_multiplier=sigma, clip_norm=clip)
    for what, person in cases.items():
        along = person.pulls.mean(0) / person.pulls.mean(0).norm()
        mean = np.mean([float(noisy.release([person]) @ along) for _ in range(rounds)]) / clip
        if mean > 1 + _far(FALSE_ALARM / len(cases)) * sigma / rounds**0.5:
            return Check(name, False, f"With noise, a patient with {what} counts {mean:.1f} times.")
    return Check(
        name, True, "No patient, with however many slices, moves the sum by more than the "
        "clipping norm, and what one adds does not depend on the others.",
    )  # fmt: skip


def check_fresh_noise(step_type: type[PrivateStep] = PrivateStep, *, steps: int = 4) -> Check:
    """Noise never repeats, within a round or between rounds, whatever seeds are set."""
    name = "fresh noise"
    with equal_seeds() as seed:
        rounds: list[Tensor] = []
        for _ in range(2):
            seed()
            probe = Probe(step_type, noise_multiplier=1.0)
            rounds += [probe.release([]) for _ in range(steps)]
    noise = torch.stack(rounds)
    likeness = torch.corrcoef(noise).numpy()
    pairs = [(a, b) for a in range(len(noise)) for b in range(a)]
    far = math.tanh(_far(FALSE_ALARM / len(pairs)) / (Probe.size() - 3) ** 0.5)
    for a, b in pairs:
        if abs(likeness[a, b]) > far or torch.equal(noise[a], noise[b]):
            where = "of one round" if a // steps == b // steps else "of two rounds"
            return Check(
                name, False, f"Two steps {where} have the same noise (correlation "
                f"{likeness[a, b]:.2f}): subtracted, they show the patients.",
            )  # fmt: skip
    return Check(
        name, True, f"{2 * steps} steps of two rounds, with all seeds set alike, have noise that "
        "is not alike.",
    )  # fmt: skip


def check_sampling(
    step_type: type[PrivateStep] = PrivateStep, *, steps: int = 300, patients: int = 8
) -> Check:
    """Every patient is drawn by an own coin, as the accountant takes for granted."""
    name = "sampling by coin"
    rate = 0.3
    repeated = steps // 3
    with equal_seeds() as seed:
        seed()
        table = draws(step_type, patients=patients, rate=rate, steps=steps)
        fault = coin_fault(table, rate, chance=FALSE_ALARM / 2)
        if fault:
            return Check(name, False, fault)
        seed()
        again = draws(step_type, patients=patients, rate=rate, steps=repeated)
    alike = float(((table[:repeated] - rate) * (again - rate)).sum())
    alike /= rate * (1 - rate) * math.sqrt(repeated * patients)
    if abs(alike) > _far(FALSE_ALARM / 2):
        return Check(name, False, "Who is drawn can be foretold from a seed.")
    return Check(
        name, True, f"{patients} patients over {steps} steps: drawn at the agreed rate, each by "
        "itself, step by step anew, whatever seeds are set.",
    )  # fmt: skip


def noise_fault(scaled: NDArray[np.float64], *, chance: float = FALSE_ALARM) -> str:
    """What is wrong with noise that should be standard normal; empty where nothing is seen.

    Args:
        scaled: noise over its promised deviation.
        chance: of a false alarm.
    """
    size = scaled.size
    spread = float(np.sqrt(np.mean(scaled**2)))
    if _two_sided(stats.chi2(size), float((scaled**2).sum())) < chance / 2:
        return f"the noise has {spread:.2f} times the promised size."
    if abs(scaled.mean()) * size**0.5 > _far(chance / 2):
        return "the noise is not centred."
    return ""


def coin_fault(table: NDArray[np.bool_], rate: float, *, chance: float = FALSE_ALARM) -> str:
    """How draws differ from one coin a patient and step; empty where nothing is seen.

    Args:
        table: (steps, patients), who was drawn.
        rate: the agreed chance.
        chance: of a false alarm.
    """
    steps, patients = table.shape
    limit = _far(chance / (patients + 2))
    unit = (table - rate) / math.sqrt(rate * (1 - rate))
    if np.abs(unit.sum(axis=0)).max() > limit * steps**0.5:
        return "Some patients are drawn more or less often than the rate says."
    variance = patients * rate * (1 - rate)
    excess = (1 - 6 * rate * (1 - rate)) / variance
    spread = float(table.sum(axis=1).var(ddof=1)) / variance
    if abs(spread - 1) > limit * math.sqrt(2 / (steps - 1) + excess / steps):
        return (
            f"The number of patients a step varies {spread:.2f} times as much as with one coin a "
            "patient: the accountant's epsilon is for another way of drawing."
        )
    after = float((unit[1:] * unit[:-1]).sum()) / math.sqrt((steps - 1) * patients)
    if abs(after) > limit:
        return "Who was drawn in one step tells who is drawn in the next."
    return ""


def check_runs_compose(begin: Callable[[Path], SpendingBook]) -> Check:
    """Two runs over the same patients share one ledger.

    Args:
        begin: opens the spending book of one and the same hospital and cohort as a run in
            that folder would.
    """
    name = "runs add up"
    mechanism = Mechanism(0.5, 2.0, 4)
    with tempfile.TemporaryDirectory() as folder:
        first = begin(Path(folder) / "first-run")
        first.charge(mechanism, "check")
        before = first.spent_epsilon()
        second = begin(Path(folder) / "second-run")
        found = second.spent_epsilon()
        if found < before * (1 - ROUNDING):
            return Check(
                name, False, f"A second run over the same patients sees {found:.2f} of the "
                f"{before:.2f} that the first one spent.",
            )  # fmt: skip
        try:
            second.charge(mechanism, "check")
        except BudgetError:
            return Check(name, True, "A second run over the same patients is refused when the "
                         "first has used the budget.")  # fmt: skip
        together = second.spent_epsilon()
    if together <= before * (1 + ROUNDING):
        return Check(name, False, "The second run's cost is not added to the first one's.")
    return Check(
        name, True, f"A second run over the same patients begins where the first one ended: "
        f"{before:.2f}, then {together:.2f}.",
    )  # fmt: skip


def _directions(count: int) -> Tensor:
    """Unit vectors at right angles, the same ones always, each over all tensors."""
    generator = torch.Generator().manual_seed(count)
    start = torch.randn(Probe.size(), count, generator=generator, dtype=torch.float64)
    directions: Tensor = torch.linalg.qr(start)[0].T.contiguous()
    return directions


def _two_sided(law: Any, value: float) -> float:
    return 2 * float(min(law.cdf(value), law.sf(value)))


def _far(chance: float) -> float:
    """How many standard deviations off a normal number is with this chance, either way."""
    return float(stats.norm.isf(chance / 2))
