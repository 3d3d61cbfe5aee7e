"""Hold the planner's rule against trainings: what is kept of the gain, by signal to noise.

Usage: python benchmarks/planner_rule.py [--repeats 3] [--plot kept.png]

Trains a linear head on phantoms' embeddings with and without noise, over patients, sizes and
epsilons, each with the best of a few learning rates (chosen on the test patients for both, so
neither is favoured), and prints S of `evenhand.privacy.planner` beside the share of the gain
in accuracy over guessing that the noise leaves.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch

from evenhand.privacy.accounting import Mechanism, default_delta, noise_for
from evenhand.privacy.planner import USEFUL
from evenhand_audit.attack.people import TokenHead, embedded_patients, train_head

PATIENTS, SIZES, EPSILONS = (10, 30, 100, 300), (16, 64, 256), (1.0, 8.0)
RATE, STEPS = 0.3, 30
LEARNING_RATES = (0.3, 1.0, 3.0, 10.0)


def accuracy(patients: int, size: int, mechanism: Mechanism, *, private: bool, seed: int) -> float:
    """Best accuracy over learning rates, on 200 patients who were not trained on."""
    people = embedded_patients(patients, size=size, seed=seed, label_noise=0.1)
    tests = embedded_patients(200, size=size, seed=1000 + seed, label_noise=0.0)
    embeddings = torch.cat([each.embeddings for each in tests])
    labels = torch.cat([each.labels for each in tests])
    found = []
    for rate in LEARNING_RATES:
        head = TokenHead(size)
        train_head(head, people, mechanism, learning_rate=rate, private=private)
        with torch.no_grad():
            found.append(float(((head(embeddings) > 0) == (labels > 0.5)).float().mean()))
    return max(found)


def main() -> None:
    """Train, and print one line a setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    rows = []
    print("| patients | numbers | epsilon | S | kept (mean of repeats) |\n|---|---|---|---|---|")
    for patients, size in itertools.product(PATIENTS, SIZES):
        quiet = Mechanism(RATE, 1.0, STEPS)
        gains = [
            accuracy(patients, size, quiet, private=False, seed=seed) - 0.5
            for seed in range(asked.repeats)
        ]
        for epsilon in EPSILONS:
            noise = noise_for(epsilon, default_delta(patients), RATE, STEPS)
            mechanism = Mechanism(RATE, noise, STEPS)
            kept = float(np.mean([
                (accuracy(patients, size, mechanism, private=True, seed=seed) - 0.5) / gains[seed]
                for seed in range(asked.repeats)
            ]))  # fmt: skip
            signal = STEPS**0.5 * RATE * patients / (noise * (size + 1) ** 0.5)
            rows.append((signal, kept))
            print(f"| {patients} | {size + 1} | {epsilon:g} | {signal:.2f} | {kept:.0%} |",
                  flush=True)  # fmt: skip
    if asked.plot is not None:
        draw(rows, asked.plot)


def draw(rows: list[tuple[float, float]], path: Path) -> None:
    """Kept against signal to noise, with the rule as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    signals = np.geomspace(0.05, 300, 200)
    axes.plot(signals, (signals / USEFUL) ** 2 / (1 + (signals / USEFUL) ** 2), label="rule")
    axes.plot(*zip(*rows, strict=True), "o", label="phantoms")
    axes.set_xscale("log")
    axes.set_xlabel("signal to noise S")
    axes.set_ylabel("kept of the gain")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
