"""The ways of training that an experiment compares, each leaving one folder behind.

An arm's folder belongs to the fingerprint of what its training depends on; asked for
something else, it is trained anew. Its `arm.json` bears the fingerprint of what its
figures depend on; asked to score otherwise, the adapter is kept and scored again.
Federated arms are run by the room that announces itself as `evenhand.arms`.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from evenhand import plugins
from evenhand.artifacts import write_atomically
from evenhand.config import PRIVATE_ARM, ExperimentConfig
from evenhand.errors import UsageError
from evenhand.experiment.calibration import temperature_of
from evenhand.experiment.evaluate import evaluate_arm
from evenhand.experiment.layout import ArmFolder, RunFolder, build_model
from evenhand.experiment.stages import stepper, train_whole
from evenhand.model.adapted import AdaptedModel
from evenhand.model.adapter_files import load_onto, save_adapter
from evenhand.training.data import load_patients

__all__ = ["Arm", "arms_of", "refuse_spent", "run_arm"]

_NOTES = {
    "box-zero-shot": "no training; a jittered box from the reference on every tumour slice",
    "local": "trained on this hospital's patients alone",
    "pooled": "all patients in one place: what federation is measured against",
    "federated": "hospitals train together; only adapters move",
    "federated-private": "as federated, with patient-level differential privacy at each hospital",
    "warm-start": "trained on phantoms alone: where other arms start",
}

_WAITING = frozenset({"minimum_hospitals", "round_timeout_s", "client_cpus"})
"""How rounds are run, not what comes out: to change it must not cost the rounds that are done."""

_NOT_PRIVATE = frozenset(
    {"epochs", "patients_per_step", "learning_rate", "weight_decay", "calibration_share"}
)
"""What private steps do not use of [training]."""

_USED: Mapping[str, Mapping[str, frozenset[str]]] = {
    "box-zero-shot": {},
    "local": {"training": frozenset()},
    "pooled": {"training": frozenset()},
    "federated": {"training": frozenset({"epochs", "calibration_share"}), "federation": _WAITING},
    "federated-private": {"training": _NOT_PRIVATE, "privacy": frozenset()},
    "warm-start": {"training": frozenset({"calibration_share"})},
}
"""Sections that training depends on beside seed, data and model, with the keys that it ignores."""


_FIGURES = "uncertainty near the mask"
"""What figures mean by now; arms that were scored otherwise are scored again."""

_LATER: Mapping[str, Mapping[str, object]] = {
    "data": {"stores": {}, "may_lack": [], "labels": []},
    "model": {"head_hints": False, "training_precision": "auto"},
    "training": {
        "box_hints": 0.3,
        "mask_hints": 0.3,
        "sequence_dropout": 0.2,
        "calibration_share": 0.0,
    },
    "federation": {"local_parts": [], "server_tau": 1e-3, "precision": "float32"},
    "privacy": {"patient_shares": None},
}
"""Keys that came after the first arms were trained, with what all of those did."""


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

    def fingerprint(self, config: ExperimentConfig, voxels: str = "") -> str:
        """Of all that its training depends on.

        Args:
            config: the experiment.
            voxels: digest of the cases and the split, see `RunFolder.digest`.
        """
        content = config.model_dump(mode="json")
        content["data"].pop("corrections")  # what they change is in `voxels`: masks and split
        for key in ("temperature", "device"):  # how probabilities are made, and where
            content["model"].pop(key)
        for section, later in _LATER.items():
            for key, default in later.items():
                if content[section][key] == default:
                    del content[section][key]
        if config.federation.strategy == "scaffold":  # travels in float32, whatever stands there
            content["federation"].pop("precision", None)
        if (shares := config.privacy.patient_shares) is not None and shares.is_file():
            content["privacy"]["patient_shares"] = hashlib.sha256(shares.read_bytes()).hexdigest()
        if (phantom := content["data"]["phantom"]) and not phantom["heads"]:
            del phantom["heads"]  # came later, too
        used = {key: content[key] for key in ("seed", "data", "model")}
        warm = config.warm_start.starts(self.kind)
        for section, ignored in _USED[self.kind].items():
            # Who starts where the warm start ends hangs on all of [training], as that does.
            without = _USED["warm-start"]["training"] & ignored if warm else ignored
            used[section] = {k: v for k, v in content[section].items() if k not in without}
        return _hash(self._with_start(used, config, warm=warm), voxels)

    def _with_start(
        self, used: dict[str, Any], config: ExperimentConfig, *, warm: bool
    ) -> dict[str, Any]:
        """Add what a start from phantoms depends on, said as by the first arms that had one."""
        phantoms, epochs = config.warm_start.phantoms, config.warm_start.epochs
        if self.kind == PRIVATE_ARM:
            start = {"warm_start_phantoms": phantoms if warm else 0}
            if warm and epochs is not None:
                start["warm_start_epochs"] = epochs
            return {**used, "privacy": {**used["privacy"], **start}}
        if warm or self.kind == "warm-start":
            return {**used, "phantoms": {"heads": phantoms, "epochs": epochs}}
        return used

    def scoring_fingerprint(
        self,
        config: ExperimentConfig,
        voxels: str,
        patients: str,
        further: Sequence[str] = (),
    ) -> str:
        """Of all that its rows in the prediction table depend on.

        Args:
            config: the experiment.
            voxels: as in `fingerprint`.
            patients: digest of their attributes.
            further: names of attributes that are columns of the table beside the usual ones.
        """
        jitter, tolerance = config.training.box_jitter, config.audit.nsd_tolerance
        later = [*further, _FIGURES]
        if config.model.temperature != 1:  # the older figures were of 1
            later.append(f"temperature {config.model.temperature}")
        return _hash(self.fingerprint(config, voxels), jitter, tolerance, patients, *later)


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def arms_of(config: ExperimentConfig, hospitals: Sequence[str]) -> list[Arm]:
    """The arms of an experiment in the order in which they run."""
    everyone = tuple(hospitals)
    arms: list[Arm] = []
    for kind in config.arms:
        if config.warm_start.starts(kind) and not any(arm.kind == "warm-start" for arm in arms):
            arms.append(Arm("warm-start", "warm-start", ()))
        if kind == "local":
            arms += [Arm(f"local-{name}", kind, (name,)) for name in everyone]
        else:
            arms.append(Arm(kind, kind, everyone))
    return arms


def run_arm(run: RunFolder, config: ExperimentConfig, arm: Arm, bar: Progress) -> dict[str, Any]:
    """Train and score one arm, or return what an earlier run of it left.

    Returns:
        The arm's record: rows of the prediction table, seconds, bytes, epsilon, patients.
    """
    folder = run.arm(arm.name)
    digest = run.digest()
    asked = arm.fingerprint(config, digest.voxels)
    further = run.further_attributes(config)
    fingerprint = arm.scoring_fingerprint(config, digest.voxels, digest.patients, further)
    if (earlier := _finished(folder.record_path, fingerprint)) is not None:
        with stepper(bar, f"{arm.name}: done before", 1):
            return earlier
    if _is_of_another(folder, asked):
        shutil.rmtree(folder.path)
    if not folder.path.exists():
        for home in run.hospitals():
            home.forget_arm(arm.name)
    write_atomically(folder.fingerprint_path, asked.encode())

    model = build_model(config)
    started = time.monotonic()
    trained = _train(run, config, arm, model, bar)
    seconds = trained.pop("seconds", time.monotonic() - started)
    prompts = _prompts(arm, model)
    scoring = time.monotonic()
    by_head = model.config.head_hints and arm.kind != "box-zero-shot"
    rows = evaluate_arm(
        run, config, arm.name, model=model, prompts=prompts, by_head=by_head, bar=bar
    )
    record = {
        "fingerprint": fingerprint,
        "seconds": seconds,
        "seconds_scoring": time.monotonic() - scoring,
        "note": arm.note + _cut_short(trained),
        "bytes_moved": 0,
        "epsilon": None,
        "train_patients": sum(len(run.split().train[name]) for name in arm.hospitals),
        **trained,
        "rows": rows,
    }
    write_atomically(folder.record_path, json.dumps(record, indent=1).encode())
    return record


def refuse_spent(run: RunFolder, config: ExperimentConfig, arms: Sequence[Arm]) -> None:
    """Refuse what patients' privacy cannot pay for, before anything is computed.

    Raises:
        UsageError: the private arm has finished rounds, and is asked for with other settings.
        BudgetError: it has not begun, and a hospital's ledger cannot pay for a single round.
        PolicyError: a hospital's site policy does not allow the arm.
    """
    for arm in arms:
        if not arm.kind.startswith("federated"):
            continue
        folder = run.arm(arm.name)
        private = arm.kind == PRIVATE_ARM
        trained = any(record["hospitals"] for record in folder.read_rounds())
        if (
            private
            and trained
            and _is_of_another(folder, arm.fingerprint(config, run.digest().voxels))
        ):
            raise UsageError(
                f"'{folder.path}' was trained with other settings or cases, and that has used "
                "the privacy budget of its patients. Go back to those, or leave "
                "federated-private out of arms. A new folder (--out) helps where hospitals have "
                "granted more than this arm has spent: evenhand ledger show"
            )
        if not trained:
            for name in arm.hospitals:
                _refuse_unaffordable(run, config, arm, name)


def _refuse_unaffordable(run: RunFolder, config: ExperimentConfig, arm: Arm, name: str) -> None:
    """Ask a hospital's policy and ledger early; they are asked again at each round."""
    from evenhand.privacy.policy import Proposal
    from evenhand.training.private import grant_from_config

    home = run.hospital(name)
    patients = run.split().train[name]
    policy = home.site().policy()
    together = run.together()
    proposal = Proposal.of(
        config, arm.name, hospital=name, patients=len(patients), carrier=together.carrier
    )
    policy.check(proposal)
    if arm.kind == PRIVATE_ARM:
        ledger = home.ledger()
        plan = grant_from_config(ledger, config.privacy, len(patients), policy, together)
        cohort = home.cohort(patients, config.data.sequences[0])
        ledger.affords(plan.mechanism_of_round, cohort)


