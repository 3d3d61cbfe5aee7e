"""Two tables side by side: what has changed between two versions of a model, or two months.

Groups are the finest that both tables' own reports may show: a group that either report hides in a
pool is compared within that pool, together with whatever the other report pools. So each mean
that enters a comparison is one that follows from the two reports, and nobody new is given away.

The second report is planned as one that follows the first: rows whose patients differ by fewer than
the minimum between the tables are joined with others, and where everybody differs by so few the
comparison is refused. A register, where there is one, makes reports before both count likewise, and
takes both down.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evenhand.artifacts import file_sha256, read_prediction_table
from evenhand.config import AuditConfig
from evenhand.errors import DataError, UsageError
from evenhand_audit.cohort import attributes_of, check_attributes, group_order, patients_of
from evenhand_audit.compare_statistics import Moved, change_of_means
from evenhand_audit.disclosure import (
    Publication,
    TooCloseError,
    all_pairs,
    plan_publication,
)
from evenhand_audit.intake_plan import run_table
from evenhand_audit.records import METRICS
from evenhand_audit.register import Register
from evenhand_audit.resampling import LEVEL, generator_for

__all__ = ["ArmChange", "Change", "Comparison", "GroupChange", "compare_files", "compare_tables"]

SEED = 20240718
"""Start of all resampling, so that the same tables give the same comparison."""

EVERYBODY = "everybody"
"""Name of the row that is nobody's subgroup."""

Partition = dict[str, str]
"""Group to the name under which it is shown."""


@dataclass(frozen=True)
class Change:
    """One metric of one group: mean before, mean after, and the difference."""

    before: float
    after: float
    change: float
    interval: tuple[float, float]
    simultaneous: tuple[float, float]
    """At a level that holds over all comparisons of this page together (Bonferroni)."""
    is_better: bool | None
    """None where the simultaneous interval reaches 0: the direction is open."""


@dataclass(frozen=True)
class GroupChange:
    """One row: a group of an attribute, a pool of groups, or everybody."""

    attribute: str
    group: str
    patients_before: int
    patients_after: int
    metrics: dict[str, Change]


@dataclass(frozen=True)
class ArmChange:
    """One model before and after."""

    before: str
    after: str
    prompt: str
    overlap: str
    """Whether the same patients are in both, in words."""
    overall: GroupChange
    groups: tuple[GroupChange, ...]


@dataclass(frozen=True)
class Comparison:
    """Two tables compared, and what they are."""

    arms: tuple[ArmChange, ...]
    notes: tuple[str, ...]
    units: str
    nsd_tolerance: float
    minimum_group: int
    resamples: int
    comparisons: int
    origin: dict[str, Any]


def compare_files(
    before: Path,
    after: Path,
    config: AuditConfig,
    *,
    pairs: Mapping[str, str],
    register: Register | None = None,
) -> Comparison:
    """Compare two prediction tables, or the runs that hold them.

    Args:
        before: a table or a run's folder.
        after: likewise.
        config: attributes, age edges, minimum group, resamples.
        pairs: arm of the first to arm of the second, where names differ.
        register: earlier reports; what this one shows is noted in it, and not yet saved.

    Raises:
        DataError: a table is damaged, definitions differ, or nothing can be compared.
        UsageError: an attribute or an arm is not there.
    """
    paths = [run_table(before), run_table(after)]
    tables = [read_prediction_table(path, attributes=config.attributes) for path in paths]
    origin = {
        side: {"table": path.name, "table_sha256": file_sha256(path), "meta": dict(meta)}
        for side, path, (_, meta) in zip(("before", "after"), paths, tables, strict=True)
    }
    notes = _check_definitions(tables[0], tables[1])
    return compare_tables(
        tables[0][0],
        tables[1][0],
        config,
        pairs=pairs,
        notes=notes,
        origin=origin,
        register=register,
    )


def compare_tables(
    before: pd.DataFrame,
    after: pd.DataFrame,
    config: AuditConfig,
    *,
    pairs: Mapping[str, str],
    notes: Sequence[str] = (),
    origin: Mapping[str, Any] | None = None,
    register: Register | None = None,
) -> Comparison:
    """Compare two tables in memory; as `compare_files`."""
    known = [name for name in attributes_of(before) if name in attributes_of(after)]
    check_attributes(config.attributes, known)
    matched = _matched(before, after, pairs)
    plans = [_plan(a, b, config, register) for _, a, b in matched]
    comparisons = len(METRICS) * sum(len(plan) for plan in plans)
    arms = tuple(
        _arm(names, plan, config, comparisons)
        for (names, _, _), plan in zip(matched, plans, strict=True)
    )
    return Comparison(
        arms=arms,
        notes=tuple(notes),
        units=str(before["units"].iloc[0]),
        nsd_tolerance=float(before["nsd_tolerance"].iloc[0]),
        minimum_group=config.minimum_group,
        resamples=config.resamples,
        comparisons=comparisons,
        origin=dict(origin or {}) | {"config": config.model_dump(mode="json")},
    )


