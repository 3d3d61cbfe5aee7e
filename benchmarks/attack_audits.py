"""Twenty one-run audits at each of three true epsilons: the promise must never be exceeded.

Usage: python benchmarks/attack_audits.py [--runs 20] [--canaries 400]

Every audit is of the real private step, with fresh noise and fresh coins. All bounds are to
hold together with 95%, so each one is made at 1 - 0.05 / (number of audits); bounds at 95%
each are printed beside, of which one in twenty may exceed the truth.
"""

import argparse

import numpy as np

from evenhand.privacy.accounting import Mechanism, noise_for
from evenhand_audit.attack.bounds import epsilon_lower_bound
from evenhand_audit.attack.canaries import AUDIT_DELTA, audit_in_one_run

EPSILONS = (1.0, 4.0, 10.0)
RATE, STEPS = 0.5, 10


def main() -> None:
    """Audit, and print one line an epsilon."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--canaries", type=int, default=400)
    asked = parser.parse_args()
    together = 1 - 0.05 / (asked.runs * len(EPSILONS))
    print("| true epsilon | guesses | right (mean) | median bound at 95% | largest at 95% |"
          f" largest at {together:.4%} | above the truth |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for epsilon in EPSILONS:
        noise = noise_for(epsilon, AUDIT_DELTA, RATE, STEPS)
        mechanism = Mechanism(RATE, noise, STEPS)
        audits = [
            audit_in_one_run(mechanism, canaries=asked.canaries, patients=10, confidence=together)
            for _ in range(asked.runs)
        ]
        single = [
            epsilon_lower_bound(
                audit.correct, guesses=audit.guesses, canaries=audit.canaries,
                delta=audit.delta, confidence=0.95,
            )
            for audit in audits
        ]  # fmt: skip
        sure = [audit.epsilon_proven for audit in audits]
        above = sum(bound > epsilon for bound in sure)
        right = np.mean([audit.correct / audit.guesses for audit in audits])
        print(f"| {epsilon:g} | {audits[0].guesses} | {right:.1%} | {np.median(single):.2f} | "
              f"{max(single):.2f} | {max(sure):.2f} | {above} of {asked.runs} "
              f"({sum(b > epsilon for b in single)} at 95% each) |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
