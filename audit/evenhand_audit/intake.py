"""Anybody's results become a prediction table: columns mapped, attributes joined, numbers cut.

A table as `evenhand run` writes it is audited as it is. Everything else comes through here and is
written as such a table first, with a sidecar that says what it was made from, so that each figure
of a report can be traced to one hash.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from evenhand import __version__
from evenhand.artifacts import (
    OPTIONAL_COLUMNS,
    PREDICTION_COLUMNS,
    file_sha256,
    write_prediction_table,
)
from evenhand.config import Section
from evenhand.errors import DataError, UsageError
from evenhand.metrics import DEFINITIONS
from evenhand_audit.intake_attributes import joined, read_attributes, with_bins, with_values
from evenhand_audit.intake_config import AuditInput, TableSource
from evenhand_audit.intake_tables import blank_as_missing, numbers, read_any_table
from evenhand_audit.scoring import Progress, score_masks

__all__ = ["Intake", "take_in", "write_intake"]

DEFAULTS: dict[str, str | None] = {
    "prompt": "automatic",
    "hospital": "unknown",
    "sex": "unknown",
    "age_years": None,
    "race": "unknown",
    "ethnicity": "unknown",
}
"""What a column holds that nobody gave."""

SEXES = {"female": "F", "male": "M", "other": "O", "f": "F", "m": "M", "o": "O", "w": "F"}
"""Spellings that mean the same, in lower case."""

MISSING = {"", "n/a", "na", "nan", "none", "null", "unknown"}
"""Spellings of a value that is not known, in lower case."""

COVARIATE = "grade"
"""Column that gaps between like patients are adjusted for where a config names it."""

SKIPPED = "Cases that a model has no mask for were left out; the audit says nothing about them."


@dataclass(frozen=True, eq=False)
class Intake:
    """Rows of a prediction table, and where they come from."""

    rows: pd.DataFrame
    attributes: tuple[str, ...]
    """Further attributes, beyond those that every table has."""
    meta: dict[str, Any]
    notes: tuple[str, ...]
    """What a reader of the report should know about the input."""


def take_in(
    config: AuditInput, *, workers: int | None = None, progress: Progress | None = None
) -> Intake:
    """Read, score, join and cut as the config says; writes nothing.

    Args:
        config: what to read.
        workers: processes that score masks; None: one a core.
        progress: called with how many cases are scored, and of how many.

    Raises:
        DataError: a file is missing or damaged, a column is not there, grids differ.
        UsageError: an attribute or a DICOM keyword does not exist.
    """
    if config.masks is not None:
        rows = score_masks(
            config.masks, config.audit.nsd_tolerance, workers=workers, progress=progress
        )
        made, extra = "scored by Evenhand", rows.iloc[:, :0]
        notes: tuple[str, ...] = (SKIPPED,) if config.masks.missing == "skip" else ()
    else:
        assert config.table is not None  # noqa: S101 - one of the two is given
        rows, extra, notes = _mapped(config)
        made = "ready metrics, by their maker's definitions"
    rows, extra = _with_attributes(config, rows, extra)
    rows = with_bins(config.bins, rows, extra)
    further = _further(config, rows, extra)
    for name in further:
        if name not in rows.columns:
            rows[name] = extra[name]
    rows = _tidy(with_values(config.values, rows), further)
    meta = {
        "intake": config.name,
        "config_sha256": _config_sha256(config),
        "sources": _sources(config),
        "metrics": made,
        "definitions": dict(DEFINITIONS) if config.masks is not None else {},
        "evenhand": __version__,
    }
    return Intake(rows, tuple(further), meta, notes)


def write_intake(intake: Intake, path: Path) -> None:
    """Write the prediction table and its sidecar; the table is validated before.

    Raises:
        DataError: a row breaks the schema; nothing is written then.
    """
    columns = [*PREDICTION_COLUMNS, *OPTIONAL_COLUMNS, *intake.attributes]
    rows = intake.rows[[column for column in columns if column in intake.rows.columns]]
    records = [
        {str(key): value for key, value in row.items()} for row in rows.to_dict(orient="records")
    ]
    write_prediction_table(path, records, intake.meta, attributes=intake.attributes)


def _mapped(config: AuditInput) -> tuple[pd.DataFrame, pd.DataFrame, tuple[str, ...]]:
    """Rows under our columns, all columns of the source, and what was passed over."""
    source = config.table
    assert source is not None  # noqa: S101 - the caller has looked
    tables: dict[str, Path | None] = {**source.models} or {"": source.path}
    rows, extras, unused = [], [], set[str]()
    for model, path in tables.items():
        assert path is not None  # noqa: S101 - exactly one of path and models is given
        found = read_any_table(path)
        part = _renamed(found, source, path.name)
        if model:
            part["arm"] = model
        elif "arm" not in part:
            part["arm"] = path.stem
        used = {source.columns.get(column, column) for column in part.columns}
        unused |= {*map(str, found.columns)} - used
        rows.append(part)
        extras.append(found)
    wanted = {*config.audit.attributes, *(each.column for each in config.bins.values())}
    passed = sorted(unused - wanted)
    notes = (f"Columns of the source that were not used: {', '.join(passed)}.",) if passed else ()
    extra = pd.concat(extras, ignore_index=True)
    return pd.concat(rows, ignore_index=True), extra, notes


def _renamed(found: pd.DataFrame, source: TableSource, name: str) -> pd.DataFrame:
    """The columns that we know, under our names."""
    theirs = [str(column) for column in found.columns]
    for ours, column in source.columns.items():
        if column not in theirs:
            raise DataError(
                f"'{name}' has no column '{column}' (wanted as '{ours}'); {_near(column, theirs)}"
            )
    known = (*PREDICTION_COLUMNS, *OPTIONAL_COLUMNS)
    # A name that is given away to another column is not taken for its own.
    own = [c for c in theirs if c in known and c not in source.columns.values()]
    mapping = {ours: ours for ours in own} | dict(source.columns)
    part = pd.DataFrame({ours: found[column] for ours, column in mapping.items()})
    for ours, value in source.constants.items():
        part[ours] = value
    for ours, factor in source.scale.items():
        if ours not in part:
            raise DataError(
                f"table.scale names '{ours}', which '{name}' does not have; {_near(ours, theirs)}"
            )
        part[ours] = numbers(part[ours], name, ours) * factor
    _complete(part, theirs, name)
    return part


def _complete(part: pd.DataFrame, theirs: Sequence[str], name: str) -> None:
    """Fill what can be known, refuse what cannot."""
    for column, value in DEFAULTS.items():
        if column not in part:
            part[column] = value
    if "patient" not in part and "case" in part:
        part["patient"] = part["case"]
    if "case" not in part and "patient" in part:
        part["case"] = part["patient"]
    if "empty" not in part and {"volume_reference", "volume_predicted"} <= {*part.columns}:
        part["empty"] = _empty_by_volume(part, name)
    for column in PREDICTION_COLUMNS:
        if column not in part and column != "arm":
            raise DataError(
                f"'{name}' lacks '{column}'; {_near(column, theirs)} Say under table.columns what "
                "the table calls it, or under table.constants what it is for all rows."
            )


def _empty_by_volume(part: pd.DataFrame, name: str) -> "pd.Series[Any]":
    no_reference = numbers(part["volume_reference"], name, "volume_reference") == 0
    no_predicted = numbers(part["volume_predicted"], name, "volume_predicted") == 0
    empty = pd.Series("none", index=part.index, dtype=object)
    empty[no_reference] = "reference"
    empty[no_predicted] = "prediction"
    empty[no_reference & no_predicted] = "both"
    return empty


def _with_attributes(
    config: AuditInput, rows: pd.DataFrame, extra: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Join what the attributes' source says; it wins over blanks, not over what a table says."""
    if config.attributes is None:
        return _filled(rows), extra
    wanted = {*config.audit.attributes, *(each.column for each in config.bins.values())}
    people = read_attributes(config.attributes, rows, wanted)
    rows, more = joined(rows, people)
    return _filled(rows), pd.concat([extra.reset_index(drop=True), more], axis=1)


