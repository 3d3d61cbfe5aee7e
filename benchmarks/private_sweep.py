"""Dice against epsilon on real patients, under both trust models, beside the same without noise.

What `evenhand run` does for the private arm, without Flower around it: every hospital charges a
ledger of its own and takes a private step, the coordinator's Adam steps on their mean. Without
noise (`none`) patients are still drawn and clipped. Every row starts at the same public adapter,
made of phantoms. Each row leaves one JSON file in OUT: a stopped sweep goes on where it was.
Torch's Adam corrects its first steps a little more than Flower's (fedadam).

    evenhand run configs/lgg-private.toml --set 'arms=["box-zero-shot"]' --out RUN
    python benchmarks/private_sweep.py RUN OUT
    python benchmarks/private_sweep.py RUN INNER --inner    # on training patients, to choose by
    python benchmarks/private_sweep.py RUN OUT --table
"""

import argparse
import hashlib
import json
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import Tensor

from evenhand.artifacts import write_atomically
from evenhand.cases.records import Case
from evenhand.config import ExperimentConfig
from evenhand.config_files import load_config
from evenhand.experiment.layout import HospitalHome, RunFolder, build_model
from evenhand.experiment.warm_start import train_on_phantoms
from evenhand.metrics import score_case
from evenhand.model.adapted import AdaptedModel
from evenhand.predict import OpenCase, predict_automatic
from evenhand.privacy.ledger import Ledger
from evenhand.privacy.secure_sum import Together
from evenhand.privacy.step import PrivateStep
from evenhand.training.data import TrainingPatient, draw, load_patients
from evenhand.training.loop import loss_of
from evenhand.training.private import Study, train_private

INNER_FOLDS = 3


@dataclass(frozen=True)
class Ground:
    """What every row stands on."""

    config: ExperimentConfig
    model: AdaptedModel
    start: dict[str, Tensor]
    patients: dict[str, list[TrainingPatient]]
    judged: list[tuple[HospitalHome, Case]]


