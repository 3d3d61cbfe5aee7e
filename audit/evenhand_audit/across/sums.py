"""What one hospital tells: numbers of patients and sums of its metrics by group. No row, no id.

A mean metric is told as its sum and its sum of squares over patients, a rate as the five sums that
its linearised error needs. With these a mean, its spread and every interval of normal theory come
out as they would from all rows together.

Which groups are told one by one and which only together is decided as for a report
(`evenhand_audit.disclosure`), so that no group under the minimum can be worked out from what was
told. A register remembers it, where the config names one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evenhand import __version__
from evenhand.artifacts import read_prediction_table, write_atomically
from evenhand.config import AuditConfig
from evenhand.errors import DataError, UsageError
from evenhand_audit.arms import EVERYBODY, ArmAtWork, prepare_arm
from evenhand_audit.cohort import attributes_of, check_attributes, figure_of, patients_of
from evenhand_audit.disclosure import TooCloseError
from evenhand_audit.register import Register
from evenhand_audit.resampling import Figure

__all__ = ["SUMS_SCHEMA", "SUMS_SCHEMA_VERSION", "ArmSums", "HospitalSums", "Row", "moments_of",
           "read_sums", "sums_of", "write_sums"]  # fmt: skip

SUMS_SCHEMA = "evenhand audit sums"
"""What the file says it is."""

SUMS_SCHEMA_VERSION = 1
"""Raised when the layout of the file changes."""

LEAST_GROUP = 3
"""Two values follow from their sum and the sum of their squares."""


@dataclass(frozen=True)
class Row:
    """One set of patients: everybody, a group, or the groups that are told together."""

    attribute: str
    """Empty for everybody."""
    group: str
    members: tuple[str, ...]
    """The groups in it; several where small ones are told together."""
    patients: int
    moments: dict[str, tuple[float, ...]]
    """By metric column, as `moments_of`."""


@dataclass(frozen=True)
class ArmSums:
    """One arm and prompt."""

    arm: str
    prompt: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class HospitalSums:
    """All that one hospital tells."""

    hospital: str
    settings: dict[str, Any]
    """Must be the same at all hospitals."""
    arms: tuple[ArmSums, ...]


def moments_of(figure: Figure) -> tuple[float, ...]:
    """Sums over patients: of a mean (x, x^2), of a rate (top, bottom, top^2, both, bottom^2)."""
    top, bottom = figure.top, figure.bottom
    if bottom is None:
        return float(top.sum()), float((top**2).sum())
    parts = (top, bottom, top**2, top * bottom, bottom**2)
    return tuple(float(each.sum()) for each in parts)


def sums_of(
    path: Path,
    config: AuditConfig,
    hospital: str = "",
    joined: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[HospitalSums, Register | None]:
    """Sum up one hospital's rows of a prediction table.

    Args:
        path: the table, or the folder of a run's table.
        config: attributes, age edges, minimum group, register.
        hospital: whose rows, where the table has several.
        joined: by attribute, groups that all hospitals agreed to put together: their joint name.

    Returns:
        What may be told, and the register that is to be saved when it is.

    Raises:
        DataError: too few patients, or an earlier report is too near.
        UsageError: no such hospital or attribute, or a minimum that hides nothing.
    """
    if config.minimum_group < LEAST_GROUP:
        raise UsageError(
            f"Sums and sums of squares of {config.minimum_group} patients give their values away; "
            f"--minimum-group must be {LEAST_GROUP} or more."
        )
    attributes = tuple(name for name in config.attributes if name != "hospital")
    table, meta = read_prediction_table(path, attributes=attributes)
    check_attributes(attributes, attributes_of(table))
    check_attributes(tuple(joined or {}), attributes)
    table, name = _of_hospital(table, hospital)
    register = Register(config.register_file) if config.register_file else None
    asked = config.model_copy(update={"attributes": attributes, "intersections": False})
    arms = tuple(_arms(table, asked, register, joined or {}))
    settings = {
        "attributes": list(attributes),
        "age_edges": list(config.age_edges),
        "minimum_group": config.minimum_group,
        "joined": {name: dict(groups) for name, groups in (joined or {}).items()},
        "units": str(table["units"].iloc[0]),
        "nsd_tolerance": float(table["nsd_tolerance"].iloc[0]),
        "definitions": dict(meta.get("definitions") or {}),
    }
    return HospitalSums(name, settings, arms), register


def _of_hospital(table: pd.DataFrame, hospital: str) -> tuple[pd.DataFrame, str]:
    known = sorted(set(table["hospital"]))
    if not hospital and len(known) > 1:
        raise UsageError(
            f"The table has {len(known)} hospitals ({', '.join(known)}); name one with --hospital."
        )
    name = hospital or known[0]
    if name not in known:
        raise UsageError(f"The table has no hospital '{name}'; it has: {', '.join(known)}.")
    return table[table["hospital"] == name], name


def _arms(
    table: pd.DataFrame,
    config: AuditConfig,
    register: Register | None,
    joined: Mapping[str, Mapping[str, str]],
) -> Iterator[ArmSums]:
    keys = [
        "arm",
        "prompt",
        *(["label"] if "label" in table and len(set(table["label"])) > 1 else []),
    ]
    for names, cases in table.groupby(keys, sort=False):
        patients = patients_of(cases, config.attributes, config.age_edges)
        for attribute, names_of in joined.items():
            patients[attribute] = patients[attribute].replace(dict(names_of))
        if len(patients) < config.minimum_group:
            raise DataError(
                f"'{names[0]}' has {len(patients)} patients here, and {config.minimum_group} are "
                "the fewest that a figure may stand for. This hospital can tell nothing yet."
            )
        prompt = " · ".join(str(each) for each in names[1:])
        ids = [str(each) for each in patients["patient"]]
        earlier = register.earlier(ids) if register else ([], 0)
        try:
            arm = prepare_arm((str(names[0]), prompt), cases, patients, config, earlier)
        except TooCloseError:
            raise DataError(
                "The patients differ from those of an earlier report by fewer than "
                f"{config.minimum_group}, so the two together would tell of single patients."
            ) from None
        if register:
            register.note(ids, arm.publication.rows)
        yield ArmSums(*arm.names, tuple(_rows(arm)))


def _rows(arm: ArmAtWork) -> Iterator[Row]:
    figures = {each.column: figure_of(arm.patients, each) for each in arm.metrics}

    def row(attribute: str, group: str, members: Sequence[str], who: Any) -> Row:
        moments = {column: moments_of(figure.of(who)) for column, figure in figures.items()}
        return Row(attribute, group, tuple(members), len(who), moments)

    yield row("", EVERYBODY, (), np.arange(len(arm.patients)))
    for partition in arm.partitions:
        for label, who in zip(partition.labels, partition.members, strict=True):
            alone = label in arm.publication.single[partition.attribute].shown
            yield row(partition.attribute, label, (label,) if alone else partition.pooled, who)


def write_sums(sums: HospitalSums, path: Path, register: Register | None = None) -> None:
    """Write what leaves; the register first, since what is out must be known.

    Raises:
        ResourceError: the file cannot be written.
    """
    record = {
        "schema": SUMS_SCHEMA,
        "schema_version": SUMS_SCHEMA_VERSION,
        "evenhand": __version__,
        **asdict(sums),
    }
    text = json.dumps(record, indent=1, allow_nan=False)
    if register is not None:
        register.save()
    write_atomically(path, f"{text}\n".encode())


def read_sums(path: Path) -> HospitalSums:
    """Read what a hospital told.

    Raises:
        DataError: missing, damaged, of another kind or version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"There is no '{path}'. Correct the path.") from None
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or record.get("schema") != SUMS_SCHEMA:
        raise DataError(f"'{path.name}' is no file of `evenhand audit sums`, or is damaged.")
    if record.get("schema_version") != SUMS_SCHEMA_VERSION:
        raise DataError(
            f"'{path.name}' has schema {record.get('schema_version')}; this version of Evenhand "
            f"reads {SUMS_SCHEMA_VERSION}. Ask the hospital to write it again."
        )
    try:
        arms = tuple(
            ArmSums(str(arm["arm"]), str(arm["prompt"]), tuple(_row(each) for each in arm["rows"]))
            for arm in record["arms"]
        )
        return HospitalSums(str(record["hospital"]), dict(record["settings"]), arms)
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"'{path.name}' is damaged: something is missing in it. Ask the hospital for it again."
        ) from None


def _row(each: dict[str, Any]) -> Row:
    moments = {
        str(column): tuple(float(part) for part in parts)
        for column, parts in each["moments"].items()
    }
    members = tuple(str(name) for name in each["members"])
    patients = int(each["patients"])
    if patients < 1 or any(len(parts) not in {2, 5} for parts in moments.values()):
        raise ValueError
    return Row(str(each["attribute"]), str(each["group"]), members, patients, moments)