def _check_definitions(
    before: tuple[pd.DataFrame, dict[str, Any]], after: tuple[pd.DataFrame, dict[str, Any]]
) -> list[str]:
    for column, name in (("units", "units"), ("nsd_tolerance", "tolerance of NSD")):
        if before[0][column].iloc[0] != after[0][column].iloc[0]:
            raise DataError(
                f"The two tables have another {name} ('{column}'), so their figures mean different "
                "things. Score one of them again."
            )
    defined = [meta.get("definitions") or {} for _, meta in (before, after)]
    if all(defined):
        names = sorted({*defined[0], *defined[1]})
        differing = [name for name in names if defined[0].get(name) != defined[1].get(name)]
        if differing:
            raise DataError(
                f"The two tables define {', '.join(differing)} differently, so a change could be "
                "one of definition. Score one of them again with the version that scored the other."
            )
        return []
    which = "neither table" if not any(defined) else "one table only"
    note = (
        f"How the metrics are defined is on record for {which}. Make sure that both were scored in "
        "the same way before reading a change as one of the model."
    )
    return [note]


def _matched(
    before: pd.DataFrame, after: pd.DataFrame, pairs: Mapping[str, str]
) -> list[tuple[tuple[str, str, str], pd.DataFrame, pd.DataFrame]]:
    """Rows to compare, by arm before, arm after, and prompt (with label)."""
    arms = [list(dict.fromkeys(table["arm"])) for table in (before, after)]
    for side, names in zip(arms, (list(pairs), list(pairs.values())), strict=True):
        for name in names:
            if name not in side:
                raise UsageError(
                    f"--pair names '{name}', which its table lacks; it has: {', '.join(side)}."
                )
    wanted = dict(pairs) or {arm: arm for arm in arms[0] if arm in arms[1]}
    if not wanted and len(arms[0]) == len(arms[1]) == 1:
        wanted = {arms[0][0]: arms[1][0]}
    sides = [_split(table) for table in (before, after)]
    found = [
        ((old, new, " · ".join(rest)), sides[0][old, rest], sides[1][new, rest])
        for old, new in wanted.items()
        for arm, rest in sides[0]
        if arm == old and (new, rest) in sides[1]
    ]
    if not found:
        raise UsageError(
            f"The tables have no model and prompt in common ({', '.join(arms[0])}; "
            f"{', '.join(arms[1])}). Say which belong together: --pair OLD=NEW."
        )
    return found


def _split(table: pd.DataFrame) -> dict[tuple[str, tuple[str, ...]], pd.DataFrame]:
    keys = ["arm", "prompt", *(["label"] if "label" in table else [])]
    return {
        (str(names[0]), tuple(map(str, names[1:]))): rows
        for names, rows in table.groupby(keys, sort=False)
    }


def _plan(
    before: pd.DataFrame, after: pd.DataFrame, config: AuditConfig, register: Register | None
) -> list[tuple[str, str, pd.DataFrame, pd.DataFrame]]:
    """Rows to publish of one arm: attribute, group, patients before and after."""
    sides = [patients_of(cases, config.attributes, config.age_edges) for cases in (before, after)]
    if min(map(len, sides)) < config.minimum_group:
        raise DataError(
            f"A model has fewer than {config.minimum_group} patients in one of the tables, so no "
            "figure of it may be shown. Score more patients, or lower the minimum if small groups "
            "may be shown."
        )
    rows = [("", EVERYBODY, sides[0], sides[1])]
    partitions = _partitions(sides[0], sides[1], config, register)
    for attribute in config.attributes:
        shown = _join(partitions[0][attribute], partitions[1][attribute])
        if len({*shown.values()}) < 2:  # one row only, which is everybody again
            continue
        named = [side[attribute].map(shown) for side in sides]
        for name in dict.fromkeys(shown.values()):
            members = [side[label == name] for side, label in zip(sides, named, strict=True)]
            if min(map(len, members)) >= config.minimum_group:
                rows.append((attribute, name, members[0], members[1]))
    return rows


