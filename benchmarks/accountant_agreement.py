"""Hold our accountant against Google's `dp-accounting` on random schedules.

Usage: python benchmarks/accountant_agreement.py [--schedules 200] [--seed 0]

Prints one line a schedule that differs by more than 1%, and a summary. Ours is an upper bound
whose numerical error is at most 0.01 of epsilon, so a small epsilon may differ by more than 1%
and still by at most 0.01.
"""

import argparse
import time

import numpy as np
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant

from evenhand.privacy.accounting import Mechanism, epsilon_of

ERROR = 0.01
"""What our accountant allows itself, absolute; see Opacus' PRVAccountant.get_epsilon."""

DELTAS = (1e-3, 1e-4, 1e-5, 1e-6)


def schedules(count: int, seed: int) -> list[tuple[Mechanism, float]]:
    """Random (rate, noise, steps) with a delta, as hospitals might run them."""
    source = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        rate = float(np.exp(source.uniform(np.log(0.01), 0)))
        noise = float(np.exp(source.uniform(np.log(0.7), np.log(8))))
        steps = int(np.exp(source.uniform(0, np.log(500))))
        found.append((Mechanism(rate, noise, steps), float(source.choice(DELTAS))))
    return found


def theirs(mechanism: Mechanism, delta: float) -> float:
    """Epsilon by privacy loss distributions, for adding or removing one patient."""
    step = PoissonSampledDpEvent(
        mechanism.sampling_rate, GaussianDpEvent(mechanism.noise_multiplier)
    )
    accountant = PLDAccountant()
    accountant.compose(SelfComposedDpEvent(step, mechanism.steps))
    return float(accountant.get_epsilon(delta))


def agree(ours: float, other: float) -> bool:
    """Within 1%, or within the error that ours allows itself."""
    return abs(ours - other) <= max(0.01 * other, ERROR)


def main() -> None:
    """Compare, and say where they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    relative, outside, seconds = [], 0, [0.0, 0.0]
    for mechanism, delta in schedules(asked.schedules, asked.seed):
        started = time.perf_counter()
        ours = epsilon_of([mechanism], delta)
        between = time.perf_counter()
        other = theirs(mechanism, delta)
        seconds[0] += between - started
        seconds[1] += time.perf_counter() - between
        relative.append((ours - other) / other)
        outside += not agree(ours, other)
        if abs(relative[-1]) > 0.01:
            print(f"{mechanism} delta {delta:g}: ours {ours:.4f}, theirs {other:.4f}", flush=True)
    size = np.abs(relative)
    print(
        f"{len(size)} schedules: {np.mean(size <= 0.01):.1%} within 1%, {outside} outside both 1% "
        f"and {ERROR}; median {np.median(size):.4%}, largest {size.max():.2%}; ours below theirs "
        f"by at most {-min(0.0, *relative):.4%}. "
        f"Seconds: ours {seconds[0]:.0f}, theirs {seconds[1]:.0f}."
    )


if __name__ == "__main__":
    main()
