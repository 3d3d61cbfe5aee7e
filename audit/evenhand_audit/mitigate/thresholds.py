"""One threshold of the probability for each group instead of one for everybody.

Thresholds are chosen by mean Dice on a grid. What they would do for new patients is estimated by
cross-fitting: each fifth of the patients is judged at thresholds that the other four fifths chose.
A threshold chosen and judged on the same patients would look better than it is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evenhand.errors import DataError, UsageError
from evenhand.ingest.mask_files import read_masks
from evenhand_audit.intake_config import MaskSource
from evenhand_audit.resampling import generator_for
from evenhand_audit.scoring import Progress, find_case_files, probability_of

__all__ = ["COMMON", "GRID", "Sweep", "chosen", "cross_fitted", "sweep_masks"]

GRID = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds that are tried."""

COMMON = 0.5
"""The threshold for everybody that is compared with."""

FOLDS = 5

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sweep:
    """Dice of every patient at every threshold."""

    patients: tuple[str, ...]
    dice: Floats
    """(patients, thresholds); a patient's cases are averaged."""


def sweep_masks(source: MaskSource, model: str, progress: Progress | None = None) -> Sweep:
    """Score a model's probabilities at every threshold of the grid.

    Raises:
        DataError: files are missing, damaged or on different grids.
        UsageError: the model has no probabilities.
    """
    if model not in source.probabilities:
        known = ", ".join(source.probabilities) or "no model"
        raise UsageError(
            f"Model '{model}' has no probabilities under [masks.probabilities]; there are those of "
            f"{known}."
        )
    cases = find_case_files(source)
    rows = []
    for done, case in enumerate(cases, start=1):
        name = f"{case.case}: {case.reference.name}"
        reference = read_masks(case.reference, source.labels, name=name)
        probability = probability_of(case, model, reference)
        if probability is None:
            raise DataError(f"Case '{case.case}' has no probabilities of '{model}'. Restore them.")
        (mask,) = reference.masks.values()
        rows.append((case.patient, *_dice_at(probability, mask)))
        if progress is not None:
            progress(done, len(cases))
    frame = pd.DataFrame(rows).groupby(0, sort=True).mean()
    return Sweep(tuple(str(each) for each in frame.index), frame.to_numpy(dtype=np.float64))


def _dice_at(probability: NDArray[np.float32], mask: NDArray[np.bool_]) -> Iterator[float]:
    """Dice at every threshold, from two histograms instead of nineteen masks."""
    edges = np.array([-np.inf, *GRID, np.inf])
    every = np.histogram(probability, edges)[0]
    inside = np.histogram(probability[mask], edges)[0]
    above, both = every[::-1].cumsum()[::-1][1:], inside[::-1].cumsum()[::-1][1:]
    size = int(mask.sum())
    for marked, hit in zip(above, both, strict=True):
        yield 1.0 if marked + size == 0 else 2.0 * float(hit) / float(marked + size)


def chosen(dice: Floats, groups: Sequence[str], minimum: int) -> dict[str, float]:
    """Best threshold of each group; of groups under the minimum the common one.

    Args:
        dice: (patients, thresholds).
        groups: one a patient.
        minimum: patients that a threshold must be chosen on.
    """
    labels = np.array(groups, dtype=object)
    return {
        group: _best(dice[labels == group]) if (labels == group).sum() >= minimum else COMMON
        for group in sorted(set(groups))
    }


def _best(dice: Floats) -> float:
    """Threshold of the highest mean; of equal ones the nearest to the common one."""
    means = dice.mean(axis=0)
    ties = [each for each, mean in zip(GRID, means, strict=True) if mean >= means.max() - 1e-12]
    return min(ties, key=lambda each: abs(each - COMMON))


def cross_fitted(dice: Floats, groups: Sequence[str], minimum: int, seed: int) -> Floats:
    """Dice of each patient at the threshold that other patients chose for the group, (patients,).

    Arguments as in `chosen`; `seed` deals patients out to the parts.
    """
    labels = np.array(groups, dtype=object)
    rng = generator_for(seed, "thresholds")
    part = np.empty(len(labels), dtype=int)
    for group in sorted(set(groups)):
        mine = np.flatnonzero(labels == group)
        part[mine] = rng.permutation(np.arange(len(mine)) % FOLDS)
    out = np.empty(len(labels))
    for fold in range(FOLDS):
        here = part == fold
        best = chosen(dice[~here], list(labels[~here]), minimum)
        columns = [GRID.index(best.get(group, COMMON)) for group in labels[here]]
        out[here] = dice[here][np.arange(here.sum()), columns]
    return out
