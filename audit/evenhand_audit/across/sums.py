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
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evenhand import __version__
from evenhand.artifacts import read_prediction_table, write_atomically
from evenhand.config import AuditConfig
from evenhand.errors import DataError, UsageError
from evenhand_audit.arms import EVERYBODY, PAIR, ArmAtWork, Partition, prepare_arm
from evenhand_audit.cohort import attributes_of, check_attributes, figure_of, patients_of
from evenhand_audit.disclosure import POOL, Publication, TooCloseError, cell_name
from evenhand_audit.register import Register
from evenhand_audit.resampling import Figure

__all__ = [
    "SUMS_SCHEMA",
    "SUMS_SCHEMA_VERSION",
    "ArmSums",
    "HospitalSums",
    "Row",
    "asked_of",
    "moments_of",
    "read_sums",
    "rows_of_hospital",
    "settings_of",
    "sums_of",
    "write_sums",
]  # fmt: skip

SUMS_SCHEMA = "evenhand audit sums"
"""What the file says it is."""

SUMS_SCHEMA_VERSION = 2
"""Raised when the layout of the file changes. 2 added pairs."""

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
    *,
    pairs: bool = False,
) -> tuple[HospitalSums, Register | None]:
    """Sum up one hospital's rows of a prediction table.

    Args:
        path: the table, or the folder of a run's table.
        config: attributes, age edges, minimum group, register.
        hospital: whose rows, where the table has several.
        joined: by attribute, groups that all hospitals agreed to put together: their joint name.
        pairs: whether pairs of attributes are told too.

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
    asked = asked_of(config, pairs=pairs)
    check_attributes(tuple(joined or {}), asked.attributes)
    table, name, meta = rows_of_hospital(path, asked, hospital)
    register = Register(config.register_file) if config.register_file else None
    arms = tuple(_arms(table, asked, register, joined or {}))
    settings = settings_of(asked, table, meta) | {
        "joined": {name: dict(groups) for name, groups in (joined or {}).items()},
    }
    return HospitalSums(name, settings, arms), register


def asked_of(config: AuditConfig, *, pairs: bool) -> AuditConfig:
    """Return the config of one hospital's sums: the hospital itself is no attribute of them."""
    attributes = tuple(name for name in config.attributes if name != "hospital")
    return config.model_copy(update={"attributes": attributes, "intersections": pairs})


def settings_of(
    config: AuditConfig, table: pd.DataFrame, meta: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what must be the same at all hospitals, however their sums are told."""
    return {
        "attributes": list(config.attributes),
        "age_edges": list(config.age_edges),
        "minimum_group": config.minimum_group,
        "pairs": config.intersections,
        "units": str(table["units"].iloc[0]),
        "nsd_tolerance": float(table["nsd_tolerance"].iloc[0]),
        "definitions": dict(meta.get("definitions") or {}),
    }


def rows_of_hospital(
    path: Path, config: AuditConfig, hospital: str
) -> tuple[pd.DataFrame, str, dict[str, Any]]:
    """Read a prediction table: one hospital's rows, its name, and what the sidecar says.

    Raises:
        UsageError: there is no such hospital or attribute, or several and none is named.
    """
    table, meta = read_prediction_table(path, attributes=config.attributes)
    check_attributes(config.attributes, attributes_of(table))
    known = sorted(set(table["hospital"]))
    if not hospital and len(known) > 1:
        raise UsageError(
            f"The table has {len(known)} hospitals ({', '.join(known)}); name one with --hospital."
        )
    name = hospital or known[0]
    if name not in known:
        raise UsageError(f"The table has no hospital '{name}'; it has: {', '.join(known)}.")
    return table[table["hospital"] == name], name, meta


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
    memory = register or Register()  # arms of one table are told together
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
        earlier = memory.earlier(ids, with_new=True)
        try:
            arm = prepare_arm((str(names[0]), prompt), cases, patients, config, earlier)
        except TooCloseError:
            raise DataError(
                f"The patients of '{names[0]}' differ from those of an earlier report, or of "
                f"another arm in this table, by fewer than {config.minimum_group}, so the two "
                "together would tell of single patients. Give all arms the same patients, or tell "
                "of one."
            ) from None
        memory.note(ids, arm.publication.rows)
        yield ArmSums(*arm.names, tuple(_rows(arm)))


def _rows(arm: ArmAtWork) -> Iterator[Row]:
    figures = {each.column: figure_of(arm.patients, each) for each in arm.metrics}

    def row(attribute: str, group: str, members: Sequence[str], who: Any) -> Row:
        moments = {column: moments_of(figure.of(who)) for column, figure in figures.items()}
        return Row(attribute, group, tuple(members), len(who), moments)

    yield row("", EVERYBODY, (), np.arange(len(arm.patients)))
    for partition in arm.partitions:
        inside = _inside(arm.publication, partition)
        for label, who in zip(partition.labels, partition.members, strict=True):
            members = inside.get(label) or [
                each for hidden in partition.pooled for each in inside.get(hidden, (hidden,))
            ]
            yield row(partition.attribute, label, members, who)


def _inside(publication: Publication, partition: Partition) -> dict[str, tuple[str, ...]]:
    """Groups, or cells of a pair, that each name stands for, whose attributes may have pools."""

    def of(name: str) -> dict[str, tuple[str, ...]]:
        grouping = publication.single[name]
        alone = {label: (label,) for label in grouping.shown}
        return alone | ({POOL: grouping.pooled} if grouping.pooled else {})

    if not partition.crossed:
        alone = of(partition.attribute)
        return {label: each for label, each in alone.items() if label != POOL}
    first, second = (of(name) for name in partition.attribute.split(PAIR))
    return {
        cell_name(one, two): tuple(cell_name(*cell) for cell in product(first[one], second[two]))
        for one, two in product(first, second)
    }


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


def read_sums(record: Mapping[str, Any]) -> HospitalSums:
    """Read the record of a file that says it is one of sums.

    Raises:
        KeyError, TypeError, ValueError: it is damaged.
    """
    arms = tuple(
        ArmSums(str(arm["arm"]), str(arm["prompt"]), tuple(_row(each) for each in arm["rows"]))
        for arm in record["arms"]
    )
    return HospitalSums(str(record["hospital"]), dict(record["settings"]), arms)


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
