"""Fairness and privacy in one figure: the worst group's Dice and the gap against epsilon.

Each point is one arm of one report. Epsilon is the largest of any hospital in that arm. Reports
must stand on the same number of patients, groups and definitions, or a difference between two
points could be one of patients.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from evenhand.artifacts import write_atomically
from evenhand.errors import DataError, UsageError
from evenhand_audit.plots import ACCENT, INK, WARN, Plot, inline_svg, plot_style, standalone
from evenhand_audit.records import Estimate, number
from evenhand_audit.report import REPORT_SCHEMA_VERSION
from evenhand_audit.words import attribute_name

__all__ = ["Point", "frontier_plot", "points_of", "write_frontier"]

BASELINE = "federated"
"""Arm without a promise that stands at the right end, where a report has it."""

SAME = ("units", "nsd_tolerance", "minimum_group", "age_edges")
"""What must be the same in all reports."""

NO_PROMISE = "no promise"


@dataclass(frozen=True)
class Point:
    """One arm of one report."""

    report: str
    arm: str
    prompt: str
    epsilon: float
    """Infinite without a promise."""
    delta: float | None
    patients: int
    worst_group: str
    worst_dice: Estimate
    gap: Estimate
    mean_dice: Estimate


def points_of(reports: Sequence[Path], by: str, prompt: str) -> list[Point]:
    """Read the arms with a promise, and the baseline, from `audit.json` of several reports.

    Args:
        reports: folders or files of reports.
        by: attribute whose groups are followed.
        prompt: of the arms.

    Raises:
        DataError: no report, of another version, or reports that cannot be compared.
        UsageError: no arm has an epsilon, or the attribute is not in a report.
    """
    paths = [path / "audit.json" if path.is_dir() else path for path in reports]
    records = [_read(path) for path in paths]
    for path, record in zip(paths[1:], records[1:], strict=True):
        for key in SAME:
            if record["audit"][key] != records[0]["audit"][key]:
                raise DataError(
                    f"'{path}' differs from '{paths[0]}' in {key}, so points could not be compared."
                )
    found = [
        point
        for path, record in zip(paths, records, strict=True)
        for point in _points(str(path.parent), record, by, prompt)
    ]
    if not any(math.isfinite(point.epsilon) for point in found):
        raise UsageError(
            f"No arm with prompt '{prompt}' has an epsilon in these reports. Reports of `evenhand "
            "run` with the arm federated-private have one."
        )
    if len({point.patients for point in found}) > 1:
        raise DataError(
            "The reports stand on different numbers of test patients, so a difference could be one "
            "of patients. Use runs over the same split."
        )
    return sorted(found, key=lambda point: point.epsilon)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"There is no '{path}'. Name folders of reports.") from None
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or record.get("schema_version") != REPORT_SCHEMA_VERSION:
        raise DataError(
            f"'{path}' is no report of this version of Evenhand. Write the report again."
        )
    return record


def _points(name: str, record: Mapping[str, Any], by: str, prompt: str) -> list[Point]:
    told = record["facts"].get("arms") or {}
    points = []
    for arm in record["audit"]["arms"]:
        spent = (told.get(arm["arm"]) or {}).get("epsilon")
        if arm["prompt"] != prompt or not (spent or arm["arm"] == BASELINE):
            continue
        known = [each["attribute"] for each in arm["attributes"]]
        if by not in known:
            raise UsageError(f"'{name}' was not made by '{by}'; it has: {', '.join(known)}.")
        attribute = next(each for each in arm["attributes"] if each["attribute"] == by)
        difference = attribute["difference"].get("dice")
        if difference is None:
            raise DataError(f"'{name}' shows one group by '{by}' only, so there is no gap.")
        worst = difference["worst_group"]
        row = next(each for each in attribute["by_group"] if each["group"] == worst)
        points.append(
            Point(
                report=name,
                arm=arm["arm"],
                prompt=prompt,
                epsilon=max(each["epsilon"] for each in spent.values()) if spent else math.inf,
                delta=max(each["delta"] for each in spent.values()) if spent else None,
                patients=arm["overall"]["patients"],
                worst_group=worst,
                worst_dice=Estimate(**row["metrics"]["dice"]["mean"]),
                gap=Estimate(**difference["gap"]),
                mean_dice=Estimate(**arm["overall"]["metrics"]["dice"]["mean"]),
            )
        )
    return points


def frontier_plot(points: Sequence[Point], by: str) -> Plot:
    """Two panels over epsilon: Dice of the worst group and of everybody, and the largest gap."""
    finite = [point.epsilon for point in points if math.isfinite(point.epsilon)]
    end = max(finite) * 3
    places = [point.epsilon if math.isfinite(point.epsilon) else end for point in points]
    series = (
        (0, "worst group", WARN, [point.worst_dice for point in points]),
        (0, "everybody", ACCENT, [point.mean_dice for point in points]),
        (1, "largest gap", WARN, [point.gap for point in points]),
    )
    with plot_style("frontier"):
        figure = Figure(figsize=(8, 5.2), layout="constrained")
        panels = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for row, label, colour, values in series:
            shift = 1.03 if label == "everybody" else 1.0
            axes, where = panels[row], [place * shift for place in places]
            for place, each in zip(where, values, strict=True):
                axes.plot([place, place], [each.low, each.high], color=colour, linewidth=1.6)
            axes.plot(where, [each.value for each in values], color=colour, marker="o",
                      linewidth=0.9, markersize=5, label=label)  # fmt: skip
        for axes, name in zip(panels, ("mean Dice", "gap in mean Dice"), strict=True):
            axes.set_ylabel(name)
            axes.grid(visible=True, axis="y")
        panels[0].legend(frameon=False, loc="best")
        panels[1].axhline(0, color=INK, linewidth=0.7, alpha=0.5)
        panels[1].set_xscale("log")
        ticks = sorted({*finite, *([end] if end in places else [])})
        panels[1].set_xticks(
            ticks, [NO_PROMISE if tick == end else f"{tick:.3g}" for tick in ticks]
        )
        panels[1].minorticks_off()
        panels[1].set_xlabel("epsilon, largest of any hospital (smaller is more private)")
        svg = inline_svg(figure, "frontier")
    return Plot(svg=svg, alt=_in_words(points, by), caption=_caption(points, by))


def _caption(points: Sequence[Point], by: str) -> str:
    deltas = [point.delta for point in points if point.delta is not None]
    return (
        f"Fairness by {attribute_name(by)} against privacy, {points[0].patients} test patients. "
        f"Lines are 95% intervals. Delta up to {max(deltas):.2g}."
    )


def _in_words(points: Sequence[Point], by: str) -> str:
    parts = []
    for point in points:
        epsilon = f"epsilon {point.epsilon:.3g}" if math.isfinite(point.epsilon) else NO_PROMISE
        parts.append(
            f"{epsilon}: {point.worst_group} is worst with Dice {number(point.worst_dice.value)} "
            f"({number(point.worst_dice.low)} to {number(point.worst_dice.high)}), largest gap "
            f"{number(point.gap.value)} ({number(point.gap.low)} to {number(point.gap.high)})"
        )
    return f"By {attribute_name(by)}. {'; '.join(parts)}."


def write_frontier(points: Sequence[Point], by: str, path: Path) -> Path:
    """Write the figure, and its numbers as a table beside it.

    Args:
        points: by rising epsilon.
        by: attribute whose groups are followed.
        path: the `.svg`; the table gets the same name with `.csv`.

    Raises:
        ResourceError: the folder cannot be written.
    """
    rows = [
        {
            "report": point.report,
            "arm": point.arm,
            "epsilon": point.epsilon,
            "delta": point.delta,
            "patients": point.patients,
            "worst_group": point.worst_group,
        }
        | {
            f"{name}{end}": getattr(getattr(point, name), key)
            for name in ("worst_dice", "gap", "mean_dice")
            for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))
        }
        for point in points
    ]
    table = path.with_suffix(".csv")
    text = str(pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
    write_atomically(path, standalone(frontier_plot(points, by)).encode())
    write_atomically(table, text.encode())
    return table
