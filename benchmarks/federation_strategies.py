"""Every way of training together, on one split of a run: Dice per hospital, bytes, poison.

Rounds are those of `evenhand run` (the same strategy, hospital and checkpoint code), in one
process with a grid in place of Flower's runtime. The budget is smaller than that of the config:
40 epochs, in 20 rounds of two, and no boxes. One seed; the test patients choose nothing.

    evenhand run configs/lgg.toml --set 'arms=["box-zero-shot"]' --out runs/inner
    python benchmarks/federation_strategies.py runs/inner --out runs/strategies
    python benchmarks/federation_strategies.py runs/inner --out runs/strategies --table

Rows are kept, and an unfinished one goes on from its last round. Expected: about 90 s a row on an
idle core, 25 minutes in all. With `--set warm_start.phantoms=96 --set warm_start.epochs=60 --set
'warm_start.arms=["federated"]'` and another OUT all rows start from phantoms.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from phantom_start import begin_with_phantoms
from rich.progress import Progress
from torch import Tensor

from evenhand.artifacts import write_atomically
from evenhand.cases.splits import Split
from evenhand.config import ExperimentConfig
from evenhand.config_files import load_config
from evenhand.experiment.evaluate import evaluate_arm
from evenhand.experiment.layout import RunFolder, build_model
from evenhand.experiment.stages import train_whole
from evenhand.model.adapted import AdaptedModel
from evenhand.training.data import load_patients
from evenhand.training.personal import shared_part
from evenhand_federated import wire
from evenhand_federated.checkpoint import read_checkpoint
from evenhand_federated.node import HospitalNode
from evenhand_federated.orders import RoundOrder, precision_of
from evenhand_federated.strategies import combiner_of
from evenhand_federated.strategy import FederationPlan, RecordedFedAvg
from evenhand_federated.testing import FakeGrid

ARM = "federated"
POISONED = "HT"
"""15 of 48 patients: the mean gives it 31%."""
BUDGET = (
    'arms=["federated"]',
    "training.epochs=40",
    "federation.rounds=20",
    "federation.local_epochs=2",
    "training.box_slices=0",  # only the automatic mode is judged
    "federation.precision=float32",  # but for the row that is about it
)
RESAMPLES = 10_000

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Row:
    """One line of the table: what the config says other, who takes part, who poisons."""

    settings: tuple[str, ...] = ()
    poison: float | None = None
    """The poisoned hospital sends this times its update."""
    without: str = ""
    """A hospital that does not train."""


def _strategy(name: str, *more: str, **options: Any) -> Row:
    return Row((f"federation.strategy={name}", *more), **options)


NORMS = 'federation.local_parts=["head.*.1.weight", "head.*.1.bias"]'
LAST = 'federation.local_parts=["head.leave.*", "head.up_quarter.*"]'
ROWS: dict[str, Row] = {
    "fedavg": _strategy("fedavg"),
    "fedavg, float16": _strategy("fedavg", "federation.precision=float16"),
    "personal norms": _strategy("fedavg", NORMS),
    "scaffold": _strategy("scaffold"),
    "trimmed-mean, flipped x10": _strategy("trimmed-mean", poison=-10.0),
    "krum, flipped x10": _strategy("krum", poison=-10.0),
    "fedavg, flipped x10": _strategy("fedavg", poison=-10.0),
    "qfedavg": _strategy("qfedavg"),
    "tilted": _strategy("tilted"),
    "fedprox": _strategy("fedprox"),
    "fedadam": _strategy("fedadam"),
    "trimmed-mean": _strategy("trimmed-mean"),
    "krum": _strategy("krum"),
    "personal last layers": _strategy("fedavg", LAST),
    "fedyogi": _strategy("fedyogi"),
    f"fedavg without {POISONED}": _strategy("fedavg", without=POISONED),
    "fedavg, flipped": _strategy("fedavg", poison=-1.0),
    "trimmed-mean, flipped": _strategy("trimmed-mean", poison=-1.0),
    "krum, flipped": _strategy("krum", poison=-1.0),
}


def main() -> None:
    """Train the rows that are missing, then print the tables."""
    asked = _arguments()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    inner, out = RunFolder(asked.run), asked.out
    base = load_config(asked.config, [*BUDGET, *asked.set])
    if not asked.table:
        _keep(out / "pooled", lambda: _together(inner, base, out / "pooled"))
        for hospital in inner.split().hospitals:
            folder = out / f"local-{hospital}"
            _keep(folder, lambda f=folder, h=hospital: _together(inner, base, f, (h,)))
        for name, row in ROWS.items():
            if asked.only and name not in asked.only:
                continue
            settings = [*BUDGET, *asked.set, *row.settings]
            config = load_config(asked.config, settings)
            folder = out / name.replace(" ", "-").replace(",", "")
            _keep(folder, lambda f=folder, c=config, r=row: _federated(inner, c, f, r))
    _print(out, inner.split())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder with stores, split and embeddings")
    parser.add_argument("--config", type=Path, default=Path("configs/lgg.toml"))
    parser.add_argument("--out", type=Path, required=True, help="where rows are kept")
    parser.add_argument("--set", action="append", default=[], help="as in evenhand run")
    parser.add_argument("--only", action="append", default=[], help="this row; may be repeated")
    parser.add_argument("--table", action="store_true", help="print what is there, train nothing")
    return parser.parse_args()


def _keep(folder: Path, make: Callable[[], dict[str, Any]]) -> None:
    """Make a row unless it is there."""
    path = folder / "result.json"
    if path.exists():
        return
    started = time.monotonic()
    result = make()
    result["seconds"] = time.monotonic() - started
    write_atomically(path, json.dumps(result, indent=1).encode())
    dice = [row["dice"] for row in result["rows"]]
    print(f"{folder.name}: mean Dice {np.mean(dice):.3f}, {result['seconds']:.0f} s", flush=True)


def _folder(
    inner: RunFolder, config: ExperimentConfig, path: Path, hospitals: tuple[str, ...]
) -> RunFolder:
    """A run folder of these hospitals that reads the stores and embeddings of another."""
    run, split = RunFolder(path), inner.split()
    own = Split({h: split.train[h] for h in hospitals}, {h: split.test[h] for h in hospitals})
    for hospital in hospitals:
        home = run.hospital(hospital).path
        home.mkdir(parents=True, exist_ok=True)
        for part in ("store", "embeddings"):
            if not (home / part).exists():
                (home / part).symlink_to((inner.hospital(hospital).path / part).resolve())
    run.arm(ARM).path.mkdir(parents=True, exist_ok=True)
    write_atomically(run.config_path, config.model_dump_json().encode())
    write_atomically(run.split_path, own.to_json().encode())
    return run


def _model(config: ExperimentConfig, path: Path) -> AdaptedModel:
    """The model that a row begins with."""
    model = build_model(config)
    if config.warm_start.starts(ARM):
        begin_with_phantoms(model, config, path.parent)
    return model


def _together(
    inner: RunFolder, config: ExperimentConfig, path: Path, hospitals: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Train these hospitals' patients in one place; all of them: pooled."""
    run = _folder(inner, config, path, hospitals or inner.split().hospitals)
    model, sequence = _model(config, path), config.data.sequences[0]
    patients = []
    for home in run.hospitals():
        names = run.split().train[home.name]
        patients += load_patients(home.store(), home.cache(model, sequence), names, model)
    with Progress(disable=True) as bar:
        train_whole(model, patients, config, label="", bar=bar)
    return {"rows": _scores(run, config, model), "bytes": 0}


