"""Score folders of masks, case by case, in several processes: a row a case, model and label."""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evenhand.errors import DataError
from evenhand.geometry import Affine
from evenhand.ingest.mask_files import (
    LabelMasks,
    on_one_grid,
    read_masks,
    read_probability,
)
from evenhand.metrics import score_case
from evenhand_audit.intake_config import MaskSource
from evenhand_audit.intake_patterns import find_cases, matches_of

__all__ = ["CaseFiles", "Progress", "find_case_files", "probability_of", "score_masks"]

Progress = Callable[[int, int], None]
"""Told how many cases are scored, and of how many."""

Row = dict[str, object]

MOST_ERRORS = 5
"""After so many cases that cannot be scored the rest is not tried."""


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case; a model without a mask is not in `models`."""

    case: str
    patient: str
    reference: Path
    models: Mapping[str, Path]
    probabilities: Mapping[str, Path]


def score_masks(
    source: MaskSource,
    nsd_tolerance: float,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Score every case of every model.

    Args:
        source: patterns of the files, labels and units.
        nsd_tolerance: in the source's units.
        workers: processes; None: one a core. With 1 everything runs in this process.
        progress: told after each case.

    Returns:
        Rows of a prediction table without attributes, in the order of cases, models and labels.

    Raises:
        DataError: files are missing, damaged or on different grids; up to five cases are named.
    """
    cases = find_case_files(source)
    workers = min(workers or os.cpu_count() or 1, len(cases))
    rows: dict[int, list[Row]] = {}
    errors: dict[int, str] = {}
    for done, (index, outcome) in enumerate(
        _outcomes(source, cases, nsd_tolerance, workers), start=1
    ):
        if isinstance(outcome, DataError):
            errors[index] = str(outcome)
            if len(errors) == MOST_ERRORS:
                break
        else:
            rows[index] = outcome
        if progress is not None:
            progress(done, len(cases))
    if errors:
        each = "\n".join(f"- {errors[index]}" for index in sorted(errors))
        more = "at least " if len(errors) == MOST_ERRORS else ""
        raise DataError(
            f"{more}{len(errors)} of {len(cases)} cases cannot be scored; nothing was "
            f"written:\n{each}"
        )
    return pd.DataFrame([row for index in sorted(rows) for row in rows[index]])


def find_case_files(source: MaskSource) -> list[CaseFiles]:
    """Find the reference of each case and what the models have for it, sorted by case.

    Raises:
        DataError: nothing matches, or a model lacks cases that it must have.
    """
    cases, lacking = [], dict[str, list[str]]()
    for (patient, case), reference in sorted(find_cases(source.reference).items()):
        models = _named(source.models, case, patient)
        if source.missing == "skip" and len(models) < len(source.models):
            continue
        for model in source.models:
            if model not in models:
                lacking.setdefault(model, []).append(case)
        probabilities = _named(source.probabilities, case, patient)
        cases.append(CaseFiles(case, patient, reference, models, probabilities))
    if not cases:
        raise DataError(
            "No case has a mask of every model. Correct the patterns under [masks.models]."
        )
    for model, missing in lacking.items():
        if len(missing) == len(cases):
            raise DataError(
                f"No file of model '{model}' matches '{source.models[model]}' for any of the "
                f"{len(cases)} cases. Correct the pattern."
            )
        if source.missing == "refuse":
            some = ", ".join(f"'{case}'" for case in missing[:3])
            raise DataError(
                f"Model '{model}' has no mask for {len(missing)} of {len(cases)} cases (such as "
                f'{some}). Restore them, count them as missed (masks.missing = "empty"), or leave '
                'them out (masks.missing = "skip").'
            )
    return cases


def _named(patterns: Mapping[str, str], case: str, patient: str) -> dict[str, Path]:
    found = {
        name: matches_of(pattern, case=case, patient=patient) for name, pattern in patterns.items()
    }
    return {name: path for name, path in found.items() if path is not None}


def _outcomes(
    source: MaskSource, cases: list[CaseFiles], nsd_tolerance: float, workers: int
) -> Iterator[tuple[int, list[Row] | DataError]]:
    if workers == 1:
        for index, case in enumerate(cases):
            yield index, _attempt(source, case, nsd_tolerance)
        return
    # Spawned, not forked: a fork of a process with threads (numpy's) may hang.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        waiting: dict[Future[list[Row] | DataError], int] = {
            pool.submit(_attempt, source, case, nsd_tolerance): index
            for index, case in enumerate(cases)
        }
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt(source: MaskSource, case: CaseFiles, nsd_tolerance: float) -> list[Row] | DataError:
    """Rows of a case, or what is wrong with it; errors travel as values between processes."""
    try:
        return list(_score(source, case, nsd_tolerance))
    except DataError as error:
        return error


def _score(source: MaskSource, case: CaseFiles, nsd_tolerance: float) -> Iterator[Row]:
    reference_name = f"{case.case}: {case.reference.name}"
    reference = read_masks(case.reference, source.labels, name=reference_name)
    for model in source.models:
        path = case.models.get(model)
        if path is None:
            here, predicted = reference, _nothing_like(reference)
        else:
            name = f"{case.case}: {model}: {path.name}"
            predicted = read_masks(path, source.labels, name=name)
            here, predicted = on_one_grid(reference, predicted, names=(reference_name, name))
        probability = probability_of(case, model, here)
        for label, mask in here.masks.items():
            score = score_case(
                predicted.masks[label],
                mask,
                spacing=_spacing(source, here, reference_name),
                nsd_tolerance=nsd_tolerance,
                probability=probability,
            )
            key: Row = {"arm": model, "prompt": source.prompt}
            key |= {"case": case.case, "patient": case.patient, "units": source.units}
            yield key | ({"label": label} if source.labels else {}) | score.as_row()


def _nothing_like(masks: LabelMasks) -> LabelMasks:
    nothing = {label: np.zeros_like(mask) for label, mask in masks.masks.items()}
    return LabelMasks(nothing, masks.affine, masks.sparse)


def probability_of(case: CaseFiles, model: str, masks: LabelMasks) -> NDArray[Any] | None:
    """Read a model's probabilities of a case, on the grid of the masks; None where it has none.

    Raises:
        DataError: the file is damaged or lies on another grid.
    """
    path = case.probabilities.get(model)
    if path is None:
        return None
    name = f"{case.case}: {model}: {path.name}"
    probability, affine = read_probability(path, name=name)
    same_place = (
        (affine is None) == (masks.affine is None)
        and probability.shape == masks.shape
        and (affine is None or masks.affine is None or affine.is_close(masks.affine))
    )
    if not same_place:
        raise DataError(
            f"'{name}' does not lie on the grid of the masks. Resample the probabilities onto it."
        )
    return probability


def _spacing(source: MaskSource, masks: LabelMasks, name: str) -> tuple[float, ...] | Affine:
    if source.units == "voxel":
        return (1.0,) * len(masks.shape)
    if masks.affine is not None:
        return masks.affine
    if source.pixel_mm is None:
        raise DataError(
            f"'{name}' is a picture, which does not say how large its pixels are. Give "
            'masks.pixel_mm, or measure in pixels: masks.units = "voxel".'
        )
    return source.pixel_mm
