"""Score one arm on the test patients: masks on disk, rows for the prediction table."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from evenhand.cases.nifti import write_nifti
from evenhand.cases.records import Case
from evenhand.cases.store import CaseStore
from evenhand.config import ExperimentConfig
from evenhand.experiment.layout import ArmFolder, RunFolder
from evenhand.experiment.stages import stepper
from evenhand.metrics import score_case
from evenhand.model.adapted import AdaptedModel
from evenhand.model.embeddings import EmbeddingCache
from evenhand.predict import (
    Prediction,
    boxes_from_reference,
    predict_automatic,
    predict_boxes,
)
from evenhand.training.moments import read_moments
from evenhand.training.personal import own_part

__all__ = ["evaluate_arm"]


def evaluate_arm(
    run: RunFolder,
    config: ExperimentConfig,
    arm: str,
    *,
    model: AdaptedModel,
    prompts: tuple[str, ...],
    bar: Progress,
) -> list[dict[str, object]]:
    """Predict and score every test case in each way of prompting.

    The masks of the first way are written for review. Boxes are made from the
    reference and jittered, the same for every arm. Where parts of an adapter stay at
    hospitals, each hospital's cases are predicted with its own.

    Returns:
        Rows of the prediction table.
    """
    tests = list(_test_cases(run, config, model))
    common = model.adapter_state()
    hospital = None
    rows: list[dict[str, object]] = []
    with stepper(bar, f"{arm}: test cases", len(tests) * len(prompts)) as task:
        for store, cache, case in tests:
            if case.patient.hospital != hospital:
                hospital = case.patient.hospital
                model.load_adapter({**common, **_own_part(run, config, arm, hospital)})
            reference = store.volumes(case, ()).mask
            if reference is None:  # training has refused such cases already
                continue
            for prompt in prompts:
                if prompt == "automatic":
                    prediction = predict_automatic(model, store, cache, case)
                else:
                    prediction = _with_boxes(config, model, cache, case, reference)
                if prompt == prompts[0]:
                    _write_mask(run.arm(arm), case, prediction)
                row = _row(config, case, mask=prediction.mask, reference=reference)
                rows.append({"arm": arm, "prompt": prompt, **row})
                bar.advance(task)
    model.load_adapter(common)
    return rows


def _own_part(
    run: RunFolder, config: ExperimentConfig, arm: str, hospital: str
) -> dict[str, Tensor]:
    """What a hospital has trained for itself in this arm; its cases are predicted with it."""
    home = run.hospital(hospital)
    rounds = home.rounds_kept(arm)
    if not config.federation.local_parts or not rounds:
        return {}
    return own_part(read_moments(home.moments_path(arm, rounds[-1])))


def _test_cases(
    run: RunFolder, config: ExperimentConfig, model: AdaptedModel
) -> Iterator[tuple[CaseStore, EmbeddingCache, Case]]:
    split = run.split()
    for home in run.hospitals():
        store = home.store()
        cache = home.cache(model, config.data.sequences[0])
        for case in store:
            if case.patient.patient_id in split.test[home.name]:
                yield store, cache, case


def _with_boxes(
    config: ExperimentConfig,
    model: AdaptedModel,
    cache: EmbeddingCache,
    case: Case,
    reference: NDArray[np.uint8],
) -> Prediction:
    # A seed of its own for each case, so that the order of cases does not matter.
    seed = config.seed + int(case.mask_sha256[:8], 16) if case.mask_sha256 else config.seed
    boxes = boxes_from_reference(reference, jitter=config.training.box_jitter, seed=seed)
    return predict_boxes(model, cache, case, boxes)


def _write_mask(folder: ArmFolder, case: Case, prediction: Prediction) -> None:
    path = folder.mask_path(case.case_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    try:
        write_nifti(draft, prediction.mask, case.affine)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _row(
    config: ExperimentConfig,
    case: Case,
    *,
    mask: NDArray[np.uint8],
    reference: NDArray[np.uint8],
) -> dict[str, Any]:
    units = config.data.units
    spacing = case.affine.spacing_mm if units == "mm" else (1.0, 1.0, 1.0)
    score = score_case(mask, reference, spacing=spacing, nsd_tolerance=config.audit.nsd_tolerance)
    patient = case.patient
    return {
        "case": case.case_id,
        "patient": patient.patient_id,
        "hospital": patient.hospital,
        "sex": patient.sex,
        "age_years": patient.age_years,
        "race": patient.race,
        "ethnicity": patient.ethnicity,
        "units": units,
        **score.as_row(),
    }