def _federated(inner: RunFolder, config: ExperimentConfig, path: Path, row: Row) -> dict[str, Any]:
    """Train in rounds and score the common adapter, with hospitals' own parts where there are."""
    model = in_rounds(inner, config, path, row)
    run = RunFolder(path)
    last: Any = run.arm(ARM).read_rounds()[-1]
    moved = max(one["bytes"] + one["bytes_down"] for one in last["hospitals"].values())
    return {"rows": _scores(run, config, model), "bytes": moved}


def in_rounds(inner: RunFolder, config: ExperimentConfig, path: Path, row: Row) -> AdaptedModel:
    """Train in rounds, on from the last one that `path` holds."""
    everybody = inner.split().hospitals
    run = _folder(inner, config, path, everybody)
    training = [name for name in everybody if name != row.without]
    nodes = {
        10 + place: _node(run, config, name, row.poison if name == POISONED else None)
        for place, name in enumerate(training)
    }
    model = _model(config, path)
    done, state = read_checkpoint(run.arm(ARM))
    if state is None:
        state = shared_part(model.adapter_state(), config.federation.local_parts)
    rounds = config.federation.rounds
    names = dict(zip(nodes, training, strict=True))
    precision = precision_of(config, ARM)
    plan = FederationPlan(ARM, rounds, done, names, len(training), precision=precision)
    if done < rounds:
        RecordedFedAvg(plan, run.arm(ARM), combiner_of(config.federation)).start(
            grid=FakeGrid(nodes), initial_arrays=ArrayRecord(state), num_rounds=rounds - done
        )
    _, state = read_checkpoint(run.arm(ARM))
    model.load_adapter({**model.adapter_state(), **(state or {})})
    return model


