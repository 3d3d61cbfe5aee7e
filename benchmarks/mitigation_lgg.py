"""What each way of mitigating does to a gap on real patients, with a foundation model.

One command over a run folder whose cases and embeddings are there already:

    evenhand run configs/lgg.toml --set 'arms=["box-zero-shot"]' --out runs/inner
    python benchmarks/mitigation_lgg.py runs/inner --out runs/mitigation --epochs 60 --by sex
    python benchmarks/mitigation_lgg.py runs/inner --out runs/mitigation --way federated
    python benchmarks/mitigation_lgg.py runs/inner --out runs/mitigation --table

Trains in automatic mode on the run's training patients, once for each method, and judges all on its
test patients; pooled, or federated with rounds of two epochs. Training patients whose group is
unknown are left out. Losses by group and thresholds come from an inner third of the training
patients, judged by a model of the other two. "Equal weights" is the control: the same training as
before with patients drawn in another order, so its change is what chance alone does.

Each training leaves one JSON in --out (patient data), and a stopped command goes on behind the last
one; a federated training goes on from its last round. Costs 7 trainings a way; with 60 epochs, a
seventh of what configs/lgg.toml trains, some 15 minutes on a free core.
"""

import argparse
import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from federation_strategies import ARM, Row, in_rounds

from evenhand.artifacts import write_atomically
from evenhand.cases.records import UNKNOWN, Case, Patient
from evenhand.cases.splits import Split
from evenhand.config_files import load_config
from evenhand.errors import UsageError
from evenhand.experiment.layout import HospitalHome, RunFolder, build_model
from evenhand.predict import OpenCase, predict_automatic, without_specks
from evenhand.training.data import TrainingPatient, load_patients
from evenhand.training.loop import Schedule
from evenhand.training.loop import train as train_here
from evenhand_audit.cohort import age_groups
from evenhand_audit.mitigate.people import People
from evenhand_audit.mitigate.tables import weigh, write_weights
from evenhand_audit.mitigate.thresholds import COMMON, GRID, chosen
from evenhand_audit.mitigate.verdict import Trial, judge_trial

SEED = 20261126
SETTINGS = ("training.box_slices=0",)
"""Only the automatic mode is judged."""
INNER = 3
"""One in so many training patients gives the losses and the thresholds."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Dice of patients at every threshold of the grid, (patients, thresholds); NaN: not asked."""

    groups: tuple[str, ...]
    dice: np.ndarray

    @property
    def common(self) -> np.ndarray:
        """Dice at the common threshold, (patients,)."""
        return self.dice[:, GRID.index(COMMON)]


