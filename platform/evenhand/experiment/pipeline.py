"""`evenhand run`: the whole way from cases to report, resumable at every stage."""

import fcntl
import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from evenhand import __version__, plugins
from evenhand.artifacts import write_atomically, write_prediction_table
from evenhand.config import ExperimentConfig
from evenhand.errors import ResourceError, UsageError
from evenhand.experiment.arms import arms_of, refuse_spent, run_arm
from evenhand.experiment.layout import RunFolder, build_model
from evenhand.experiment.stages import prepare_cases, prepare_embeddings, stepper
from evenhand.ingest.phantom import TRUTH_FILE
from evenhand.metrics import DEFINITIONS
from evenhand.model.weights import fetch, find

__all__ = ["Outcome", "run_experiment"]


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: its folder, the report, and one record an arm by name."""

    run: RunFolder
    report: Path
    arms: dict[str, dict[str, Any]]


def run_experiment(config: ExperimentConfig, out: Path, bar: Progress) -> Outcome:
    """Run what is not done yet, and write the report.

    Args:
        config: the experiment.
        out: its folder; made if need be. A folder of another experiment is refused.
        bar: where progress is shown.

    Raises:
        UsageError: `out` belongs to another experiment.
        EvenhandError: whatever a stage refuses.
    """
    try:
        with _open(config, out) as run:
            return _run(run, config, bar)
    except OSError as error:
        raise ResourceError(
            f"'{error.filename or out}' could not be read or written: {error.strerror or error}. "
            "Put that right and run the same command again; finished work is kept."
        ) from None


def _run(run: RunFolder, config: ExperimentConfig, bar: Progress) -> Outcome:
    fetch(config.model.backbone, progress=bar)
    seconds: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], None]) -> None:
        started = time.monotonic()
        work()
        seconds[stage] = round(time.monotonic() - started, 1)

    timed("cases", lambda: prepare_cases(run, config, bar))
    arms = arms_of(config, run.split().hospitals)
    refuse_spent(run, config, arms)
    timed("embeddings", lambda: prepare_embeddings(run, config, build_model(config), bar))
    records = {}
    for arm in arms:
        timed(arm.name, lambda arm=arm: records.update({arm.name: run_arm(run, config, arm, bar)}))  # type: ignore[misc]
    _write_table(run, config, records)
    with stepper(bar, "report", 1):
        write = plugins.load("evenhand.reports", "audit")
        report: Path = write(
            run.predictions_path,
            run.report_folder,
            config=config.audit,
            facts=_facts(run, config, records),
        )
    _write_record(run, config, seconds)
    return Outcome(run, report, records)


@contextmanager
def _open(config: ExperimentConfig, out: Path) -> Iterator[RunFolder]:
    """Make or find the folder of the run, and keep others out of it for as long as we work."""
    run = RunFolder(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"'{out}' is a file. Choose a folder with --out.")
    if run.config_path.exists():
        earlier = run.config()
        if (earlier.name, earlier.data) != (config.name, config.data):
            raise UsageError(
                f"'{out}' holds another experiment, or the same on other data. "
                "Choose another folder with --out."
            )
    elif out.exists() and any(path != run.lock_path for path in out.iterdir()):
        raise UsageError(f"'{out}' is not empty and not a run. Choose another folder with --out.")
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    with run.lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"Another command is working in '{out}'. Wait for it, or choose another folder "
                "with --out."
            ) from None
        content = json.dumps(config.model_dump(mode="json"), indent=1)
        write_atomically(run.config_path, content.encode())
        yield run


def _write_table(
    run: RunFolder, config: ExperimentConfig, records: dict[str, dict[str, Any]]
) -> None:
    weights = find(config.model.backbone)
    meta = {
        "experiment": config.name,
        "config_fingerprint": config.fingerprint(),
        "backbone": config.model.backbone,
        "weights_sha256": weights.sha256,
        "definitions": dict(DEFINITIONS),
        "evenhand": __version__,
    }
    rows = [row for record in records.values() for row in record["rows"]]
    further = run.further_attributes(config)
    write_prediction_table(run.predictions_path, rows, meta, attributes=further)


def _facts(
    run: RunFolder, config: ExperimentConfig, records: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """What the report says beside the table."""
    truth_path = run.phantom_path / TRUTH_FILE
    split = run.split()
    test = sum(len(patients) for patients in split.test.values())
    train = sum(len(patients) for patients in split.train.values())
    keys = ("epsilon", "seconds", "bytes_moved", "note", "train_patients")
    return {
        "title": f"Subgroup audit: {config.name}",
        "arms": {
            name: {key: record[key] for key in keys}
            | {"attack": _attack(run) if record["epsilon"] else None}
            for name, record in records.items()
        },
        "notes": [
            f"One split by patient, stratified by hospital: {train} train, {test} test.",
            (
                "Automatic mode: no prompt, every slice counted. Box: one box on every slice "
                "with tumour, made from the reference and jittered by up to "
                f"{config.training.box_jitter} pixels a side."
            ),
        ],
        "left_out": dict(config.data.left_out),
        "weights": f"{config.model.backbone} ({find(config.model.backbone).sha256[:12]})",
        "planted_bias": json.loads(truth_path.read_text("utf-8")) if truth_path.exists() else None,
    }


def _attack(run: RunFolder) -> str | None:
    """What an attack on this run has proven beside what was promised; None where none was made."""
    if not run.attack_path.exists():
        return None
    return str(json.loads(run.attack_path.read_text("utf-8"))["sentence"])


def _write_record(run: RunFolder, config: ExperimentConfig, seconds: dict[str, float]) -> None:
    import os

    import torch

    record = {
        "evenhand": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "backbone": config.model.backbone,
        "weights_sha256": find(config.model.backbone).sha256,
        "config_fingerprint": config.fingerprint(),
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": seconds,
    }
    write_atomically(run.record_path, json.dumps(record, indent=1).encode())


def _commit() -> str | None:
    """The commit that runs; None where this is not a checkout, or git is not installed."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(  # noqa: S603 - nothing of it comes from outside
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return answer.stdout.strip() or None
