"""Epsilons of random schedules by Google's `dp-accounting`, as JSON: what ours is held to.

Usage: python benchmarks/accountant_reference.py [--schedules 200] [--seed 0] > FILE

Runs where `dp-accounting` 0.6 is installed, which may be an environment of its own: it wants
older `attrs` than other tools here. It imports nothing of ours. `accountant_agreement.py`
compares; `tests/unit/dp_accounting_epsilons.json` is its output for the test.
"""

import argparse
import json
import sys
from importlib.metadata import version

import numpy as np
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant

DELTAS = (1e-3, 1e-4, 1e-5, 1e-6)


def main() -> None:
    """Draw schedules as hospitals might run them, and price each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    source = np.random.default_rng(asked.seed)
    rows = []
    for _ in range(asked.schedules):
        rate = float(np.exp(source.uniform(np.log(0.01), 0)))
        noise = float(np.exp(source.uniform(np.log(0.7), np.log(8))))
        steps = int(np.exp(source.uniform(0, np.log(500))))
        delta = float(source.choice(DELTAS))
        accountant = PLDAccountant()
        step = PoissonSampledDpEvent(rate, GaussianDpEvent(noise))
        accountant.compose(SelfComposedDpEvent(step, steps))
        epsilon = float(accountant.get_epsilon(delta))
        rows.append(
            {"rate": rate, "noise": noise, "steps": steps, "delta": delta, "epsilon": epsilon}
        )
    source_of = f"dp-accounting {version('dp-accounting')}, PLDAccountant, add or remove one"
    lines = ",\n".join(json.dumps(row) for row in rows)
    text = json.dumps({"by": source_of, "seed": asked.seed})
    sys.stdout.write(f'{text[:-1]}, "schedules": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
