"""What `evenhand audit` was given, and how it becomes a prediction table on disk."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.progress import TaskID

from evenhand.config import AuditConfig
from evenhand.config_files import load_section
from evenhand.errors import DataError, UsageError
from evenhand.progress import progress_bar
from evenhand_audit.intake_config import AuditInput, TableSource
from evenhand_audit.intake_findings import examine
from evenhand_audit.scoring import Progress

__all__ = ["InputPlan", "ReadyTable", "lazy_progress", "plan_input", "ready_table", "run_table"]

RUN_TABLE = "predictions.csv"
"""The prediction table in the folder of a run."""

TABLE_ENDINGS = (".csv", ".tsv", ".txt", ".parquet")


@dataclass(frozen=True)
class InputPlan:
    """What is audited, and how; exactly one of the two sources is set."""

    audit: AuditConfig
    title: str
    table: Path | None
    """A prediction table as it is."""
    intake: AuditInput | None
    """What has to be mapped or scored first."""


@dataclass(frozen=True)
class ReadyTable:
    """A prediction table on disk."""

    path: Path
    is_new: bool
    """Whether it was written just now."""
    findings: tuple[str, ...]
    """What a reader of the report should know about the input."""


def plan_input(
    given: Path,
    *,
    options: Mapping[str, Any],
    columns: Mapping[str, str],
    constants: Mapping[str, str],
    overrides: Sequence[str],
) -> InputPlan:
    """Decide what the input is; reads a config, but no results yet.

    Args:
        given: folder of a run, a table, or a config.
        options: keys of `AuditConfig` that the command line sets; they win over a config.
        columns: as `TableSource.columns`, for a table.
        constants: as `TableSource.constants`, for a table.
        overrides: `key=value`, such as `audit.resamples=5000`.

    Raises:
        UsageError: the input is of no known kind, or options do not go with it.
    """
    ending = given.suffix.lower()
    if ending == ".toml":
        if columns or constants:
            raise UsageError(
                "--column and --constant are for a table; a config has [table.columns] and "
                "[table.constants]."
            )
        config = load_section(given, AuditInput, overrides)
        audit = _with_options(config.audit, options)
        return InputPlan(audit, config.title, None, config.model_copy(update={"audit": audit}))
    wrong = [override for override in overrides if not override.startswith("audit.")]
    if wrong:
        raise UsageError(
            f"--set {wrong[0]}: a table has only the audit's keys, such as audit.resamples=5000."
        )
    keys = [override.removeprefix("audit.") for override in overrides]
    audit = _with_options(load_section(None, AuditConfig, keys), options)
    if given.is_dir():
        return InputPlan(audit, "", run_table(given), None)
    if ending not in TABLE_ENDINGS:
        raise UsageError(
            f"'{given}' is neither the folder of a run, nor a table ({', '.join(TABLE_ENDINGS)}), "
            "nor a config (.toml). For masks, write a config: see the auditor's guide."
        )
    own = {"hospital", "sex", "age_group", "race", "ethnicity"}
    foreign = ending != ".csv" or columns or constants
    if not foreign and not {*audit.attributes} - own:
        return InputPlan(audit, "", given, None)
    if given.with_suffix(".json").exists() and not foreign:
        return InputPlan(audit, "", given, None)  # its sidecar names its attributes
    source = TableSource(path=given, columns=dict(columns), constants=dict(constants))
    return InputPlan(audit, "", None, AuditInput(name="table", table=source, audit=audit))


def run_table(given: Path) -> Path:
    """The prediction table of a run's folder; a file is itself.

    Raises:
        DataError: the folder has none.
    """
    if not given.is_dir():
        return given
    if not (given / RUN_TABLE).is_file():
        raise DataError(
            f"The folder '{given}' has no {RUN_TABLE}, so it is no finished run. For folders of "
            "masks, write a config: see the auditor's guide."
        )
    return given / RUN_TABLE


def ready_table(
    plan: InputPlan, out: Path, *, workers: int | None = None, progress: Progress | None = None
) -> ReadyTable:
    """Bring the input onto disk as a prediction table, examined.

    A table that had to be made lies beside `out`, not in it: a report is handed over, its cases
    are not.

    Raises:
        DataError: what is wrong with the input; nothing is written then.
    """
    from evenhand.artifacts import read_prediction_table
    from evenhand_audit.intake import take_in, write_intake

    if plan.table is not None:
        frame, _ = read_prediction_table(plan.table)
        return ReadyTable(plan.table, is_new=False, findings=examine(frame, plan.audit))
    assert plan.intake is not None  # noqa: S101 - one of the two is set
    path = out.with_name(f"{out.name}-cases.csv")
    if path.exists() and not path.with_suffix(".json").exists():
        raise UsageError(
            f"'{path}' is in the way and is no table that Evenhand wrote. Move it, or choose "
            "another --out."
        )
    intake = take_in(plan.intake, workers=workers, progress=progress)
    findings = examine(intake.rows, plan.audit)
    write_intake(intake, path)
    return ReadyTable(path, is_new=True, findings=(*intake.notes, *findings))


def _with_options(config: AuditConfig, options: Mapping[str, Any]) -> AuditConfig:
    try:
        return AuditConfig.model_validate(config.model_dump() | dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "audit"
        raise UsageError(f"{key}: {first['msg'].removeprefix('Value error, ')}.") from None


@contextmanager
def lazy_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that moves a progress bar, which appears with its first call."""
    with progress_bar() as bar:
        task: list[TaskID] = []

        def step(done: int, total: int) -> None:
            if not task:
                task.append(bar.add_task(what, total=total))
            bar.update(task[0], completed=done)

        yield step
