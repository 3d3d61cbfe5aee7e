"""Weight tables on disk: one file a method, which training reads as `training.patient_weights`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evenhand.artifacts import write_atomically
from evenhand_audit.mitigate.people import People
from evenhand_audit.mitigate.weights import (
    METHODS,
    fair_error_bound,
    group_balanced,
    group_dro,
    reweighting,
    with_mean_one,
)

__all__ = ["GroupWeight", "WeightTables", "weigh", "write_weights"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GroupWeight:
    """How one method treats one group."""

    method: str
    group: str
    patients: int
    loss: float | None
    weight: float
    """Mean over the group's patients."""


@dataclass(frozen=True, eq=False)
class WeightTables:
    """Weights by method, and why methods are missing."""

    weights: Mapping[str, Floats]
    """Each (patients,), in the order of the people."""
    groups: tuple[GroupWeight, ...]
    left_out: tuple[str, ...]
    """A sentence for each method that could not be computed."""


def weigh(
    people: People,
    *,
    losses: Mapping[str, float] | None,
    counts: Mapping[str, float] | None,
    step: float,
    gamma: float,
    largest: float,
) -> WeightTables:
    """Compute the weights of every method for which the input suffices.

    Args:
        people: the training patients.
        losses: mean loss of each group; None: the two methods that need it are left out.
        counts: patients of each group over all hospitals; None: of these people.
        step: of group DRO.
        gamma: of fair-error-bound.
        largest: weight of a patient, at most.
    """
    known = counts or people.counts
    raw: dict[str, Floats] = {}
    left_out = []
    if people.other is None:
        left_out.append("reweighting: the table lacks the column that --against names.")
    else:
        raw["reweighting"] = reweighting(people.groups, people.other)
    raw["group-balanced"] = group_balanced(people.groups, known)
    if losses is None:
        left_out.append("group-dro and fair-error-bound: they need --results.")
    else:
        whole = sum(known.values())
        shares = {group: count / whole for group, count in known.items()}
        raw["group-dro"] = group_dro(people.groups, known, losses, shares, step)
        raw["fair-error-bound"] = fair_error_bound(people.groups, losses, gamma)
    weights = {name: with_mean_one(raw[name], largest) for name in METHODS if name in raw}
    return WeightTables(weights, _by_group(people, weights, losses), tuple(left_out))


def _by_group(
    people: People, weights: Mapping[str, Floats], losses: Mapping[str, float] | None
) -> tuple[GroupWeight, ...]:
    labels = np.array(people.groups, dtype=object)
    return tuple(
        GroupWeight(
            method,
            group,
            int((labels == group).sum()),
            losses[group] if losses else None,
            float(each[labels == group].mean()),
        )
        for method, each in weights.items()
        for group in people.counts
    )


def write_weights(people: People, tables: WeightTables, out: Path) -> list[Path]:
    """Write `weights-METHOD.csv` (patient, weight) for each method; patient data.

    Raises:
        ResourceError: the folder cannot be written.
    """
    written = []
    for method, weights in tables.weights.items():
        path = out / f"weights-{method}.csv"
        write_atomically(path, _csv(people.patients, weights).encode())
        written.append(path)
    return written


def _csv(patients: Sequence[str], weights: Floats) -> str:
    frame = pd.DataFrame({"patient": patients, "weight": np.round(weights, 6)})
    return str(frame.sort_values("patient").to_csv(index=False, lineterminator="\n"))
