"""What shares do under patient-level privacy, to the planted bias of mitigation_phantom.py.

    python benchmarks/mitigation_private.py [--epsilon 8] [--noises 10] [--test 200]

The same phantoms, of which F are a fifth of 100 training patients, and a logistic model of voxels
that is trained by `PrivateStep`: 60 steps, half of the patients drawn in each, clipped gradients,
noise for epsilon at delta 0.001. Groups are counted with noise of one patient, losses come from
validation phantoms. A patient's Dice is the mean over trainings with fresh noise, so a change is
that of the method and not of one draw. "Counted alike" is the control: shares of 1, other noise.
"""

import argparse
import time
from collections.abc import Mapping

import numpy as np
import torch
from mitigation_phantom import (
    SEED,
    VOXELS,
    Phantom,
    cohort,
    cohorts,
    header,
    line,
    trial_of,
)
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch.nn.functional import binary_cross_entropy_with_logits

from evenhand.privacy.accounting import noise_for
from evenhand.privacy.step import PrivateStep
from evenhand_audit.mitigate.private import group_shares
from evenhand_audit.mitigate.thresholds import COMMON

DELTA, RATE, STEPS, CLIP, LEARNING_RATE = 1e-3, 0.5, 60, 0.5, 2.0


class Trainer:
    """A logistic model of voxels under privacy."""

    def __init__(self, people: list[Phantom], epsilon: float) -> None:
        self._people = people
        self._noise = noise_for(epsilon, DELTA, RATE, STEPS)
        # Scaling is public here: it comes from phantoms of its own.
        own = cohort(20, 0.5, np.random.default_rng(1))
        self._powers = PolynomialFeatures(2, include_bias=False)
        voxels = np.concatenate([each.features for each in own])
        self._scale = StandardScaler().fit(self._powers.fit_transform(voxels))
        rng = np.random.default_rng(SEED)
        self._drawn = [self._voxels(each, rng) for each in people]

    def ready(self, features: np.ndarray) -> torch.Tensor:
        """Voxels as the model takes them, with a one behind."""
        scaled = self._scale.transform(self._powers.transform(features))
        return torch.tensor(np.column_stack([scaled, np.ones(len(scaled))]))

    def dice(self, shares: Mapping[str, float], noises: int, test: list[Phantom]) -> np.ndarray:
        """Mean Dice of each test phantom over trainings with fresh noise."""
        voxels = [self.ready(each.features) for each in test]
        found = np.zeros(len(test))
        for _ in range(noises):
            weight = self._trained(shares)
            for place, (each, mine) in enumerate(zip(test, voxels, strict=True)):
                marked = (torch.sigmoid(mine @ weight) >= COMMON).numpy()
                both = int((marked & each.tumour).sum())
                found[place] += 2.0 * both / (int(marked.sum()) + int(each.tumour.sum()))
        return found / noises

    def _voxels(
        self, each: Phantom, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Some voxels of both kinds, what they are, and how many each stands for."""
        rows, kinds, counts = [], [], []
        for of in (True, False):
            where = np.flatnonzero(each.tumour == of)
            picked = rng.choice(where, min(VOXELS // 2, len(where)), replace=False)
            rows.append(each.features[picked])
            kinds.append(np.full(len(picked), float(of)))
            counts.append(np.full(len(picked), len(where) / len(picked)))
        weights = torch.tensor(np.concatenate(counts))
        kind = torch.tensor(np.concatenate(kinds))
        return self.ready(np.concatenate(rows)), kind, weights / weights.sum()

    def _trained(self, shares: Mapping[str, float]) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.zeros(self._drawn[0][0].shape[1], dtype=torch.float64))
        step = PrivateStep(
            [weight],
            torch.optim.SGD([weight], lr=LEARNING_RATE),
            noise_multiplier=self._noise,
            clip_norm=CLIP,
            expected_patients=RATE * len(self._people),
            share=lambda number: shares[self._people[number].sex],
        )

        def loss(number: int) -> torch.Tensor:
            features, kind, weights = self._drawn[number]
            each = binary_cross_entropy_with_logits(features @ weight, kind, reduction="none")
            return (each * weights).sum() * 10

        for _ in range(STEPS):
            step.sampled(
                range(len(self._people)),
                rate=RATE,
                slices_at_most=1,
                draw=lambda number, _: number,
                loss=loss,
                count=lambda _: 1,
            )
        return weight.detach()


def main() -> None:
    """Print one line a method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--noises", type=int, default=10)
    parser.add_argument("--test", type=int, default=200)
    asked = parser.parse_args()
    started = time.perf_counter()
    rng = np.random.default_rng(SEED)
    train, validation, test = cohorts(asked.test, rng)
    sexes = [each.sex for each in test]
    trainer = Trainer(train, asked.epsilon)
    alike = {"F": 1.0, "M": 1.0}
    before = trainer.dice(alike, asked.noises, test)
    print(f"epsilon {asked.epsilon:g}, {asked.noises} noises, {len(test)} test phantoms")
    print(header(before, sexes), flush=True)
    served = trainer.dice(alike, asked.noises, validation)
    of = np.array([each.sex for each in validation])
    losses = {sex: float(1 - served[of == sex].mean()) for sex in ("F", "M")}
    counts = {
        sex: float(round(sum(each.sex == sex for each in train) + rng.normal())) for sex in alike
    }
    methods = group_shares(counts, losses=losses, step=3.0, gamma=1.0, largest=5.0)
    for method, shares in {"counted alike": alike, **methods}.items():
        after = trainer.dice(shares, asked.noises, test)
        told = ", ".join(f"{sex} {share:.2f}" for sex, share in shares.items())
        print(line(f"`{method}`: {told}", trial_of(before, after, sexes)), flush=True)
    print(f"\nseed {SEED} (noise is fresh), {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