def main() -> None:
    """Fill in the rows that are missing, or print the table."""
    asked = _arguments()
    if asked.table:
        print("\n".join(_table(asked.out)))
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    _bind(asked)
    ground = _ground(asked)
    for name, trust, epsilon, seed in _rows(asked):
        path = asked.out / f"{name}-{seed}.json"
        if path.exists():
            continue
        spent = _train(ground, trust, epsilon, seed)
        found = {"row": name, "seed": seed, "spent": spent, "cases": list(_judge(ground))}
        write_atomically(path, json.dumps(found, indent=1).encode())
        dice = [case["dice"] for case in found["cases"]]
        print(
            f"{name}, seed {seed}: {np.mean(dice):.3f} (n={len(dice)}), spent {spent}", flush=True
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder with stores, split and embeddings")
    parser.add_argument("out", type=Path, help="where results go")
    parser.add_argument("--config", type=Path, default=Path("configs/lgg-private.toml"))
    parser.add_argument("--set", action="append", default=[], help="as in evenhand run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="names of rows, such as secure-sum-8 or none")
    parser.add_argument("--inner", action="store_true", help="judge on a third of the training")
    parser.add_argument("--table", action="store_true", help="print what OUT holds")
    return parser.parse_args()


def _bind(asked: argparse.Namespace) -> None:
    """Let nobody put rows of other settings, or of other patients, into one table."""
    config = load_config(asked.config, asked.set)
    digest = RunFolder(asked.run).digest().voxels
    made = (
        f"{config.fingerprint('model', 'training', 'privacy', 'federation')} {digest} {asked.inner}"
    )
    path = asked.out / "made-with.txt"
    if path.exists() and path.read_text() != made:
        raise SystemExit(f"'{asked.out}' has rows of other settings or patients; take another OUT.")
    write_atomically(path, made.encode())


def _rows(asked: argparse.Namespace) -> Iterator[tuple[str, str, float | None, int]]:
    """(name, trust, epsilon, seed) of each row; those without noise first."""
    kinds = [("start", "", None), ("none", "", None)]
    kinds += [(f"{trust}-{e}", trust, e) for e in (8, 3, 1) for trust in ("secure-sum", "local")]
    for seed in range(asked.seeds):
        for name, trust, epsilon in kinds:
            if (name != "start" or seed == 0) and (not asked.only or name in asked.only):
                yield name, trust or name, epsilon, seed


def _ground(asked: argparse.Namespace) -> Ground:
    config = load_config(asked.config, asked.set)
    run, model = RunFolder(asked.run), build_model(config)
    started = asked.out / "start.safetensors"
    if not started.exists():
        with Progress(disable=True) as bar:
            train_on_phantoms(run, config, model, bar)
        draft = started.with_suffix(".tmp")
        save_file(model.adapter_state(), draft)
        draft.replace(started)
    patients, judged = {}, []
    for home in run.hospitals():
        train = run.split().train[home.name]
        tests = set(_third(train)) if asked.inner else set(run.split().test[home.name])
        cache = home.cache(model, config.data.sequences[0])
        rest = [name for name in train if name not in tests]
        patients[home.name] = load_patients(home.store(), cache, rest, model)
        judged += [(home, case) for case in home.store() if case.patient.patient_id in tests]
    return Ground(config, model, load_file(started), patients, judged)


def _third(names: tuple[str, ...]) -> list[str]:
    ordered = sorted(names, key=lambda name: hashlib.sha256(f"inner/{name}".encode()).hexdigest())
    return ordered[::INNER_FOLDS]


def _train(ground: Ground, trust: str, epsilon: float | None, seed: int) -> dict[str, float]:
    """Leave the row's adapter in the model; return what each hospital's ledger says was spent."""
    model, config = ground.model, ground.config
    model.load_adapter(ground.start)
    torch.manual_seed(seed)  # of dropout; patients, slices and noise come from the system
    if trust == "start":
        model.eval()
        return {}
    if epsilon is None:
        privacy = config.privacy
    else:
        changes = {"trust": trust, "epsilon": float(epsilon)}
        if trust == "local":
            changes["delta"] = None  # each hospital's own, by its patients
        privacy = config.privacy.model_copy(update=changes)
    total = sum(map(len, ground.patients.values()))
    together = Together(total, len(ground.patients), "trusted-sum")
    common = {name: one.clone() for name, one in model.adapter_state().items()}
    server = [torch.nn.Parameter(one) for one in common.values()]
    optimiser = torch.optim.Adam(server, lr=config.federation.server_rate, betas=(0.9, 0.99))
    spent: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        ledgers = {name: Ledger(Path(folder) / f"{name}.sqlite", name) for name in ground.patients}
        for _ in range(privacy.rounds):
            mean = {name: torch.zeros_like(one) for name, one in common.items()}
            for name, here in ground.patients.items():
                model.load_adapter(common)
                if epsilon is None:
                    _clipped_only(ground, here)
                else:
                    spent[name] = train_private(
                        model,
                        here,
                        privacy,
                        config.training,
                        learning_rate=privacy.learning_rate,
                        ledger=ledgers[name],
                        purpose="sweep",
                        study=Study(together=together),
                    ).epsilon
                for key, one in model.adapter_state().items():
                    mean[key] += (one - common[key]) * (len(here) / total)
            for parameter, change in zip(server, mean.values(), strict=True):
                parameter.grad = -change
            optimiser.step()
            common = {name: one.data for name, one in zip(common, server, strict=True)}
    model.load_adapter(common)
    model.eval()
    return spent


def _clipped_only(ground: Ground, patients: list[TrainingPatient]) -> None:
    """One step as `train_private` takes it, but without noise, and without a promise."""
    model, privacy, training = ground.model, ground.config.privacy, ground.config.training
    parameters = list(model.choose_trainable(privacy.trainable).values())
    step = PrivateStep(
        parameters,
        torch.optim.SGD(parameters, lr=privacy.learning_rate),
        noise_multiplier=0.0,
        clip_norm=privacy.clip_norm,
        expected_patients=privacy.sampling_rate * len(patients),
    )
    generator = torch.Generator().manual_seed(secrets.randbits(63))
    model.train()
    step.sampled(
        patients,
        rate=privacy.sampling_rate,
        slices_at_most=privacy.slices_per_patient,
        draw=lambda one, most: draw(
            one,
            training,
            generator,
            image_size=model.config.image_size,
            hints=False,
            slices_at_most=most,
        ),
        loss=lambda batch: loss_of(model, batch),
        count=lambda batch: len(batch.masks),
    )
    model.eval()


def _judge(ground: Ground) -> Iterator[dict[str, object]]:
    model, sequence = ground.model, ground.config.data.sequences[0]
    for home, case in ground.judged:
        store = home.store()
        reference = store.volumes(case, ()).mask
        if reference is None:
            continue
        mask = predict_automatic(
            model, OpenCase.of(model, store, home.cache(model, sequence), case)
        )
        score = score_case(mask.mask, reference, spacing=(1.0, 1.0, 1.0), nsd_tolerance=2.0)
        yield {"case": case.case_id, "hospital": home.name, "dice": score.dice}


def _table(out: Path) -> Iterator[str]:
    """Means over seeds for each patient first; intervals are over patients."""
    found: dict[str, list[dict[str, float]]] = {}
    for path in sorted(out.glob("*.json")):
        one = json.loads(path.read_text())
        found.setdefault(one["row"], []).append({c["case"]: c["dice"] for c in one["cases"]})
    yield "| row | seeds | n | Dice, mean (95%) | by seed | less than without noise (95%) |"
    yield "|---|---|---|---|---|---|"
    names = sorted(found["none"][0])
    plain = _by_patient(found["none"], names)
    for row, seeds in found.items():
        dice = _by_patient(seeds, names)
        each = ", ".join(f"{np.mean(list(one.values())):.3f}" for one in seeds)
        lost = "" if row == "none" else _interval(plain - dice)
        yield f"| {row} | {len(seeds)} | {len(names)} | {_interval(dice)} | {each} | {lost} |"


def _by_patient(seeds: list[dict[str, float]], names: list[str]) -> np.ndarray:
    return np.mean([[one[name] for name in names] for one in seeds], axis=0)


def _interval(values: np.ndarray) -> str:
    rng = np.random.default_rng(0)
    found = stats.bootstrap((values,), np.mean, n_resamples=4000, rng=rng).confidence_interval
    return f"{values.mean():.3f} ({found.low:.3f} to {found.high:.3f})"


if __name__ == "__main__":
    main()
