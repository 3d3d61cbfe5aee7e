"""The ways of training that an experiment compares, each leaving one folder behind.

An arm is done when its `arm.json` is there with the fingerprint of what it was asked
for; it is then not trained again. Federated arms are run by the room that announces
itself as `evenhand.arms`.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from evenhand import plugins
from evenhand.artifacts import write_atomically
from evenhand.config import ExperimentConfig
from evenhand.experiment.evaluate import evaluate_arm
from evenhand.experiment.layout import RunFolder, build_model
from evenhand.experiment.stages import stepper
from evenhand.model.adapted import AdaptedModel
from evenhand.model.adapter_files import load_onto, save_adapter
from evenhand.training.data import load_patients
from evenhand.training.loop import Schedule, train

__all__ = ["Arm", "arms_of", "run_arm"]

_NOTES = {
    "box-zero-shot": "no training; a jittered box from the reference on every tumour slice",
    "local": "trained on this hospital's patients alone",
    "pooled": "all patients in one place: what federation is measured against",
    "federated": "hospitals train together; only adapters move",
    "federated-private": "as federated, with patient-level differential privacy at each hospital",
    "warm-start": "trained on phantoms alone: where the private arm starts",
}


@dataclass(frozen=True)
class Arm:
    """One line of the comparison.

    Attributes:
        name: folder and label.
        kind: as in the config; `local` gives one arm for each hospital.
        hospitals: whose training patients it uses.
    """

    name: str
    kind: str
    hospitals: tuple[str, ...]

    @property
    def note(self) -> str:
        """What the arm is, in a line for the report."""
        return _NOTES[self.kind]

    def fingerprint(self, config: ExperimentConfig) -> str:
        """Of all that its result depends on."""
        sections = ["seed", "data", "model", "audit", "training"]
        if self.kind == "federated":
            sections.append("federation")
        if self.kind in ("federated-private", "warm-start"):
            sections += ["federation", "privacy"]
        return config.fingerprint(*sections)


def arms_of(config: ExperimentConfig, hospitals: Sequence[str]) -> list[Arm]:
    """The arms of an experiment in the order in which they run."""
    everyone = tuple(hospitals)
    arms = []
    for kind in config.arms:
        if kind == "local":
            arms += [Arm(f"local-{name}", kind, (name,)) for name in everyone]
        elif kind == "federated-private" and config.privacy.warm_start_phantoms:
            arms += [Arm("warm-start", "warm-start", ()), Arm(kind, kind, everyone)]
        else:
            arms.append(Arm(kind, kind, everyone))
    return arms


def run_arm(run: RunFolder, config: ExperimentConfig, arm: Arm, bar: Progress) -> dict[str, Any]:
    """Train and score one arm, or return what an earlier run of it left.

    Returns:
        The arm's record: rows of the prediction table, seconds, bytes, epsilon, patients.
    """
    folder = run.arm(arm.name)
    fingerprint = arm.fingerprint(config)
    if (earlier := _finished(folder.record_path, fingerprint)) is not None:
        with stepper(bar, f"{arm.name}: done before", 1):
            return earlier
    marker = folder.path / "fingerprint"
    if folder.path.exists() and (not marker.exists() or marker.read_text() != fingerprint):
        shutil.rmtree(folder.path)
    folder.path.mkdir(parents=True, exist_ok=True)
    marker.write_text(fingerprint)

    model = build_model(config)
    started = time.monotonic()
    trained = _train(run, config, arm, model, bar)
    seconds = trained.pop("seconds", time.monotonic() - started)
    prompts = _prompts(arm, model)
    rows = evaluate_arm(run, config, arm.name, model=model, prompts=prompts, bar=bar)
    record = {
        "fingerprint": fingerprint,
        "seconds": seconds,
        "seconds_scoring": time.monotonic() - started - seconds,
        "note": arm.note,
        "bytes_moved": 0,
        "epsilon": None,
        "train_patients": sum(len(run.split().train[name]) for name in arm.hospitals),
        **trained,
        "rows": rows,
    }
    write_atomically(folder.record_path, json.dumps(record, indent=1).encode())
    return record


def _finished(path: Path, fingerprint: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return record if record["fingerprint"] == fingerprint else None


def _prompts(arm: Arm, model: AdaptedModel) -> tuple[str, ...]:
    if arm.kind == "box-zero-shot":
        return ("box",)
    automatic = ("automatic",) if model.head is not None else ()
    prompted = ("box",) if model.config.decoder_lora_rank or model.tail_blocks else ()
    return automatic + prompted


def _train(
    run: RunFolder, config: ExperimentConfig, arm: Arm, model: AdaptedModel, bar: Progress
) -> dict[str, Any]:
    """Leave the trained adapter in `model` and in the arm's folder."""
    folder = run.arm(arm.name)
    if arm.kind == "box-zero-shot":
        return {"train_patients": 0}
    if folder.adapter_path.exists():
        return dict(load_onto(folder.adapter_path, model).training)
    if arm.kind == "warm-start":
        from evenhand.experiment.warm_start import train_on_phantoms

        trained = train_on_phantoms(run, config, model, bar)
    elif arm.kind in ("federated", "federated-private"):
        if (run.arm("warm-start").adapter_path).exists() and arm.kind == "federated-private":
            shutil.copyfile(run.arm("warm-start").adapter_path, folder.start_path)
        trained = plugins.load("evenhand.arms", "federated")(run, arm.name, model, bar)
    else:
        trained = _train_here(run, config, arm, model, bar)
    save_adapter(
        folder.adapter_path,
        model,
        config_fingerprint=config.fingerprint(),
        training={"arm": arm.name, "hospitals": list(arm.hospitals), **trained},
    )
    return trained


def _train_here(
    run: RunFolder, config: ExperimentConfig, arm: Arm, model: AdaptedModel, bar: Progress
) -> dict[str, Any]:
    split, sequence = run.split(), config.data.sequences[0]
    patients = []
    for name in arm.hospitals:
        home = run.hospital(name)
        patients += load_patients(
            home.store(), home.cache(model, sequence), split.train[name], model
        )
    steps = config.training.epochs * -(-len(patients) // config.training.patients_per_step)
    with stepper(bar, f"{arm.name}: training steps", steps) as task:
        report = train(
            model,
            patients,
            config.training,
            epochs=config.training.epochs,
            schedule=Schedule(config.training.learning_rate),
            seed=config.seed,
            advance=lambda step: bar.advance(task, step),
        )
    return {
        "seconds": report.seconds,
        "train_patients": report.patients,
        "steps": report.steps,
        "first_loss": report.first_loss,
        "last_loss": report.last_loss,
    }