def _partitions(
    before: pd.DataFrame, after: pd.DataFrame, config: AuditConfig, register: Register | None
) -> list[dict[str, list[tuple[str, ...]]]]:
    """Before and after, of each attribute the sets of groups that are shown as one.

    Raises:
        DataError: the tables differ by fewer patients than the minimum.
    """
    ids = [[str(each) for each in side["patient"]] for side in (before, after)]
    try:
        first = _published(before, config, *(register.earlier(ids[0]) if register else ([], 0)))
    except TooCloseError:
        raise DataError(
            f"The patients of the first table differ by fewer than {config.minimum_group} from "
            "those of an earlier report in the register, so the two together would show single "
            "patients. Compare tables of the same patients as before."
        ) from None
    if register:
        register.note(ids[0], first.rows)
        known, gone = register.earlier(ids[1], with_new=True)
    else:
        missing = sorted({*ids[0]} - {*ids[1]})
        order, gone = [*ids[1], *missing], len(missing)
        known = [np.isin(order, np.array(ids[0])[row]) for row in first.rows]
    try:
        second = _published(after, config, known, gone)
    except TooCloseError:
        raise DataError(
            f"The patients of the second table differ by fewer than {config.minimum_group} from "
            "those of the first, or of an earlier report in the register, so their means side by "
            "side would show single patients. Compare tables of the same patients, or wait until "
            "more have come."
        ) from None
    if register:
        register.note(ids[1], second.rows)
    return [
        {
            name: [(group,) for group in grouping.shown]
            + ([grouping.pooled] if grouping.pooled else [])
            for name, grouping in plan.single.items()
        }
        for plan in (first, second)
    ]


def _published(
    patients: pd.DataFrame, config: AuditConfig, earlier: Sequence[NDArray[np.bool_]], gone: int
) -> Publication:
    """What a report on these patients may show, after rows that were shown before."""
    groups = {name: list(patients[name]) for name in config.attributes}
    return plan_publication(
        len(patients),
        groups,
        orders={name: group_order(name, each, config.age_edges) for name, each in groups.items()},
        pairs=all_pairs(config.attributes) if config.intersections else [],
        minimum=config.minimum_group,
        earlier=earlier,
        gone=gone,
    )


def _join(first: Sequence[tuple[str, ...]], second: Sequence[tuple[str, ...]]) -> Partition:
    """Finest partition of which both are refinements; names of a set are put together."""
    sets: list[set[str]] = []
    for block in (*first, *second):
        touching = [each for each in sets if each & {*block}]
        sets = [each for each in sets if not each & {*block}]
        sets.append(set().union(block, *touching))
    order = list(dict.fromkeys(group for block in (*first, *second) for group in block))
    ordered = (sorted(each, key=order.index) for each in sets)
    return {group: " or ".join(each) for each in ordered for group in each}


def _arm(
    names: tuple[str, str, str],
    plan: Sequence[tuple[str, str, pd.DataFrame, pd.DataFrame]],
    config: AuditConfig,
    comparisons: int,
) -> ArmChange:
    rows = [_group(names, row, config, comparisons) for row in plan]
    _, _, before, after = plan[0]  # everybody
    return ArmChange(
        before=names[0],
        after=names[1],
        prompt=names[2],
        overlap=_overlap({*before["patient"]}, {*after["patient"]}),
        overall=rows[0],
        groups=tuple(rows[1:]),
    )


def _overlap(before: set[str], after: set[str]) -> str:
    if before == after:
        return "the same patients, each compared with themselves"
    if not before & after:
        return "other patients: the cohort may have changed as well as the model"
    return "partly the same patients: the cohort may have changed as well as the model"


def _group(
    names: tuple[str, str, str],
    row: tuple[str, str, pd.DataFrame, pd.DataFrame],
    config: AuditConfig,
    comparisons: int,
) -> GroupChange:
    attribute, group, before, after = row
    columns = [metric.column for metric in METRICS]
    sides = [
        side.set_index("patient")[columns].add_suffix(f" {when}")
        for side, when in ((before, "before"), (after, "after"))
    ]
    both = sides[0].join(sides[1], how="outer")
    metrics = {}
    for metric in METRICS:
        a, b = (
            both[f"{metric.column} {side}"].to_numpy(np.float64) for side in ("before", "after")
        )
        moved = change_of_means(
            a,
            b,
            resamples=config.resamples,
            level=LEVEL,
            simultaneous_level=1 - (1 - LEVEL) / comparisons,
            rng=generator_for(SEED, *names, attribute, group, metric.column),
        )
        metrics[metric.column] = _change(a, b, moved, metric.higher_is_better)
    return GroupChange(attribute, group, len(before), len(after), metrics)


def _change(
    before: "np.ndarray[Any, Any]", after: "np.ndarray[Any, Any]", moved: Moved, up_is_better: bool
) -> Change:
    low, high = moved.simultaneous
    decided = low > 0 or high < 0
    return Change(
        before=float(np.nanmean(before)),
        after=float(np.nanmean(after)),
        change=moved.value,
        interval=moved.interval,
        simultaneous=moved.simultaneous,
        is_better=((moved.value > 0) == up_is_better) if decided else None,
    )