def _filled(rows: pd.DataFrame) -> pd.DataFrame:
    for column, value in DEFAULTS.items():
        if column not in rows:
            rows[column] = value
    return rows


def _further(config: AuditInput, rows: pd.DataFrame, extra: pd.DataFrame) -> list[str]:
    """Attributes to keep beyond the table's own, each of which must be somewhere."""
    own = {"hospital", "sex", "age_group", "race", "ethnicity"}
    further = [*config.bins]
    for name in config.audit.attributes:
        if name in own or name in further:
            continue
        known = sorted({*own, *config.bins, *map(str, extra.columns)})
        if name not in extra.columns and name not in rows.columns:
            raise UsageError(f"There is no attribute '{name}'; {_near(name, known)}")
        if name in PREDICTION_COLUMNS or name in OPTIONAL_COLUMNS:
            raise UsageError(
                f"'{name}' is a figure, not an attribute. Cut it into groups under [bins.NAME]."
            )
        further.append(name)
    sources = (config.attributes, config.table)
    named = {name for source in sources if source is not None for name in source.columns}
    named |= {*config.attributes.keywords} if config.attributes is not None else set()
    if COVARIATE in named and COVARIATE not in further:
        further.append(COVARIATE)  # held equal, whether or not it is compared
    return further


def _tidy(rows: pd.DataFrame, further: Sequence[str]) -> pd.DataFrame:
    """One spelling for what is missing and for sexes."""
    rows = rows.copy()
    for column in ("hospital", "sex", "race", "ethnicity", *further):
        rows[column] = blank_as_missing(rows[column], MISSING)
    lower = rows["sex"].str.lower()
    rows["sex"] = lower.map(SEXES).fillna(rows["sex"])
    rows["age_years"] = rows["age_years"].where(
        ~rows["age_years"].astype(str).str.strip().str.lower().isin(MISSING), other=None
    )
    return rows


def _near(name: str, known: Iterable[str]) -> str:
    options = list(known)
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(options)}."


def _config_sha256(config: Section) -> str:
    content = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _sources(config: AuditInput) -> dict[str, str]:
    """Hash of each table that was read, by file name."""
    paths: list[Path] = []
    if config.table is not None:
        paths += [*config.table.models.values()] or [config.table.path or Path()]
    if config.attributes is not None and config.attributes.path is not None:
        paths.append(config.attributes.path)
    return {path.name: file_sha256(path) for path in paths}
