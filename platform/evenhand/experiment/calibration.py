"""The temperature of an arm, fitted to training patients that a training of its own left out.

The arm itself trains on all of them. A model that has seen a patient is too sure of that patient,
so the voxels that are counted are those of patients held out, and never those of test patients.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.progress import Progress

from evenhand.config import ExperimentConfig
from evenhand.experiment.layout import HospitalHome, RunFolder, build_model
from evenhand.experiment.stages import stepper, train_whole
from evenhand.metrics import fit_temperature, logit_counts
from evenhand.model.adapted import AdaptedModel
from evenhand.model.adapter_files import load_onto
from evenhand.predict import OpenCase, predict_automatic, predict_labels
from evenhand.training.data import load_patients

__all__ = ["held_out", "temperature_of"]


def held_out(patients: Iterable[str], share: float) -> frozenset[str]:
    """Who of a hospital's training patients is held out: the same each time, at least one.

    Nobody where there are fewer than two: one has to train.
    """
    ordered = sorted(
        patients, key=lambda name: hashlib.sha256(f"calibration/{name}".encode()).hexdigest()
    )
    count = max(1, round(share * len(ordered))) if len(ordered) > 1 else 0
    return frozenset(ordered[:count])


def temperature_of(
    run: RunFolder,
    config: ExperimentConfig,
    hospitals: Sequence[str],
    *,
    label: str,
    start: Path | None,
    bar: Progress,
) -> dict[str, float | int]:
    """Train without some of the training patients, and fit a temperature to what is found in them.

    Args:
        run: where the patients are.
        config: how is trained.
        hospitals: whose patients.
        label: of the progress.
        start: the adapter that training starts from; None: at random.
        bar: where progress is shown.

    Returns:
        `temperature`, and how many patients it was fitted to (`calibration_patients`); empty where
        nobody could be held out, or nothing was there to be found or was found.
    """
    train, sequence, share = run.split().train, config.data.sequences[0], config.training
    out = {name: held_out(train[name], share.calibration_share) for name in hospitals}
    model = build_model(config)
    if start is not None:
        load_onto(start, model)
    model.temperature = 1.0
    patients = []
    for name in hospitals:
        home = run.hospital(name)
        kept = set(train[name]) - out[name]
        patients += load_patients(home.store(), home.cache(model, sequence), kept, model)
    if not any(out.values()):
        return {}
    train_whole(model, patients, config, label=f"{label}, to calibrate", bar=bar)
    counts = np.zeros(1)
    with stepper(bar, f"{label}: held-out patients", len(hospitals)) as task:
        for name in hospitals:
            counts = counts + _counts(model, run.hospital(name), out[name], sequence)
            bar.advance(task)
    if not counts.any():
        return {}
    people = sum(map(len, out.values()))
    return {"temperature": fit_temperature(counts), "calibration_patients": people}


def _counts(
    model: AdaptedModel, home: HospitalHome, patients: frozenset[str], sequence: str
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Voxels of some patients of a hospital by logit, see `evenhand.metrics.logit_counts`."""
    store, cache = home.store(), home.cache(model, sequence)
    found = np.zeros(1)
    for case in store:
        if case.patient.patient_id not in patients:
            continue
        reference = store.volumes(case, ()).mask
        if reference is not None:
            opened = OpenCase.of(model, store, cache, case)
            each = predict_labels(model, opened).values() if model.labels else ()
            for number, own in enumerate(each or [predict_automatic(model, opened)], start=1):
                mask = (reference == number).astype(np.uint8)
                found = found + logit_counts(own.probability, mask)
    return found
