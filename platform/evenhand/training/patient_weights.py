"""How often each patient is drawn: weights from a table of `evenhand mitigate weights`.

Private training draws every patient with one probability, as its accountant counts on. There a
table of shares, up to 1, says how much of a patient's clipped gradient counts.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from evenhand.errors import DataError

__all__ = ["epoch_order", "read_patient_shares", "read_patient_weights"]


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
    weights = _table(path, "weight")
    found = torch.tensor([weights.get(each, 0.0) for each in patients], dtype=torch.float64)
    wrong = int((~(found.isfinite() & (found > 0))).sum())
    if wrong:
        raise DataError(
            f"'{path.name}' has no weight above 0 for {wrong} of {len(patients)} training "
            "patients. Weigh all of them; a patient who is to be left out is left out of the cases."
        )
    return found


def read_patient_shares(path: Path | None, patients: Sequence[str]) -> dict[str, float]:
    """Share of each patient, by id; 1 for all where no table is asked for.

    Args:
        path: CSV with the columns `patient` and `share`; rows of other patients are passed over.
        patients: ids.

    Raises:
        DataError: the table is missing or damaged, or has no share from 0 to 1 for a patient.
    """
    if path is None:
        return dict.fromkeys(patients, 1.0)
    known = _table(path, "share")
    shares = {each: known.get(each, 0.0) for each in patients}
    wrong = sum(not 0 < share <= 1 for share in shares.values())
    if wrong:
        raise DataError(
            f"'{path.name}' has no share above 0 and at most 1 for {wrong} of {len(patients)} "
            "training patients. Write it with evenhand mitigate weights --private."
        )
    return shares


def _table(path: Path, column: str) -> dict[str, float]:
    """One number a patient."""
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype={"patient": str})
        found = dict(zip(table["patient"], table[column].astype(float), strict=True))
    except FileNotFoundError:
        raise DataError(f"There is no table of {column}s '{path}'. Correct the path.") from None
    except (OSError, ValueError, KeyError):
        raise DataError(
            f"'{path.name}' is no table of {column}s. It wants the columns patient and {column}."
        ) from None
    if len(found) < len(table):
        raise DataError(f"'{path.name}' gives some patient two {column}s; keep one.")
    return found


def epoch_order(count: int, weights: Tensor | None, generator: torch.Generator) -> Tensor:
    """Positions of the patients of one epoch, (count,).

    Without weights everybody once, in random order; with them drawn with replacement, each draw
    in proportion to the weights.
    """
    if weights is None:
        return torch.randperm(count, generator=generator)
    return torch.multinomial(weights, count, replacement=True, generator=generator)