class Bench:
    """Everything that is the same for all methods."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.config = load_config(asked.config, [*SETTINGS, *asked.set])
        self.epochs = asked.epochs
        self.by = asked.by
        self.way = asked.way
        self.out = asked.out
        self.model = build_model(self.config)
        self.start = self.model.adapter_state()
        self.run = RunFolder(asked.run)
        split = self.run.split()
        self.people: dict[str, Patient] = {}
        self.cases: dict[str, list[tuple[HospitalHome, Case]]] = {}
        for home in self.run.hospitals():
            for case in home.store():
                self.people[case.patient.patient_id] = case.patient
                self.cases.setdefault(case.patient.patient_id, []).append((home, case))
        self.test = tuple(name for names in split.test.values() for name in names)
        self.train = {
            hospital: tuple(name for name in names if self.group(name) != UNKNOWN)
            for hospital, names in split.train.items()
        }
        self.inner = _inner(split.train.values()) & set(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """All training patients."""
        return tuple(name for names in self.train.values() for name in names)

    def group(self, name: str) -> str:
        """Group of a patient."""
        one = self.people[name]
        if self.by == "age_group":
            age = np.array([np.nan if one.age_years is None else one.age_years])
            return str(age_groups(age, self.config.audit.age_edges)[0])
        return str(getattr(one, self.by))

    def kept(
        self, name: str, judge: Iterable[str], weights: Path | None = None, *, rest: bool = False
    ) -> Judged:
        """What an earlier call left, or train and judge these patients.

        Every training starts from the same adapter; `rest`: without the inner patients.
        """
        path = self.out / f"{self.way}-{name}.json"
        settings = {
            "epochs": self.epochs, "by": self.by, "config": self.config.fingerprint(),
            "weights": None if weights is None else weights.read_text("utf-8"),
        }  # fmt: skip
        if path.exists():
            record = json.loads(path.read_text("utf-8"))
            if record["settings"] != settings:
                raise UsageError(f"'{path}' is of other settings; take another --out.")
            return Judged(tuple(record["groups"]), np.array(record["dice"], dtype=float))
        started = time.monotonic()
        train = {
            hospital: tuple(one for one in names if not (rest and one in self.inner))
            for hospital, names in self.train.items()
        }
        if self.way == "pooled":
            self._train_pooled(train, weights)
        else:
            self._train_federated(train, weights, self.out / f"{self.way}-{name}")
        judged = self.judged(judge, sweep=weights is None)
        dice = [[None if np.isnan(one) else one for one in row] for row in judged.dice.tolist()]
        record = {"settings": settings, "groups": judged.groups, "dice": dice}
        write_atomically(path, json.dumps(record, indent=1).encode())
        print(f"{path.name}: {_minutes(started)}", flush=True)
        return judged

    def _train_pooled(self, train: Mapping[str, tuple[str, ...]], weights: Path | None) -> None:
        self.model.load_adapter(self.start)
        sequence = self.config.data.sequences[0]
        patients: list[TrainingPatient] = []
        for home in self.run.hospitals():
            cache = home.cache(self.model, sequence)
            patients += load_patients(home.store(), cache, train[home.name], self.model)
        training = self.config.training.model_copy(update={"patient_weights": weights})
        schedule = Schedule(training.learning_rate)
        train_here(
            self.model,
            patients,
            training,
            epochs=self.epochs,
            schedule=schedule,
            seed=self.config.seed,
        )

    def _train_federated(
        self, train: Mapping[str, tuple[str, ...]], weights: Path | None, folder: Path
    ) -> None:
        """Rounds of `evenhand run`; each hospital weighs its own patients."""
        source = RunFolder(folder / "source")
        source.path.mkdir(parents=True, exist_ok=True)
        if not (link := source.path / "hospitals").exists():
            link.symlink_to((self.run.path / "hospitals").resolve())
        split = Split(dict(train), self.run.split().test)
        write_atomically(source.split_path, split.to_json().encode())
        training = self.config.training.model_copy(update={"patient_weights": weights})
        federation = self.config.federation.model_copy(
            update={"rounds": self.epochs // 2, "local_epochs": 2}
        )
        config = self.config.model_copy(
            update={"training": training, "federation": federation, "arms": (ARM,)}
        )
        self.model.load_adapter(in_rounds(source, config, folder, Row()).adapter_state())

    def judged(self, names: Iterable[str], *, sweep: bool = False) -> Judged:
        """Judge patients; only at the common threshold unless a sweep is asked for."""
        wanted = list(names)
        rows = [np.mean([self._dice(*one, sweep) for one in self.cases[who]], 0) for who in wanted]
        return Judged(tuple(map(self.group, wanted)), np.array(rows))

    def _dice(self, home: HospitalHome, case: Case, sweep: bool) -> list[float]:
        store = home.store()
        reference = store.volumes(case, ()).mask
        cache = home.cache(self.model, self.config.data.sequences[0])
        found = predict_automatic(self.model, OpenCase.of(self.model, store, cache, case))
        smallest = self.model.config.smallest_component
        out = [np.nan] * len(GRID)
        for place, threshold in enumerate(GRID):
            if threshold == COMMON:
                out[place] = _overlap(found.mask, reference)
            elif sweep:
                above = (found.probability > threshold).astype(np.uint8)
                out[place] = _overlap(without_specks(above, smallest), reference)
        return out


def _overlap(mask: np.ndarray, reference: np.ndarray) -> float:
    """Dice of two masks; 1 where both are empty."""
    size = int(mask.sum()) + int(reference.sum())
    return 2.0 * int((mask & reference).sum()) / size if size else 1.0


def main() -> None:
    """Train what is missing, then print one line a method."""
    asked = _arguments()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    for way in ("pooled", "federated") if asked.table else (asked.way,):
        asked.way = way
        bench = Bench(asked)
        if asked.table and not (asked.out / f"{way}-nothing.json").exists():
            continue
        _one_way(bench, asked)


def _one_way(bench: Bench, asked: argparse.Namespace) -> None:
    inner = [name for name in bench.names if name in bench.inner]
    print(f"{bench.way}: {len(bench.names)} patients train {bench.epochs} epochs, {len(inner)} of "
          f"them inner; {len(bench.test)} test, by {asked.by}", flush=True)  # fmt: skip
    validation = bench.kept("inner", inner, rest=True)
    losses = {
        group: float(1 - validation.common[np.array(validation.groups) == group].mean())
        for group in sorted(set(validation.groups))
    }
    best = chosen(validation.dice, validation.groups, asked.minimum_group)
    print(f"inner: losses {_rounded(losses)}, thresholds {best}", flush=True)
    paths = _weights(bench, losses)
    before = bench.kept("nothing", bench.test)
    columns = [GRID.index(best.get(group, COMMON)) for group in before.groups]
    after = {
        "nothing": before.common,
        f"thresholds {best}": before.dice[np.arange(len(columns)), columns],
    }
    for path in paths:
        method = path.stem.removeprefix("weights-")
        if asked.table and not (bench.out / f"{bench.way}-{method}.json").exists():
            after[method] = None
            continue
        after[method] = bench.kept(method, bench.test, path).common
    print(
        "| method | mean Dice | by group | gap | change of the gap | change of the mean | verdict |"
    )
    print("|---|---|---|---|---|---|---|")
    for method, dice in after.items():
        print(f"| {method} | not trained |" if dice is None else _line(method, before, dice))


def _weights(bench: Bench, losses: Mapping[str, float]) -> list[Path]:
    """A table for each method; first the control, equal weights."""
    names = bench.names
    people = People(
        names,
        tuple(map(bench.group, names)),
        tuple(bench.people[name].hospital for name in names),
        frozenset(),
    )
    tables = weigh(people, losses=losses, counts=None, step=3.0, gamma=1.0, largest=5.0)
    for each in tables.groups:
        print(f"{each.method}: {each.group} ({each.patients}) weight {each.weight:.3f}", flush=True)
    folder = bench.out / f"{bench.way}-weights"
    equal = folder / "weights-equal.csv"
    rows = "".join(f"{name},1\n" for name in names)
    write_atomically(equal, f"patient,weight\n{rows}".encode())
    return [equal, *write_weights(people, tables, folder)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder with stores, split and embeddings")
    parser.add_argument("--out", type=Path, required=True, help="where trainings are kept")
    parser.add_argument("--way", choices=("pooled", "federated"), default="pooled")
    parser.add_argument("--table", action="store_true", help="print what is there, train nothing")
    parser.add_argument("--config", type=Path, default=Path("configs/lgg.toml"))
    parser.add_argument("--set", action="append", default=[], help="as in evenhand run")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--by", choices=("sex", "age_group", "race"), default="sex")
    parser.add_argument("--minimum-group", type=int, default=5, help="for a threshold of its own")
    return parser.parse_args()


def _inner(train: Iterable[tuple[str, ...]]) -> set[str]:
    """A third of the training patients of each hospital."""
    found = set()
    for names in train:
        digests = {name: hashlib.sha256(f"inner/{name}".encode()).hexdigest() for name in names}
        found |= set(sorted(names, key=lambda name: digests[name])[::INNER])
    return found


def _line(method: str, before: Judged, after: np.ndarray) -> str:
    rng = np.random.default_rng(SEED)
    trial = judge_trial(before.common, after, before.groups, resamples=4000, rng=rng)
    return _row(method, trial)


def _row(method: str, trial: Trial) -> str:
    def said(each: object, sign: str = "") -> str:
        return f"{each.value:{sign}.3f} ({each.low:{sign}.3f} to {each.high:{sign}.3f})"

    groups = ", ".join(
        f"{each.group} ({each.patients}) {each.after.value:.3f}" for each in trial.groups
    )
    cells = [method, said(trial.overall.after), groups, said(trial.gap_after)]
    if method == "nothing":
        cells += ["", "", ""]
    else:
        cells += [said(trial.gap_change, "+"), said(trial.overall.change, "+"), trial.verdict]
    return "| " + " | ".join(cells) + " |"


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in figures.items()}


def _minutes(started: float) -> str:
    return f"{(time.monotonic() - started) / 60:.1f} min"


if __name__ == "__main__":
    main()
