"""How much noise a promise needs, and whether anything can be learned through it.

The noise comes from the accountant. The expectation comes from a rule that is derived here
and compared with what was measured; it says whether an update can be seen through the noise,
never what Dice will come out.

**Signal to noise of a run.** A step releases the mean of clipped gradients, each C long at
most. Its noise has length sigma C sqrt(d) / (q N) over d trained numbers, for N patients of
whom a share q is drawn. If all patients pulled the same way, the mean would be C long. Over T
steps pulls add up as T and noise as sqrt(T), so

    S = sqrt(T) q N / (sigma sqrt(d)).

The clipping norm cancels. For a fixed epsilon sigma grows as q sqrt(T), so S hardly depends on
how many steps there are or how many patients each takes: it is patients, times a number that
epsilon gives, over sqrt(d).

**What is kept.** Patients agree only in part: let their mean pull be a C long, 0 < a < 1. The
model then moves along signal and noise in the ratio r = a S, and where the loss is a bowl that
is equally steep in all directions, the best step length keeps r^2 / (1 + r^2) of what training
without noise gains.

**How far to trust it.** `USEFUL` is where half is kept by the one point measured on patients: a
head of 257 numbers on 73 patients of five hospitals at epsilon 8 kept 0.13 of 0.24 Dice, at
S = 8.1 (so a = 0.13). Real losses are no such bowls, agreement falls while a model learns, and
clipping, learning rates and tasks differ: take a factor of `UNCERTAINTY` either way. Below S = 1
less than half is kept even if all patients agree. `benchmarks/planner_rule.py` measures it on
phantoms.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from evenhand.errors import PrivacyError
from evenhand.privacy.accounting import Mechanism, default_delta, noise_for, rdp_epsilon_of
from evenhand.privacy.secure_sum import noise_share

__all__ = [
    "UNCERTAINTY",
    "USEFUL",
    "Curve",
    "Expectation",
    "Plan",
    "PlanRequest",
    "Row",
    "Trust",
    "TrustPlan",
    "Verdict",
    "make_plan",
]

Trust = Literal["local", "secure-sum"]
"""`local`: each hospital noises alone. `secure-sum`: one noise on the sum over all hospitals."""

Verdict = Literal["no useful model", "doubtful", "a useful model can come out"]

USEFUL = 8.0
"""Signal to noise at which half of the gain was kept on patients; see the module's text."""

UNCERTAINTY = 3.0
"""Factor by which `USEFUL`, and so the patients that are needed, may be off either way."""

