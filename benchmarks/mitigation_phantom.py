"""What each way of mitigating does to a planted bias, and to mean Dice.

    python benchmarks/mitigation_phantom.py [--test 400]

Tumours of F have 0.6 of the contrast of the others', and F are a fifth of the training patients. A
logistic model of voxels (brightness at three scales and its squares) stands for a segmentation
model: it trains in seconds, sees no sex, and can trade one group for the other. Weights come from
the same tables as `evenhand mitigate weights`, losses and thresholds from validation phantoms, all
figures from fresh test phantoms, half of them F. What a large model does with the same weights is
another question.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from evenhand.ingest.phantom import TUMOUR_CONTRAST
from evenhand.ingest.phantom_anatomy import make_brain, picture, scanners
from evenhand_audit.mitigate.people import People
from evenhand_audit.mitigate.tables import weigh
from evenhand_audit.mitigate.thresholds import COMMON, GRID, chosen
from evenhand_audit.mitigate.verdict import Trial, judge_trial

SEED = 20261126
SHAPE = (48, 48, 6)
CONTRAST = 0.6
HOSPITALS = ("north", "east", "south", "west")
VOXELS = 600
"""Drawn from a training phantom, half of them tumour where there are enough."""


@dataclass(frozen=True)
class Phantom:
    """One patient."""

    sex: str
    hospital: str
    features: np.ndarray
    """(voxels of the brain, features)"""
    tumour: np.ndarray
    """(voxels of the brain,)"""


def main() -> None:
    """Print one line a method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--test", type=int, default=400)
    asked = parser.parse_args()
    started = time.perf_counter()
    train, validation, test = cohorts(asked.test, np.random.default_rng(SEED))
    sexes = [each.sex for each in test]
    plain = fitted(train, np.ones(len(train)))
    before = dice_of(plain, test)
    print(f"100 training phantoms (a fifth F), 100 for validation, {len(test)} for the test")
    print(header(before, sexes), flush=True)
    losses = losses_of(plain, validation)
    people = People(
        tuple(f"p{number}" for number in range(len(train))),
        tuple(each.sex for each in train),
        tuple(each.hospital for each in train),
        frozenset(),
    )
    tables = weigh(people, losses=losses, counts=None, step=3.0, gamma=1.0, largest=5.0)
    for method, weights in tables.weights.items():
        after = dice_of(fitted(train, weights), test)
        print(line(method, trial_of(before, after, sexes)), flush=True)
    sweep = np.array([dice_at(plain, each) for each in validation])
    best = chosen(sweep, [each.sex for each in validation], 10)
    every = np.array([dice_at(plain, each) for each in test])
    after = np.array([row[GRID.index(best[sex])] for row, sex in zip(every, sexes, strict=True)])
    print(line(f"thresholds {best}", trial_of(before, after, sexes)))
    print(f"\nseed {SEED}, {time.perf_counter() - started:.0f} s")


def cohorts(test: int, rng: np.random.Generator) -> tuple[list[Phantom], ...]:
    """Phantoms for training, a fifth of them F, and half F for validation and for the test."""
    return cohort(100, 0.2, rng), cohort(100, 0.5, rng), cohort(test, 0.5, rng)


def header(before: np.ndarray, sexes: list[str]) -> str:
    """The head of a table, with the row of those for whom nothing was done."""
    return (
        "| method | mean Dice | F | M | gap | change of the gap | verdict |\n"
        "|---|---|---|---|---|---|---|\n"
        + line("nothing", trial_of(before, before, sexes), first=True)
    )


def cohort(patients: int, share: float, rng: np.random.Generator) -> list[Phantom]:
    """Fresh phantoms, this share of them F; hospitals in turn, F twice as often in the first."""
    machines = scanners(4, 1.0, np.random.default_rng(SEED))
    people = []
    for number in range(patients):
        sex = "F" if number < share * patients else "M"
        where = 0 if sex == "F" and rng.random() < 0.25 else int(rng.integers(4))
        brain = make_brain(SHAPE, float(rng.uniform(0.012, 0.05)), rng)
        contrast = TUMOUR_CONTRAST * (CONTRAST if sex == "F" else 1.0)
        image = picture(brain, contrast, machines[where], rng)
        inside = image[brain.brain]
        image = (image - inside.mean()) / inside.std()
        blurred = [ndimage.gaussian_filter(image, (width, width, 0)) for width in (0.7, 1.5, 3.0)]
        features = np.stack([each[brain.brain] for each in blurred], axis=1)
        people.append(Phantom(sex, HOSPITALS[where], features, brain.mask[brain.brain] > 0))
    return people


def fitted(people: list[Phantom], weights: np.ndarray) -> Pipeline:
    """A logistic model; a voxel counts as often as its patient is drawn."""
    rng = np.random.default_rng(SEED)
    features, tumour, counts = [], [], []
    for each, weight in zip(people, weights, strict=True):
        for of in (True, False):
            where = np.flatnonzero(each.tumour == of)
            picked = rng.choice(where, min(VOXELS // 2, len(where)), replace=False)
            features.append(each.features[picked])
            tumour.append(np.full(len(picked), of))
            # A drawn voxel stands for all of its kind.
            counts.append(np.full(len(picked), weight * len(where) / len(picked)))
    model = make_pipeline(
        PolynomialFeatures(2), StandardScaler(), LogisticRegression(max_iter=300, C=100.0)
    )
    model.fit(
        np.concatenate(features),
        np.concatenate(tumour),
        logisticregression__sample_weight=np.concatenate(counts),
    )
    return model


def dice_at(model: Pipeline, each: Phantom) -> list[float]:
    """Dice at every threshold of the grid."""
    probability = model.predict_proba(each.features)[:, 1]
    size = int(each.tumour.sum())
    found = []
    for threshold in GRID:
        marked = probability >= threshold
        both = int((marked & each.tumour).sum())
        found.append(2.0 * both / (int(marked.sum()) + size))
    return found


def dice_of(model: Pipeline, people: list[Phantom]) -> np.ndarray:
    """Dice of each phantom at the common threshold."""
    return np.array([dice_at(model, each)[GRID.index(COMMON)] for each in people])


def losses_of(model: Pipeline, people: list[Phantom]) -> dict[str, float]:
    """Mean of 1 - Dice by sex."""
    dice, sexes = dice_of(model, people), np.array([each.sex for each in people])
    return {sex: float(1 - dice[sexes == sex].mean()) for sex in ("F", "M")}


def trial_of(before: np.ndarray, after: np.ndarray, sexes: list[str]) -> Trial:
    """The verdict, with a fixed seed."""
    return judge_trial(before, after, sexes, resamples=4000, rng=np.random.default_rng(SEED))


def line(method: str, trial: Trial, *, first: bool = False) -> str:
    """One row of the table."""
    gap, change = trial.gap_after, trial.gap_change
    cells = [method, *(f"{each.after.value:.3f}" for each in (trial.overall, *trial.groups))]
    cells.append(f"{gap.value:.3f} ({gap.low:.3f} to {gap.high:.3f})")
    moved = f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})"
    cells += ["", ""] if first else [moved, trial.verdict]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
