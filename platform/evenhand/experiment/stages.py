"""From a source of cases to stores, split and embeddings: what all arms stand on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import Progress, TaskID

from evenhand.artifacts import write_atomically
from evenhand.cases.splits import split_patients
from evenhand.cases.store import CaseStore
from evenhand.config import DataConfig, ExperimentConfig
from evenhand.errors import ConfigError, DataError
from evenhand.experiment.layout import RunFolder
from evenhand.ingest.bids import ingest_bids
from evenhand.ingest.corrections import admit_corrections
from evenhand.ingest.participants import read_participants
from evenhand.ingest.phantom import make_phantoms
from evenhand.model.adapted import AdaptedModel
from evenhand.training.data import TrainingPatient, refuse_other_labels
from evenhand.training.loop import Schedule, TrainingReport, train
from evenhand.training.resume import KeptTraining

__all__ = ["prepare_cases", "prepare_embeddings", "stepper", "train_whole"]


@contextmanager
def stepper(bar: Progress, description: str, total: int) -> Iterator[TaskID]:
    """A line of the progress bar that is complete when its block ends well."""
    task = bar.add_task(description, total=total)
    yield task
    bar.update(task, total=max(total, 1), completed=max(total, 1))


def prepare_cases(run: RunFolder, config: ExperimentConfig, bar: Progress) -> None:
    """Fill every hospital's store and write the split.

    Raises:
        ConfigError: a hospital is neither taken nor left out with a reason.
        DataError: something in the source is not what it should be.
    """
    data = config.data
    with stepper(bar, "cases", 1) as task:

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        linked = bool(data.stores)
        hospitals = _link_stores(run, data) if linked else _take_in(run, config, advance)
    stores = [run.hospital(name).store() for name in hospitals]
    _refuse_tiny(stores)
    if data.corrections is not None:
        admit_corrections(data.corrections, stores)
    split = split_patients(stores, test_fraction=data.test_fraction, seed=config.seed)
    write_atomically(run.split_path, split.to_json().encode())


def _link_stores(run: RunFolder, data: DataConfig) -> tuple[str, ...]:
    """Let the run's hospitals have stores that are there already; nothing is copied.

    Raises:
        ConfigError: a store is another hospital's.
        StoreError: there is none at a path.
        DataError: a case lacks a sequence or its mask.
    """
    for name, path in data.stores.items():
        store = CaseStore(path)
        if store.hospital != name:
            raise ConfigError(
                f"data.stores: '{path}' is the store of {store.hospital}, not of {name}. Correct "
                "the path or the name."
            )
        _refuse_incomplete(store, [name for name in data.sequences if name not in data.may_lack])
        refuse_other_labels(store, store, data.labels)
        link = run.hospital(name).path / "store"
        link.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if link.is_symlink():
            link.unlink()  # perhaps to where the store was before
        link.symlink_to(path.resolve(), target_is_directory=True)
    return tuple(sorted(data.stores))


def _refuse_incomplete(store: CaseStore, sequences: Sequence[str]) -> None:
    cases = list(store)
    for sequence in sequences:
        lacking = sum(sequence not in case.sequences for case in cases)
        if lacking:
            raise DataError(
                f"{lacking} case(s) of hospital {store.hospital} have no sequence '{sequence}'. "
                "Change data.sequences, or ingest with --sequence, which refuses such cases."
            )
    unmarked = sum(case.mask_sha256 is None for case in cases)
    if unmarked:
        raise DataError(
            f"{unmarked} case(s) of hospital {store.hospital} have no mask; training and testing "
            "need one. Ingest into a store of their own without --no-masks-required."
        )


def _take_in(
    run: RunFolder, config: ExperimentConfig, advance: Callable[[int, int], None]
) -> tuple[str, ...]:
    """Fill stores of the run's own from a BIDS tree, or from phantoms that are made first."""
    data = config.data
    source = data.source
    if data.phantom is not None:
        source = make_phantoms(data.phantom, run.phantom_path, seed=config.seed, progress=advance)
    if source is None or not source.is_dir():
        raise ConfigError(
            f"data.source must be a folder with a BIDS tree; there is none at '{source}'. "
            "Correct the path, or set it with --set data.source=PATH."
        )
    hospitals = _hospitals(data, source)
    ingest_bids(
        source,
        run.path / "hospitals",
        hospitals=hospitals,
        sequences=data.sequences,
        may_lack=data.may_lack,
        layout="{hospital}/store",
        progress=advance,
    )
    return hospitals


def _hospitals(data: DataConfig, source: Path) -> tuple[str, ...]:
    """Hospitals that take part; every other one of the source needs a reason."""
    present = {person.patient.hospital for person in read_participants(source)}
    silent = present - set(data.hospitals) - set(data.left_out)
    strange = sorted(set(data.left_out) - present)
    if strange:
        raise ConfigError(
            f"data.left_out names hospitals that the source does not have: {', '.join(strange)} "
            f"(it has {', '.join(sorted(present))}). Correct the name, or remove it."
        )
    if data.hospitals and silent:
        raise ConfigError(
            f"The source has hospitals that the config does not mention: "
            f"{', '.join(sorted(silent))}. Add them to data.hospitals, or to data.left_out with "
            "the reason."
        )
    return tuple(sorted(data.hospitals or present - set(data.left_out)))


def _refuse_tiny(stores: list[CaseStore]) -> None:
    for store in stores:
        patients = {case.patient.patient_id for case in store}
        if len(patients) < 2:
            raise DataError(
                f"Hospital {store.hospital} has {len(patients)} patient; training and testing "
                "need two. Leave it out with a reason in data.left_out."
            )


def prepare_embeddings(
    run: RunFolder, config: ExperimentConfig, model: AdaptedModel, bar: Progress
) -> None:
    """Compute the frozen part for all cases that are not in a cache yet."""
    sequence = config.data.sequences[0]
    work = []
    for home in run.hospitals():
        store, cache = home.store(), home.cache(model, sequence)
        work.append((store, cache, cache.missing(store)))
    total = sum(case.shape[2] for _, _, cases in work for case in cases)
    with stepper(bar, "embeddings (slices)", total) as task:
        for store, cache, cases in work:
            cache.fill(store, cases, lambda slices: bar.advance(task, slices))


def train_whole(
    model: AdaptedModel,
    patients: Sequence[TrainingPatient],
    config: ExperimentConfig,
    *,
    label: str,
    bar: Progress,
    kept: KeptTraining | None = None,
) -> TrainingReport:
    """Train all epochs of the config in one piece, with a line of progress; `kept` as in `train`.

    Raises:
        DataError: there is no patient.
    """
    training = config.training
    steps = training.epochs * -(-len(patients) // training.patients_per_step)
    with stepper(bar, f"{label}: training steps", steps) as task:
        return train(
            model,
            patients,
            training,
            epochs=training.epochs,
            schedule=Schedule(training.learning_rate),
            seed=config.seed,
            kept=kept,
            advance=lambda step: bar.advance(task, step),
        )