EPSILONS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Promises that the table compares."""

_GRID = tuple(float(x) for x in np.geomspace(0.35, 200, 16))
"""Noises that are priced; between them costs are interpolated, off by under 1%."""
_MOST_PATIENTS = 10_000_000


@dataclass(frozen=True)
class PlanRequest:
    """What is planned for.

    Attributes:
        patients: training patients of each hospital that takes part.
        epsilon: of the promise to each patient.
        delta: of the promise; None: 1 / (10 N), N the patients over whom noise is shared.
        sampling_rate: chance of each patient to be drawn in a step.
        steps: private steps over all rounds.
        parameters: numbers that are trained.
        clip_norm: longest gradient of a patient; only scales what is shown.
        minimum_cohort: fewer patients over whom noise is shared are refused.
        tolerated: hospitals that may drop out or collude under secure-sum; what the others add
            to make up for them, and for one that looks, is too much noise while all are there.
    """

    patients: tuple[int, ...]
    epsilon: float
    parameters: int
    sampling_rate: float = 0.5
    steps: int = 40
    delta: float | None = None
    clip_norm: float = 1.0
    minimum_cohort: int = 2
    tolerated: int = 0

    def __post_init__(self) -> None:
        """Refuse what no plan can be made for."""
        if not self.patients or min(self.patients) < 1:
            raise PrivacyError("A plan needs at least one patient at every hospital.")
        if not 0 < self.epsilon < math.inf:
            raise PrivacyError(
                f"Epsilon must be above 0 and finite; got {self.epsilon:g}. Usual promises lie "
                "between 1 and 8."
            )
        if not 0 < self.sampling_rate <= 1:
            raise PrivacyError(
                "The sampling rate is a probability, above 0 and at most 1; got "
                f"{self.sampling_rate:g}."
            )
        if self.steps < 1 or self.parameters < 1:
            raise PrivacyError(
                "A plan needs at least one step and one trained number; got "
                f"{self.steps} and {self.parameters}."
            )
        if not 0 < self.clip_norm < math.inf:
            raise PrivacyError(
                f"The clipping norm must be above 0 and finite; got {self.clip_norm:g}."
            )
        smallest = min(self.patients)
        if smallest < self.minimum_cohort:
            raise PrivacyError(
                f"A hospital has {smallest} patients; at least {self.minimum_cohort} are asked "
                "for. Leave it out, or wait until it has more."
            )
        total = sum(self.patients)  # training under secure-sum refuses by all of them
        if self.delta is not None and not 0 < self.delta < 1 / total:
            raise PrivacyError(
                f"Delta must be above 0 and below 1/N, here 1/{total} = {1 / total:.2g} over all "
                f"hospitals; got {self.delta:g}. From 1/N on, giving one patient away would be "
                "allowed."
            )


@dataclass(frozen=True)
class Expectation:
    """What can be seen through the noise.

    Attributes:
        noise_per_step: length of the noise on a step's mean update, in gradient units.
        signal_to_noise: of the whole run, S above.
        kept: share of the gain that is kept, by the rule.
        verdict: in words.
        patients_needed: over all hospitals, for a useful model; may be off by `UNCERTAINTY`.
    """

    noise_per_step: float
    signal_to_noise: float
    kept: float
    verdict: Verdict
    patients_needed: int


@dataclass(frozen=True)
class TrustPlan:
    """The plan under one trust model.

    Attributes:
        trust: which.
        deltas: one for each noise.
        noise_multipliers: of each hospital (`local`), or one of all together (`secure-sum`).
        expectation: of the model that all hospitals make together.
    """

    trust: Trust
    deltas: tuple[float, ...]
    noise_multipliers: tuple[float, ...]
    expectation: Expectation


@dataclass(frozen=True)
class Row:
    """One promise of the table: noise multiplier and signal to noise by trust model.

    Attributes:
        epsilon: of the promise.
        local: largest noise multiplier of a hospital, and signal to noise.
        secure_sum: noise multiplier of the sum, and signal to noise.
    """

    epsilon: float
    local: tuple[float, float]
    secure_sum: tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """Signal to noise against patients of all hospitals together, which keep their shares."""

    patients: tuple[int, ...]
    local: tuple[float, ...]
    secure_sum: tuple[float, ...]


@dataclass(frozen=True)
class Plan:
    """A request, its answer under both trust models, and what other choices would give.

    Attributes:
        request: what was asked.
        local: each hospital noises alone.
        secure_sum: one noise over the union.
        table: other promises; noise within about 5% (a quicker accountant, set right at the
            promise that was asked for).
        curve: other numbers of patients; likewise.
    """

    request: PlanRequest
    local: TrustPlan
    secure_sum: TrustPlan
    table: tuple[Row, ...]
    curve: Curve


def make_plan(request: PlanRequest) -> Plan:
    """Noise by the accountant, and what to expect, under both trust models.

    Raises:
        PrivacyError: no noise keeps the promise.
    """
    total = sum(request.patients)
    exact = {n: _exact(request, n) for n in {*request.patients, total}}
    quick = _Quick(request, right=exact[total] / _quick_noise(request, request.epsilon, total))
    local = tuple(exact[n] for n in request.patients)
    _surplus(request, "secure-sum")  # refuses what cannot be tolerated
    return Plan(
        request=request,
        local=_trust_plan("local", request, request.patients, local, quick),
        secure_sum=_trust_plan("secure-sum", request, (total,), (exact[total],), quick),
        table=tuple(_row(request, quick, epsilon) for epsilon in EPSILONS),
        curve=_curve(request, quick),
    )


def _exact(request: PlanRequest, patients: int) -> float:
    delta = _delta(request, patients)
    return noise_for(request.epsilon, delta, request.sampling_rate, request.steps)


def _delta(request: PlanRequest, patients: int) -> float:
    return default_delta(patients) if request.delta is None else request.delta


def _trust_plan(
    trust: Trust,
    request: PlanRequest,
    cohorts: Sequence[int],
    noises: tuple[float, ...],
    quick: "_Quick",
) -> TrustPlan:
    total = sum(request.patients)
    # Independent noises of one average add up so.
    together = math.hypot(*noises) * _surplus(request, trust)
    length = together * request.clip_norm * request.parameters**0.5
    signal = _signal_to_noise(request, total, together)
    expectation = Expectation(
        noise_per_step=length / (request.sampling_rate * total),
        signal_to_noise=signal,
        kept=_kept(signal),
        verdict=_verdict(signal),
        patients_needed=_needed(request, quick, trust),
    )
    return TrustPlan(trust, tuple(_delta(request, n) for n in cohorts), noises, expectation)


def _surplus(request: PlanRequest, trust: Trust) -> float:
    """How much larger the noise is than needed while nobody has dropped out."""
    hospitals = len(request.patients)
    if trust == "local" or hospitals == 1:  # one alone has nobody to share with
        return 1.0
    shared = noise_share(1.0, hospitals=hospitals, tolerated=request.tolerated)
    return shared.share * math.sqrt(hospitals)


def _signal_to_noise(request: PlanRequest, patients: float, noise: float) -> float:
    steps, rate = request.steps, request.sampling_rate
    return math.sqrt(steps) * rate * patients / (noise * math.sqrt(request.parameters))


def _kept(signal: float) -> float:
    seen = (signal / USEFUL) ** 2
    return seen / (1 + seen)


def _verdict(signal: float) -> Verdict:
    if signal < USEFUL / UNCERTAINTY:
        return "no useful model"
    return "doubtful" if signal < USEFUL else "a useful model can come out"


@dataclass(frozen=True)
class _Quick:
    """Signal to noise for other promises and cohorts, by a quicker accountant.

    Attributes:
        request: all that stays.
        right: what brings the quick accountant's noise to the close one's, at the request.
    """

    request: PlanRequest
    right: float

    def noise(self, epsilon: float, patients: int) -> float:
        return self.right * _quick_noise(self.request, epsilon, max(patients, 1))

    def noises(self, epsilon: float, total: int, trust: Trust) -> list[float]:
        if trust == "secure-sum":
            return [self.noise(epsilon, total)]
        own = sum(self.request.patients)
        return [self.noise(epsilon, round(total * n / own)) for n in self.request.patients]

    def signal(self, epsilon: float, total: int, trust: Trust) -> float:
        noise = math.hypot(*self.noises(epsilon, total, trust)) * _surplus(self.request, trust)
        return _signal_to_noise(self.request, total, noise)


def _row(request: PlanRequest, quick: _Quick, epsilon: float) -> Row:
    total = sum(request.patients)

    def both(trust: Trust) -> tuple[float, float]:
        noises = quick.noises(epsilon, total, trust)
        return max(noises), quick.signal(epsilon, total, trust)

    return Row(epsilon, both("local"), both("secure-sum"))


def _curve(request: PlanRequest, quick: _Quick) -> Curve:
    total = sum(request.patients)
    few = max(2 * len(request.patients), 4)
    counts = sorted({round(n) for n in np.geomspace(few, max(2000, 5 * total), 40)} | {total})
    signals: list[tuple[float, ...]] = [
        tuple(quick.signal(request.epsilon, n, trust) for n in counts)
        for trust in ("local", "secure-sum")
    ]
    return Curve(tuple(counts), *signals)


def _needed(request: PlanRequest, quick: _Quick, trust: Trust) -> int:
    """Fewest patients in all with a useful model; hospitals keep their shares."""
    low, high = len(request.patients), 2 * len(request.patients)
    while quick.signal(request.epsilon, high, trust) < USEFUL and high < _MOST_PATIENTS:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if quick.signal(request.epsilon, middle, trust) < USEFUL:
            low = middle
        else:
            high = middle
    return high


def _quick_noise(request: PlanRequest, epsilon: float, patients: int) -> float:
    delta = _delta(request, patients)
    if request.delta is None and patients == 1:
        delta = default_delta(2)
    return _interpolated(epsilon, delta, request.sampling_rate, request.steps)


@cache
def _interpolated(epsilon: float, delta: float, rate: float, steps: int) -> float:
    costs = np.log(_grid_epsilons(delta, rate, steps))
    order = np.argsort(costs)  # falls with noise; interpolation wants it to rise
    logs = np.log(np.asarray(_GRID))
    return float(np.exp(np.interp(math.log(epsilon), costs[order], logs[order])))


@cache
def _grid_epsilons(delta: float, rate: float, steps: int) -> tuple[float, ...]:
    return tuple(
        max(rdp_epsilon_of([Mechanism(rate, noise, steps)], delta), 1e-12) for noise in _GRID
    )