def _is_of_another(folder: ArmFolder, fingerprint: str) -> bool:
    if not folder.path.exists():
        return False
    marker = folder.fingerprint_path
    return not marker.exists() or marker.read_text("utf-8") != fingerprint


def _cut_short(trained: Mapping[str, Any]) -> str:
    done, planned = trained.get("rounds"), trained.get("rounds_planned")
    if done == planned:
        return ""
    return f"; ended after {done} of {planned} rounds, when its privacy budget was used up"


def _finished(path: Path, fingerprint: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return record if record["fingerprint"] == fingerprint else None


def _prompts(arm: Arm, model: AdaptedModel) -> tuple[str, ...]:
    if arm.kind == "box-zero-shot":
        return ("box",)
    automatic = ("automatic",) if model.head is not None else ()
    if model.config.head_hints:
        return (*automatic, "box", "slice")
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
        return _trained_before(folder.adapter_path, model)
    if arm.kind == "warm-start":
        from evenhand.experiment.warm_start import train_on_phantoms

        trained = train_on_phantoms(run, config, model, bar)
    elif arm.kind in ("federated", PRIVATE_ARM):
        if (start := _start_of(run, config, arm)) is not None:
            shutil.copyfile(start, folder.start_path)
        trained = plugins.load("evenhand.arms", "federated")(run, arm.name, model, bar)
        trained["local_parts"] = list(config.federation.local_parts)
    else:
        trained = _train_here(run, config, arm, model, bar)
    save_adapter(
        folder.adapter_path,
        model,
        config_fingerprint=config.fingerprint(),
        training={"arm": arm.name, "hospitals": list(arm.hospitals), **trained},
    )
    return trained


def _start_of(run: RunFolder, config: ExperimentConfig, arm: Arm) -> Path | None:
    """The adapter that an arm's training starts from; None: it starts at random."""
    return run.arm("warm-start").adapter_path if config.warm_start.starts(arm.kind) else None


def _trained_before(path: Path, model: AdaptedModel) -> dict[str, Any]:
    """Load what is there; a temperature that the config has changed since is put into the file."""
    found = load_onto(path, model)
    if found.model.temperature != model.config.temperature:
        save_adapter(
            path, model, config_fingerprint=found.config_fingerprint, training=found.training
        )
    return dict(found.training)


def _train_here(
    run: RunFolder,
    config: ExperimentConfig,
    arm: Arm,
    model: AdaptedModel,
    bar: Progress,
) -> dict[str, Any]:
    split, sequence = run.split(), config.data.sequences[0]
    patients = []
    for name in arm.hospitals:
        home = run.hospital(name)
        patients += load_patients(
            home.store(), home.cache(model, sequence), split.train[name], model
        )
    if (start := _start_of(run, config, arm)) is not None:
        load_onto(start, model)
    report = train_whole(model, patients, config, label=arm.name, bar=bar)
    fitted: dict[str, float | int] = {}
    if config.training.calibration_share:
        fitted = temperature_of(run, config, arm.hospitals, label=arm.name, start=start, bar=bar)
        model.temperature = fitted.get("temperature", model.temperature)
    return fitted | {
        "seconds": report.seconds,
        "train_patients": report.patients,
        "steps": report.steps,
        "first_loss": report.first_loss,
        "last_loss": report.last_loss,
    }
