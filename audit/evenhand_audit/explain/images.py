"""What images say about a case: how far the lesion stands out, and what made the picture.

Contrast is that of the reference against its surroundings, as phantoms are made by:
`evenhand.ingest.phantom.contrast_to_noise`.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from evenhand.experiment.layout import RunFolder
from evenhand.ingest.phantom import contrast_to_noise

__all__ = ["Looks", "by_patient", "contrast_of", "looks_of", "rank_correlation"]

SCANNER = ("manufacturer", "field_strength_t")
"""What is told of how a case was made, where it is known."""


@dataclass(frozen=True)
class Looks:
    """One case; contrast is not a number where there is no lesion or nothing around it."""

    contrast: float
    scanner: str
    """Empty where it is not known."""


def contrast_of(image: NDArray[np.float32], mask: NDArray[np.uint8]) -> float:
    """Contrast of the reference; not a number where nothing can be compared.

    Args:
        image: (i, j, k), slices along k; 0 is outside the body.
        mask: reference, (i, j, k).
    """
    lesion = mask > 0
    if not lesion.any() or lesion.all():
        return float("nan")
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an empty ring
        try:
            contrast = contrast_to_noise(image, lesion)
        except (ValueError, IndexError):
            return float("nan")
    return contrast if np.isfinite(contrast) else float("nan")


def looks_of(run: RunFolder, cases: Iterable[str]) -> dict[str, Looks]:
    """Look at the images of these cases of a run.

    Cases whose mask is not there are passed over.
    """
    wanted, found = set(cases), {}
    sequence = run.config().data.sequences[0]
    for home in run.hospitals():
        store = home.store()
        for case in store:
            if case.case_id not in wanted or case.mask_sha256 is None:
                continue
            volumes = store.volumes(case, (sequence,))
            assert volumes.mask is not None  # noqa: S101 - its hash is there
            scanner = " ".join(case.acquisition[key] for key in SCANNER if key in case.acquisition)
            contrast = contrast_of(volumes.images[sequence], volumes.mask)
            found[case.case_id] = Looks(contrast, scanner)
    return found


def by_patient(looks: dict[str, Looks], cases: pd.DataFrame) -> pd.DataFrame:
    """Mean contrast and scanner of each patient; index: patient."""
    rows = cases[["patient", "case"]].drop_duplicates()
    rows = rows[rows["case"].isin(list(looks))]
    frame = pd.DataFrame(
        {
            "patient": rows["patient"].to_numpy(),
            "contrast": [looks[each].contrast for each in rows["case"]],
            "scanner": [looks[each].scanner for each in rows["case"]],
        }
    )
    return frame.groupby("patient").agg({"contrast": "mean", "scanner": "first"})


def rank_correlation(values: NDArray[np.float64], dice: NDArray[np.float64]) -> tuple[float, int]:
    """Spearman's correlation with Dice, and how many patients have the value."""
    known = np.isfinite(values)
    if known.sum() < 3 or np.ptp(values[known]) == 0 or np.ptp(dice[known]) == 0:
        return float("nan"), int(known.sum())
    return float(stats.spearmanr(values[known], dice[known]).statistic), int(known.sum())
