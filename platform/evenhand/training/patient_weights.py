"""How often each patient is drawn: weights from a table of `evenhand mitigate weights`.

Not for private training: the accountant counts on every patient being drawn with one probability.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from evenhand.errors import DataError

__all__ = ["epoch_order", "read_patient_weights"]


def read_patient_weights(path: Path | None, patients: Sequence[str]) -> Tensor | None:
    """Weight of each patient, (patients,); None where no table is asked for.

    Args:
        path: CSV with the columns `patient` and `weight`; rows of other patients are passed over.
        patients: ids, in the order of training.

    Raises:
        DataError: the table is missing or damaged, or has no weight above 0 for a patient.
    """
    if path is None:
        return None
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype={"patient": str})
        weights = dict(zip(table["patient"], table["weight"].astype(float), strict=True))
    except FileNotFoundError:
        raise DataError(f"There is no table of weights '{path}'. Correct the path.") from None
    except (OSError, ValueError, KeyError):
        raise DataError(
            f"'{path.name}' is no table of weights. It wants the columns patient and weight."
        ) from None
    if len(weights) < len(table):
        raise DataError(f"'{path.name}' gives some patient two weights; keep one.")
    found = torch.tensor([weights.get(each, 0.0) for each in patients], dtype=torch.float64)
    wrong = int((~(found.isfinite() & (found > 0))).sum())
    if wrong:
        raise DataError(
            f"'{path.name}' has no weight above 0 for {wrong} of {len(patients)} training "
            "patients. Weigh all of them; a patient who is to be left out is left out of the cases."
        )
    return found


def epoch_order(count: int, weights: Tensor | None, generator: torch.Generator) -> Tensor:
    """Positions of the patients of one epoch, (count,).

    Without weights everybody once, in random order; with them drawn with replacement, each draw
    in proportion to the weights.
    """
    if weights is None:
        return torch.randperm(count, generator=generator)
    return torch.multinomial(weights, count, replacement=True, generator=generator)
