"""What each way of mitigating does to a gap on real patients, with a foundation model.

One command over a run folder whose cases and embeddings are there already:

    evenhand run configs/lgg.toml --set 'arms=["box-zero-shot"]' --out runs/inner
    python benchmarks/mitigation_lgg.py runs/inner --epochs 60 --by sex

Trains pooled, in automatic mode, on the run's training patients, once for each method, and judges
all on its test patients. Training patients whose group is unknown are left out. Losses by group and
thresholds come from an inner third of the training patients, judged by a model of the other two.
"Equal weights" is the control: the same training as before in another order, so its change is what
chance alone does. Costs about 7 trainings; with 60 epochs, a seventh of what configs/lgg.toml
trains, some 15 minutes on a free core.
"""

import argparse
import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from evenhand.cases.records import UNKNOWN, Case, Patient
from evenhand.config_files import load_config
from evenhand.experiment.layout import HospitalHome, RunFolder, build_model
from evenhand.model.adapted import AdaptedModel
from evenhand.predict import OpenCase, predict_automatic, without_specks
from evenhand.training.data import TrainingPatient, load_patients
from evenhand.training.loop import Schedule, train
from evenhand_audit.cohort import age_groups
from evenhand_audit.mitigate.people import People
from evenhand_audit.mitigate.tables import weigh, write_weights
from evenhand_audit.mitigate.thresholds import COMMON, GRID, chosen
from evenhand_audit.mitigate.verdict import Trial, judge_trial

SEED = 20261126
INNER = 3
"""One in so many training patients gives the losses and the thresholds."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Dice of patients at every threshold of the grid, (patients, thresholds)."""

    groups: tuple[str, ...]
    dice: np.ndarray

    @property
    def common(self) -> np.ndarray:
        """Dice at the common threshold, (patients,)."""
        return self.dice[:, GRID.index(COMMON)]


class Bench:
    """Everything that is the same for all methods."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.config = load_config(asked.config, asked.set)
        self.epochs = asked.epochs
        self.by = asked.by
        self.model = build_model(self.config)
        self.start = self.model.adapter_state()
        self.sequence = self.config.data.sequences[0]
        run = RunFolder(asked.run)
        split = run.split()
        self.ready: list[TrainingPatient] = []
        self.people: dict[str, Patient] = {}
        self.cases: dict[str, list[tuple[HospitalHome, Case]]] = {}
        for home in run.hospitals():
            for case in home.store():
                one = case.patient
                self.people[one.patient_id] = one
                self.cases.setdefault(one.patient_id, []).append((home, case))
            cache = home.cache(self.model, self.sequence)
            self.ready += load_patients(home.store(), cache, split.train[home.name], self.model)
        self.test = tuple(name for names in split.test.values() for name in names)
        self.ready = [one for one in self.ready if self.group(one.patient_id) != UNKNOWN]
        self.inner = _inner(split.train.values())

    def group(self, name: str) -> str:
        """Group of a patient."""
        one = self.people[name]
        if self.by == "age_group":
            age = np.array([np.nan if one.age_years is None else one.age_years])
            return str(age_groups(age, self.config.audit.age_edges)[0])
        return str(getattr(one, self.by))

    def trained(self, patients: Sequence[TrainingPatient], weights: Path | None) -> AdaptedModel:
        """Train from the start; with the table of weights, if there is one."""
        self.model.load_adapter(self.start)
        training = self.config.training.model_copy(update={"patient_weights": weights})
        schedule = Schedule(training.learning_rate)
        train(
            self.model,
            patients,
            training,
            epochs=self.epochs,
            schedule=schedule,
            seed=self.config.seed,
        )
        return self.model

    def judged(self, names: Iterable[str], *, sweep: bool = False) -> Judged:
        """Judge patients; only at the common threshold unless a sweep is asked for."""
        wanted = list(names)
        rows = [np.mean([self._dice(*one, sweep) for one in self.cases[who]], 0) for who in wanted]
        return Judged(tuple(map(self.group, wanted)), np.array(rows))

    def _dice(self, home: HospitalHome, case: Case, sweep: bool) -> list[float]:
        store = home.store()
        reference = store.volumes(case, ()).mask
        cache = home.cache(self.model, self.sequence)
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
    """Print one line a method."""
    asked = _arguments()
    started = time.monotonic()
    bench = Bench(asked)
    inner = [one for one in bench.ready if one.patient_id in bench.inner]
    rest = [one for one in bench.ready if one.patient_id not in bench.inner]
    names = [one.patient_id for one in bench.ready]
    print(f"{len(names)} patients train {bench.epochs} epochs ({len(rest)} + {len(inner)} inner), "
          f"{len(bench.test)} test, by {asked.by}", flush=True)  # fmt: skip
    bench.trained(rest, None)
    validation = bench.judged((one.patient_id for one in inner), sweep=True)
    losses = {
        group: float(1 - validation.common[np.array(validation.groups) == group].mean())
        for group in sorted(set(validation.groups))
    }
    best = chosen(validation.dice, validation.groups, asked.minimum_group)
    print(f"inner: losses {_rounded(losses)}, thresholds {best}, {_minutes(started)}", flush=True)
    people = People(
        tuple(names),
        tuple(bench.group(name) for name in names),
        tuple(bench.people[name].hospital for name in names),
        frozenset(),
    )
    tables = weigh(people, losses=losses, counts=None, step=3.0, gamma=1.0, largest=5.0)
    for each in tables.groups:
        print(f"{each.method}: {each.group} ({each.patients}) weight {each.weight:.3f}", flush=True)
    bench.trained(bench.ready, None)
    before = bench.judged(bench.test, sweep=True)
    print(
        "| method | mean Dice | by group | gap | change of the gap | change of the mean | verdict |"
    )
    print("|---|---|---|---|---|---|---|")
    _line("nothing", before, before.common)
    columns = [GRID.index(best.get(group, COMMON)) for group in before.groups]
    _line(f"thresholds {best}", before, before.dice[np.arange(len(columns)), columns])
    with TemporaryDirectory() as folder:
        equal = Path(folder) / "equal.csv"
        equal.write_text("patient,weight\n" + "".join(f"{name},1\n" for name in names))
        paths = [equal, *write_weights(people, tables, Path(folder))]
        for path in paths:
            bench.trained(bench.ready, path)
            method = path.stem.removeprefix("weights-").replace("equal", "equal weights (control)")
            _line(method, before, bench.judged(bench.test).common)
    print(f"\nseed {bench.config.seed}, {_minutes(started)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder with stores, split and embeddings")
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


def _line(method: str, before: Judged, after: np.ndarray) -> None:
    rng = np.random.default_rng(SEED)
    trial = judge_trial(before.common, after, before.groups, resamples=4000, rng=rng)
    print(_row(method, trial), flush=True)


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