def _node(
    run: RunFolder, config: ExperimentConfig, name: str, poison: float | None
) -> Callable[[Message], Message]:
    """A hospital as it answers through Flower, in this process."""
    own = HospitalNode(run.hospital(name), config, run.split().train[name], run.together())

    def answer(message: Message) -> Message:
        precision = own.precision(ARM)
        common = wire.received(message.content, precision)
        before: State = common.to_torch_state_dict()
        order = RoundOrder.of(message.content["config"])
        after, figures = own.train_round(order, before)
        if poison is not None:
            after = {key: before[key] + poison * (after[key] - before[key]) for key in after}
        content = wire.update(common, ArrayRecord(after), precision)
        return Message(RecordDict({**content, "metrics": MetricRecord(figures)}), reply_to=message)

    return answer


def _scores(run: RunFolder, config: ExperimentConfig, model: AdaptedModel) -> list[dict[str, Any]]:
    with Progress(disable=True) as bar:
        rows = evaluate_arm(
            run, config, ARM, model=model, prompts=("automatic",), by_head=False, bar=bar
        )
    return [{key: row[key] for key in ("patient", "hospital", "dice")} for row in rows]


def _print(out: Path, split: Split) -> None:
    """Both tables: Dice per hospital, and differences from pooled, local-only and FedAvg."""
    results = {path.parent.name: json.loads(path.read_text()) for path in out.glob("*/result.json")}
    local = [results.pop(f"local-{name}") for name in split.hospitals if f"local-{name}" in results]
    if local:
        results["local-only"] = {"rows": [row for one in local for row in one["rows"]], "bytes": 0}
    order = ["pooled", "local-only", *(n.replace(" ", "-").replace(",", "") for n in ROWS)]
    dice = {name: _by_patient(results[name]) for name in order if name in results}
    print("\n| way | all (95% CI) | " + " | ".join(split.hospitals) + " | worst | kB |")
    print("|---" * (len(split.hospitals) + 4) + "|")
    for name, own in dice.items():
        means = {h: np.mean([own[p] for p in split.test[h]]) for h in split.hospitals}
        cells = [f"{means[h]:.3f} ({len(split.test[h])})" for h in split.hospitals]
        worst = min(means, key=lambda h: float(means[h]))
        everybody = np.array(list(own.values()))
        print(
            f"| {name} | {_interval(everybody)} | {' | '.join(cells)} | {worst} {means[worst]:.3f} "
            f"| {results[name]['bytes'] / 1000:.0f} |"
        )
    for peer in ("pooled", "local-only", "fedavg"):
        print(f"\n| way | less {peer}: all (95% CI) | " + " | ".join(split.hospitals) + " |")
        print("|---" * (len(split.hospitals) + 2) + "|")
        for name, own in dice.items():
            if name == peer or peer not in dice:
                continue
            gaps = {patient: own[patient] - dice[peer][patient] for patient in own}
            cells = [f"{np.mean([gaps[p] for p in split.test[h]]):+.3f}" for h in split.hospitals]
            print(f"| {name} | {_interval(np.array(list(gaps.values())))} | {' | '.join(cells)} |")


def _by_patient(result: Mapping[str, Any]) -> dict[str, float]:
    return {row["patient"]: float(row["dice"]) for row in result["rows"]}


def _interval(values: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    """Mean with its percentile bootstrap interval over patients."""
    drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
