"""How good is a setting of training, judged on training patients alone?

Three inner folds of the training patients of a run, stratified by hospital: two train, one
validates. Test patients are never read. Trains pooled, or federated as `evenhand run` does
but without Flower around it, in automatic mode, and prints the mean Dice per volume.

    evenhand run configs/lgg.toml --set 'arms=["box-zero-shot"]' --out runs/inner
    python benchmarks/inner_folds.py runs/inner --fold 0 --federated \
        --set federation.rounds=200 --set federation.local_epochs=2
"""

import argparse
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evenhand.cases.records import Case
from evenhand.config import ExperimentConfig
from evenhand.config_files import load_config
from evenhand.experiment.layout import HospitalHome, RunFolder, build_model
from evenhand.metrics import score_case
from evenhand.model.adapted import AdaptedModel
from evenhand.predict import OpenCase, predict_automatic
from evenhand.training.data import TrainingPatient, load_patients
from evenhand.training.loop import Schedule, train

FOLDS = 3


def main() -> None:
    """Train on two folds and print the figures of the third."""
    asked = _arguments()
    config = load_config(asked.config, asked.set)
    run = RunFolder(asked.run)
    model = build_model(config)
    sequence = config.data.sequences[0]
    patients: dict[str, list[TrainingPatient]] = {}
    judged: list[tuple[HospitalHome, Case]] = []
    for home in run.hospitals():
        inner = _fold(run.split().train[home.name], asked.fold)
        rest = [name for name in run.split().train[home.name] if name not in inner]
        patients[home.name] = load_patients(home.store(), home.cache(model, sequence), rest, model)
        judged += [(home, one) for one in home.store() if one.patient.patient_id in inner]
    started = time.monotonic()
    if asked.federated:
        _federated(model, patients, config)
    else:
        _pooled(model, patients, config)
    seconds = time.monotonic() - started
    dice = np.array(list(_dice(model, judged, sequence)))
    print(
        f"fold {asked.fold}, {'federated' if asked.federated else 'pooled'}: "
        f"{sum(map(len, patients.values()))} patients train, {len(dice)} validate, "
        f"mean Dice {dice.mean():.3f}, median {np.median(dice):.3f}, {seconds:.0f} s"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder with stores, split and embeddings")
    parser.add_argument("--config", type=Path, default=Path("configs/lgg.toml"))
    parser.add_argument("--set", action="append", default=[], help="as in evenhand run")
    parser.add_argument("--fold", type=int, choices=range(FOLDS), default=0)
    parser.add_argument("--federated", action="store_true")
    return parser.parse_args()


def _fold(names: tuple[str, ...], number: int) -> set[str]:
    in_order = sorted(names, key=lambda name: hashlib.sha256(f"inner/{name}".encode()).hexdigest())
    return set(in_order[number::FOLDS])


def _pooled(
    model: AdaptedModel, patients: dict[str, list[TrainingPatient]], config: ExperimentConfig
) -> None:
    everybody = [one for here in patients.values() for one in here]
    training = config.training
    schedule = Schedule(training.learning_rate)
    train(model, everybody, training, epochs=training.epochs, schedule=schedule, seed=config.seed)


def _federated(
    model: AdaptedModel, patients: dict[str, list[TrainingPatient]], config: ExperimentConfig
) -> None:
    """Average hospitals' adapters by their patients; each optimiser remembers its own past."""
    federation, total = config.federation, sum(map(len, patients.values()))
    training = config.training.model_copy(
        update={
            "patients_per_step": federation.patients_per_step or config.training.patients_per_step
        }
    )
    common = model.adapter_state()
    moments: dict[str, dict[str, Tensor]] = {}
    for number in range(federation.rounds):
        schedule = Schedule(
            training.learning_rate, number / federation.rounds, (number + 1) / federation.rounds
        )
        together = {name: torch.zeros_like(one) for name, one in common.items()}
        for place, (hospital, here) in enumerate(patients.items()):
            model.load_adapter(common)
            report = train(
                model,
                here,
                training,
                epochs=federation.local_epochs,
                schedule=schedule,
                seed=config.seed + 1000 * number + place,
                moments=moments.get(hospital),
            )
            moments[hospital] = report.moments
            for name, one in model.adapter_state().items():
                together[name] += one * (len(here) / total)
        common = together
    model.load_adapter(common)


def _dice(
    model: AdaptedModel, judged: list[tuple[HospitalHome, Case]], sequence: str
) -> Iterator[float]:
    for home, case in judged:
        store = home.store()
        reference = store.volumes(case, ()).mask
        if reference is None:
            continue
        opened = OpenCase.of(model, store, home.cache(model, sequence), case)
        mask = predict_automatic(model, opened).mask
        yield score_case(mask, reference, spacing=(1.0, 1.0, 1.0), nsd_tolerance=2.0).dice


if __name__ == "__main__":
    main()
