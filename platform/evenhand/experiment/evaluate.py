"""Score one arm on the test patients: masks on disk, rows for the prediction table."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from evenhand.cases.nifti import write_nifti_whole
from evenhand.cases.records import UNKNOWN, Case
from evenhand.cases.store import CaseStore
from evenhand.config import ExperimentConfig
from evenhand.experiment.layout import ArmFolder, RunFolder
from evenhand.experiment.stages import stepper
from evenhand.metrics import score_case
from evenhand.model.adapted import AdaptedModel
from evenhand.model.embeddings import EmbeddingCache
from evenhand.predict import (
    OpenCase,
    Prediction,
    boxes_from_reference,
    predict_automatic,
    predict_boxes,
    predict_from_slice,
    predict_hinted_boxes,
    predict_labels,
    together,
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
    by_head: bool,
    bar: Progress,
) -> list[dict[str, object]]:
    """Predict and score every test case in each way of prompting.

    The masks of the first way are written for review. Boxes are made from the
    reference and jittered, the same for every arm: `box` has one on every slice with tumour,
    `slice` one box, the largest of them, from whose slice the mask is carried on.
    `by_head`: the prompt head answers boxes, not the mask decoder. Where parts of an adapter
    stay at hospitals, each hospital's cases are predicted with its own. Several labels are found
    without a prompt, and each has a row of its own.

    Returns:
        Rows of the prediction table.
    """
    tests = list(_test_cases(run, config, model))
    further = run.further_attributes(config)
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
            opened = OpenCase.of(model, store, cache, case)
            for prompt in prompts:
                if model.labels:
                    each = predict_labels(model, opened)
                    found = together(each)
                else:
                    boxes = _boxes(config, case, reference)
                    found = _predict(model, opened, prompt, boxes, by_head=by_head)
                    each = {"": found}
                if prompt == prompts[0]:
                    _write_proposal(run.arm(arm), case, found)
                for number, (label, own) in enumerate(each.items(), start=1):
                    mask = (reference == number).astype(np.uint8)
                    row = _row(config, case, further, prediction=own, reference=mask)
                    named = {"label": label} if label else {}
                    rows.append({"arm": arm, "prompt": prompt, **row, **named})
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


def _boxes(config: ExperimentConfig, case: Case, reference: NDArray[np.uint8]) -> Tensor:
    # A seed of its own for each case, so that the order of cases does not matter.
    seed = config.seed + int(case.mask_sha256[:8], 16) if case.mask_sha256 else config.seed
    return boxes_from_reference(reference, jitter=config.training.box_jitter, seed=seed)


def _predict(
    model: AdaptedModel, case: OpenCase, prompt: str, boxes: Tensor, *, by_head: bool
) -> Prediction:
    if prompt == "automatic":
        return predict_automatic(model, case)
    if prompt == "slice":
        if boxes.isnan().all():  # no tumour, so nobody draws a box
            return Prediction.from_logits(case.nothing(), threshold=0.5)
        sides = (boxes[:, 2:] - boxes[:, :2]).nan_to_num()
        z = int(sides.prod(1).argmax())  # where the tumour is widest
        return predict_from_slice(model, case, z=z, box=boxes[z])
    if by_head:
        return predict_hinted_boxes(model, case, boxes)
    return predict_boxes(model, case, boxes)


def _write_proposal(folder: ArmFolder, case: Case, prediction: Prediction) -> None:
    """Keep a mask for review, and before it the probabilities that it was cut from."""
    probability = np.rint(prediction.probability.astype(np.float32) * 255).astype(np.uint8)
    write_nifti_whole(folder.probability_path(case.case_id), probability, case.affine)
    write_nifti_whole(folder.mask_path(case.case_id), prediction.mask, case.affine)


def _row(
    config: ExperimentConfig,
    case: Case,
    further: tuple[str, ...],
    *,
    prediction: Prediction,
    reference: NDArray[np.uint8],
) -> dict[str, Any]:
    units = config.data.units
    spacing = case.affine if units == "mm" else (1.0, 1.0, 1.0)
    score = score_case(
        prediction.mask,
        reference,
        spacing=spacing,
        nsd_tolerance=config.audit.nsd_tolerance,
        probability=prediction.probability,
    )
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
        **{name: patient.extra.get(name, UNKNOWN) for name in further},
        "uncertainty": prediction.uncertainty,
        **score.as_row(),
    }
