"""Tables of the model page from what benchmarks/model_folds.py left: figures, no patient."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from evenhand.metrics import LOGIT_EDGES, fit_temperature

Case = dict[str, Any]


def line(path: Path) -> str:
    """One fold in a line."""
    found = json.loads(path.read_text())
    parts = [f"{path.stem}: {found['train_patients']} train, {found['seconds']:.0f} s"]
    for prompt, cases in _by_prompt(found["cases"]).items():
        dice = np.array([one["dice"] for one in cases])
        parts.append(f"{prompt} {dice.mean():.3f} (n={len(dice)})")
    return ", ".join(parts)


def table(folder: Path) -> str:
    """All rows as Markdown, and what is said of calibration of the first."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text())
        rows[found["row"]].append(found)
    lines = [
        (
            "| row | prompt | folds | n | Dice, mean (95%) | median | HD95 | NSD | lesion F1 "
            "| numbers trained | minutes a fold |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row, folds in rows.items():
        cases = [case for fold in folds for case in fold["cases"]]
        minutes = np.median([fold["seconds"] for fold in folds]) / 60
        for prompt, own in _by_prompt(cases).items():
            lines.append(
                f"| {row} | {prompt} | {len(folds)} | {len(own)} | {_interval(own)} "
                f"| {_median(own, 'dice'):.3f} | {_mean(own, 'hd95'):.1f} "
                f"| {_mean(own, 'nsd'):.3f} "
                f"| {_mean(own, 'lesion_f1'):.2f} | {folds[0]['trained']:,} | {minutes:.1f} |"
            )
    if "adapter" in rows:
        lines += ["", *_hospitals(rows["adapter"]), "", *_calibration(rows["adapter"])]
    return "\n".join(lines)


def _by_prompt(cases: list[Case]) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        found[case["prompt"]].append(case)
    return found


def _mean(cases: list[Case], key: str) -> float:
    return float(np.mean([case[key] for case in cases if case[key] is not None]))


def _median(cases: list[Case], key: str) -> float:
    return float(np.median([case[key] for case in cases]))


def _interval(cases: list[Case]) -> str:
    """Mean Dice with its BCa bootstrap interval over patients."""
    dice = np.array([case["dice"] for case in cases])
    rng = np.random.default_rng(0)
    found = stats.bootstrap((dice,), np.mean, n_resamples=4000, rng=rng).confidence_interval
    return f"{dice.mean():.3f} ({found.low:.3f} to {found.high:.3f})"


def _hospitals(folds: list[dict[str, Any]]) -> list[str]:
    cases = _by_prompt([case for fold in folds for case in fold["cases"]])["automatic"]
    lines = ["| hospital | n | automatic Dice, mean (95%) |", "|---|---|---|"]
    for hospital in sorted({case["hospital"] for case in cases}):
        own = [case for case in cases if case["hospital"] == hospital]
        lines.append(f"| {hospital} | {len(own)} | {_interval(own)} |")
    return lines


def _calibration(folds: list[dict[str, Any]]) -> list[str]:
    """ECE before and after one temperature, fitted for each fold on the other folds' patients."""
    counts = [
        sum(np.array(case["histogram"], float) for case in _by_prompt(fold["cases"])["automatic"])
        for fold in folds
    ]
    temperatures, before, after = [], np.zeros((3, 15)), np.zeros((3, 15))
    for number, own in enumerate(counts):
        others = sum(one for place, one in enumerate(counts) if place != number)
        temperatures.append(fit_temperature(others))
        before += bins(own, 1.0)
        after += bins(own, temperatures[-1])
    cases = _by_prompt([case for fold in folds for case in fold["cases"]])["automatic"]
    expected = [1 - case["uncertainty"] for case in cases]
    dice = [case["dice"] for case in cases]
    rank = stats.spearmanr(expected, dice)
    return [
        (
            f"Expected calibration error of voxels around the tumour: {ece(before):.4f}, after a "
            f"temperature of {min(temperatures):.2f} to {max(temperatures):.2f}: {ece(after):.4f}."
        ),
        (
            f"Promised Dice against Dice (n = {len(dice)}): Spearman {rank.statistic:.2f}, "
            f"Pearson {np.corrcoef(expected, dice)[0, 1]:.2f}, mean promised "
            f"{np.mean(expected):.3f}."
        ),
        "",
        "| stated probability | tumour found | after the temperature |",
        "|---|---|---|",
        *(
            f"| {b / 15:.2f} to {(b + 1) / 15:.2f} | {share(before, b)} | {share(after, b)} |"
            for b in range(15)
        ),
    ]


def _centres() -> np.ndarray:
    return (LOGIT_EDGES[1:] + LOGIT_EDGES[:-1]) / 2


def bins(counts: np.ndarray, temperature: float) -> np.ndarray:
    """(3, 15): voxels, tumour voxels and summed probability of each bin of probability."""
    stated = 1 / (1 + np.exp(-_centres() / temperature))
    which = np.minimum((stated * 15).astype(int), 14)
    weights = (counts[0], counts[1], counts[0] * stated)
    return np.stack([np.bincount(which, weights=w, minlength=15) for w in weights])


def ece(found: np.ndarray) -> float:
    """Expected calibration error of what `bins` has counted."""
    voxels, tumour, stated = found
    return float(np.abs(stated - tumour).sum() / voxels.sum())


def share(found: np.ndarray, number: int) -> str:
    """Share of tumour in one bin, as tables write it."""
    voxels, tumour, _ = found[:, number]
    return f"{tumour / voxels:.3f}" if voxels else "none"
