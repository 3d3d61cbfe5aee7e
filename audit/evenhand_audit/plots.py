"""Plots as inline SVG: text stays text, colours follow the page's light or dark theme."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from evenhand_audit.records import ArmAudit, Audit, GroupAudit
from evenhand_audit.words import arm_name, attribute_name, group_name, number

__all__ = [
    "ACCENT",
    "INK",
    "WARN",
    "Plot",
    "arms_plot",
    "forest_plot",
    "inline_svg",
    "plot_style",
    "scatter_plot",
    "standalone",
]

INK = "#010203"
"""Stands for the page's text colour until the SVG is written; no plot uses it for data."""

ACCENT = "#3f7fd0"
"""Data: readable on white and on near-black."""

WARN = "#d9772b"
"""The worst group of a gap beyond chance."""

MOST_POINTS = 500
"""Points of one panel of the scatter plot."""

ROW_INCHES = 0.3
"""Height of one line of a forest plot."""


@dataclass(frozen=True)
class Plot:
    """One figure of the report."""

    svg: str
    alt: str
    caption: str


def arms_plot(audit: Audit) -> Plot:
    """Mean Dice of every arm with its interval."""
    with plot_style("arms"):
        figure = Figure(figsize=(8, 0.9 + 0.34 * len(audit.arms)), layout="constrained")
        axes = figure.add_subplot()
        for row, arm in enumerate(audit.arms):
            _interval(axes, row, arm.overall, ACCENT)
        _label_rows(axes, [f"{arm_name(arm)}  (n = {arm.overall.patients})" for arm in audit.arms])
        axes.set_xlabel("mean Dice over patients, 95% interval")
        svg = inline_svg(figure, "arms")
    best = max(audit.arms, key=lambda arm: arm.overall.metrics["dice"].mean.value)
    return Plot(
        svg=svg,
        alt=(
            f"Mean Dice of {len(audit.arms)} arms with 95% intervals; highest is {arm_name(best)} "
            f"with {number(best.overall.metrics['dice'].mean.value)}."
        ),
        caption="Arms compared. Dot: mean over patients. Line: 95% bootstrap interval.",
    )


def forest_plot(arm: ArmAudit, index: int) -> Plot:
    """Mean Dice of each group of each attribute, one panel an attribute, overall as a line."""
    rows = [len(found.by_group) for found in arm.attributes]
    with plot_style(f"forest{index}"):
        height = 0.6 + sum(ROW_INCHES * count + 0.42 for count in rows)
        figure = Figure(figsize=(8, height), layout="constrained")
        panels = figure.subplots(
            len(rows), 1, sharex=True, squeeze=False, height_ratios=[count + 0.6 for count in rows]
        )[:, 0]
        overall = arm.overall.metrics["dice"].mean.value
        for axes, found in zip(panels, arm.attributes, strict=True):
            difference = found.difference.get("dice")
            worst = difference.worst_group if difference and difference.beyond_chance else None
            axes.axvline(overall, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.6)
            for row, group in enumerate(found.by_group):
                _interval(axes, row, group, WARN if group.group == worst else ACCENT)
            _label_rows(
                axes,
                [
                    f"{group_name(each.group, found)}  (n = {each.patients})"
                    for each in found.by_group
                ],
            )
            axes.set_title(attribute_name(found.attribute), loc="left", fontsize=10)
        panels[-1].set_xlabel("mean Dice over patients, 95% interval")
        svg = inline_svg(figure, f"forest{index}")
    return Plot(
        svg=svg,
        alt=f"Forest plot of mean Dice by group for {arm_name(arm)}. " + _groups_in_words(arm),
        caption=(
            f"{arm_name(arm)}: groups of each attribute. Dashed: everybody. Orange: the worst "
            "group where the gap is beyond chance."
        ),
    )


def scatter_plot(table: pd.DataFrame, audit: Audit) -> Plot:
    """Dice of each case against the volume of its reference, one panel an arm and prompt.

    Points carry no attribute and are rounded (Dice to 0.01, volume to two digits), so that they
    cannot be matched with group means. They are written in order of what is drawn: the
    table's order is often that of hospitals. Where a panel would hold more than `MOST_POINTS`
    cases, a sample with a fixed seed is drawn.
    """
    columns = min(3, len(audit.arms))
    lines = -(-len(audit.arms) // columns)
    unit, per_unit = ("ml", 1000.0) if audit.units == "mm" else ("voxels", 1.0)
    drawn = table["volume_reference"][table["volume_reference"] > 0] / per_unit
    with plot_style("scatter"):
        figure = Figure(figsize=(8.4, 0.5 + 2.1 * lines), layout="constrained")
        panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, arm in zip(panels, audit.arms, strict=False):
            cases = _cases_of(table, arm)
            if len(cases) > MOST_POINTS:
                cases = cases.sample(MOST_POINTS, random_state=0)
            points = _points(cases, per_unit)
            axes.scatter(*points, s=14, color=ACCENT, alpha=0.7, linewidths=0)
            axes.set_title(arm_name(arm), fontsize=9)
            axes.set_ylim(-0.03, 1.03)
            _logarithmic(axes, drawn.to_numpy(dtype=np.float64))
        for axes in panels[len(audit.arms) :]:
            axes.set_visible(False)
        figure.supxlabel(f"reference volume, {unit} (logarithmic scale)", fontsize=9.5, color=INK)
        figure.supylabel("Dice", fontsize=9.5, color=INK)
        svg = inline_svg(figure, "scatter")
    return Plot(
        svg=svg,
        alt=(
            "Scatter plots of Dice against reference volume, one panel for each of "
            f"{len(audit.arms)} arms; each point is one case."
        ),
        caption=(
            "Dice depends on tumour size. Each point is one case, rounded and without attributes; "
            "cases with an empty reference are not drawn, and of very many a sample is."
        ),
    )


def _cases_of(table: pd.DataFrame, arm: ArmAudit) -> pd.DataFrame:
    """Rows of one arm and prompt, or of one label of them."""
    prompt, _, label = arm.prompt.partition(" · ")
    mine = (table["arm"] == arm.arm) & (table["prompt"] == prompt)
    if label:
        mine &= table["label"].astype(str) == label
    return table[mine]


def _points(cases: pd.DataFrame, per_unit: float) -> tuple[list[float], list[float]]:
    """Rounded volumes and Dice of cases with a reference, sorted, so that no order is told."""
    volumes = cases["volume_reference"].to_numpy(dtype=np.float64) / per_unit
    dice = cases["dice"].to_numpy(dtype=np.float64).round(2)
    seen = volumes > 0
    points = sorted(zip(_two_digits(volumes[seen]), dice[seen].tolist(), strict=True))
    return [volume for volume, _ in points], [each for _, each in points]


def _logarithmic(axes: Any, values: NDArray[np.float64]) -> None:
    """A logarithmic x axis with few, plain labels; matplotlib's own collide in narrow panels."""
    if not len(values):
        return
    low, high = _two_digits(np.array([values.min() / 1.3, values.max() * 1.3]))
    multiples = (1, 2, 5) if high / low < 100 else (1,)
    axes.set_xlim(low, high)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=multiples))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _two_digits(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.2g}") for value in values]


def _groups_in_words(arm: ArmAudit) -> str:
    parts = []
    for found in arm.attributes:
        groups = ", ".join(
            f"{group_name(each.group, found)} {number(each.metrics['dice'].mean.value)}"
            for each in found.by_group
        )
        parts.append(f"{attribute_name(found.attribute)}: {groups}.")
    return " ".join(parts)


def _interval(axes: Any, row: int, group: GroupAudit, colour: str) -> None:
    mean = group.metrics["dice"].mean
    axes.plot([mean.low, mean.high], [row, row], color=colour, linewidth=2.2)
    axes.plot([mean.value], [row], color=colour, marker="o", markersize=6)


def _label_rows(axes: Any, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)  # the first row on top
    axes.grid(visible=True, axis="x")
    axes.tick_params(axis="y", length=0)


def plot_style(salt: str) -> Any:
    """Text as text, the same file for the same figure, no box around it."""
    return rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": salt,
            "font.family": "sans-serif",
            "font.size": 9.5,
            **dict.fromkeys(
                ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"),
                INK,
            ),
            "grid.color": INK,
            "grid.alpha": 0.12,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.spines.left": False,
        }
    )


def inline_svg(figure: Figure, name: str) -> str:
    """Write a figure so that it can stand inside HTML beside others: no outside names, own ids."""
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    stream = io.StringIO()
    FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(xmlns(:xlink)?)="[^"]*"', "", text)
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r'<svg\s[^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', text, count=1)
    text = re.sub(r'(style="[^"]*?)font-family: [^;"]*', r"\1font-family: inherit", text)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"(\.\d\d)\d+", r"\1", text)
    return text.replace(INK, "currentColor").strip()


def standalone(plot: Plot) -> str:
    """Return a plot as a file of its own: on white, with its alt text as title and description."""
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" color="#1c2430" '
        'font-family="sans-serif" style="background:#fff" '
    )
    text = plot.svg.replace("<svg ", head, 1)
    end = text.index(">") + 1
    words = f"<title>{escape(plot.caption)}</title><desc>{escape(plot.alt)}</desc>"
    return f"{text[:end]}{words}{text[end:]}\n"
