"""Small groups are not shown, nor can they be computed from all that is shown.

Every published figure is a sum over a set of patients divided by their number. Whoever reads a
report can add and subtract such rows: across groups of an attribute, across attributes, across
pairs of attributes, and across reports. So what may be shown is decided for the report as a whole,
by linear algebra, and against a reader who knows everybody's attributes and lacks the scores only.

Unknown to that reader is one number for each **atom**: the patients who are alike in every
attribute (and in every earlier report). A published row is a 0/1 vector over atoms. A row is
admitted only if, with all rows admitted before,

- no atom and no union of atoms (groups and pairs of groups are such unions) with fewer patients
  than the minimum lies in the span of the rows, so that no combination of published sums gives its
  sum or its size; and
- it differs from every row that it contains, or that contains it, by nobody or by at least the
  minimum of patients.

What is taken away is **pooled** into one row rather than dropped, so that it is still judged: small
groups of an attribute together with the next smallest, cells of a pair that may not be shown with
each other.

The guard knows sums. Medians, intervals and adjusted gaps are not sums over a row; they narrow what
a hidden value can be, and do not give it. Nor does it count weighted combinations of small atoms
that are not the sum of a union, such as the difference of two patients.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import linalg

__all__ = [
    "POOL",
    "CrossGrouping",
    "Grouping",
    "Guard",
    "Publication",
    "TooCloseError",
    "all_pairs",
    "cell_name",
    "group_safely",
    "plan_publication",
]

POOL = "other groups together"
"""Name of the pooled row."""

TOLERANCE = 1e-7
"""Squared share of a vector outside a span under which it counts as inside; errs to hiding."""

MOST_UNIONS = 20_000
"""Unions of small atoms that are looked at for one row; a row that asks for more is refused."""

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Labels = NDArray[np.object_]


class TooCloseError(ValueError):
    """Not even all patients together may be shown: an earlier report is too near."""


@dataclass(frozen=True)
class Grouping:
    """Which groups are shown one by one and which only together."""

    shown: tuple[str, ...]
    pooled: tuple[str, ...]
    """Empty, or at least two groups."""

    def label(self, group: str) -> str:
        """Name under which a patient of this group is counted."""
        return POOL if group in self.pooled else group

    @property
    def labels(self) -> tuple[str, ...]:
        """All rows that are published, the pool last."""
        return (*self.shown, POOL) if self.pooled else self.shown


@dataclass(frozen=True, eq=False)
class CrossGrouping:
    """The published rows of one pair of attributes."""

    labels: tuple[str, ...]
    """Shown cells, then the pool if there is one."""
    label_of_patient: Labels
    """(patients,)"""
    pooled: tuple[str, ...]
    """Cells that are shown together only."""


@dataclass(frozen=True, eq=False)
class Publication:
    """What one report may show of its patients."""

    single: dict[str, Grouping]
    pairs: dict[tuple[str, str], CrossGrouping]
    rows: tuple[Bools, ...]
    """Every set of patients that a published row stands for, each (patients,), everybody first."""


def cell_name(first: str, second: str) -> str:
    """Name of the group of patients in both."""
    return f"{first}, {second}"


def group_safely(
    patients: Mapping[str, int],
    minimum: int,
    admits: Callable[[Sequence[str]], bool] = lambda _: True,
) -> Grouping:
    """Decide which groups of one attribute may be shown.

    The pool begins with all groups under the minimum. It is enlarged by the next smallest group
    each time until it holds at least two groups and at least the minimum of patients.

    Args:
        patients: patients of each group, in the order in which groups are to be shown. Together
            they must be at least `minimum`, or nothing may be shown at all.
        minimum: fewest patients that a published row may stand for.
        admits: whether these groups may be shown one by one, as far as other rows go; where it
            says no the pool is enlarged.

    Raises:
        ValueError: all groups together are fewer than `minimum`.
    """
    if sum(patients.values()) < minimum:
        raise ValueError("fewer patients than the minimum: nothing of them may be shown")
    ascending = sorted(patients, key=lambda group: (patients[group], group))
    size = sum(patients[group] < minimum for group in ascending)
    for pooled in (ascending[:end] for end in range(size, len(ascending) + 1)):
        enough = len(pooled) >= 2 and sum(patients[group] for group in pooled) >= minimum
        shown = tuple(group for group in patients if group not in pooled)
        if (not pooled or enough) and admits(shown):
            return Grouping(shown, tuple(group for group in patients if group in pooled))
    return Grouping((), tuple(patients))


def plan_publication(
    patients: int,
    attributes: Mapping[str, Sequence[str]],
    *,
    orders: Mapping[str, Sequence[str]],
    pairs: Sequence[tuple[str, str]],
    minimum: int,
    earlier: Sequence[Bools] = (),
    gone: int = 0,
) -> Publication:
    """Decide everything that a report may show of its patients.

    Args:
        patients: how many there are.
        attributes: the group of each patient, by attribute, each (patients,).
        orders: groups of each attribute in the order of tables.
        pairs: which attributes are crossed.
        minimum: fewest patients that a published row, or what follows from rows, may stand for.
        earlier: rows published before, each (patients + gone,), the patients that are here first.
        gone: how many patients stood in earlier reports and are not here.

    Raises:
        TooCloseError: everybody together differs from an earlier row by fewer than the minimum.
        ValueError: fewer patients than the minimum.
    """
    labels = {name: np.asarray(groups, dtype=object) for name, groups in attributes.items()}
    guard = Guard(patients, labels, minimum=minimum, earlier=earlier, gone=gone)
    everybody = np.ones(patients, dtype=bool)
    if not guard.admit([everybody]):
        raise TooCloseError
    rows, single, published = [everybody], {}, {}
    for name, groups in labels.items():
        single[name] = _single(groups, orders[name], minimum, guard)
        published[name] = np.array([single[name].label(group) for group in groups], dtype=object)
        rows += [published[name] == label for label in single[name].labels]
    crossed = {}
    for first, second in pairs:
        ordered = tuple(single[name].labels for name in (first, second))
        crossed[first, second] = _crossed(
            (published[first], published[second]), (ordered[0], ordered[1]), minimum, guard
        )
        cross = crossed[first, second]
        rows += [cross.label_of_patient == label for label in cross.labels]
    return Publication(single, crossed, tuple(rows))


def _single(groups: Labels, order: Sequence[str], minimum: int, guard: "Guard") -> Grouping:
    members = {group: groups == group for group in order}
    return group_safely(
        {group: int(mine.sum()) for group, mine in members.items()},
        minimum,
        lambda shown: guard.admit([members[group] for group in shown]),
    )


def _crossed(
    published: tuple[Labels, Labels],
    orders: tuple[Sequence[str], Sequence[str]],
    minimum: int,
    guard: "Guard",
) -> CrossGrouping:
    """Show the largest cells first, each only if what stays hidden around it is safe."""
    cells = {
        (first, second): (published[0] == first) & (published[1] == second)
        for first in orders[0]
        for second in orders[1]
    }
    sizes = {cell: int(mine.sum()) for cell, mine in cells.items()}
    shown: set[tuple[str, str]] = set()
    rest = [
        {label: int((published[side] == label).sum()) for label in orders[side]} for side in (0, 1)
    ]
    left = sum(sizes.values())
    for cell in sorted(cells, key=lambda each: (-sizes[each], each)):
        size = sizes[cell]
        after = (rest[0][cell[0]] - size, rest[1][cell[1]] - size, left - size)
        hides_enough = all(each == 0 or each >= minimum for each in after)
        if size >= minimum and hides_enough and guard.admit([cells[cell]]):
            shown.add(cell)
            rest[0][cell[0]], rest[1][cell[1]], left = after
    label_of = np.full(len(published[0]), POOL, dtype=object)
    names = []
    for cell, mine in cells.items():
        if cell in shown:
            label_of[mine] = cell_name(*cell)
            names.append(cell_name(*cell))
    hidden = tuple(cell_name(*cell) for cell in cells if sizes[cell] and cell not in shown)
    return CrossGrouping((*names, POOL) if left else tuple(names), label_of, hidden)


class Guard:
    """All rows published so far, and whether another would give something small away."""

    def __init__(
        self,
        patients: int,
        labels: Mapping[str, Labels],
        *,
        minimum: int,
        earlier: Sequence[Bools] = (),
        gone: int = 0,
    ) -> None:
        """Work out the atoms; arguments as in `plan_publication`."""
        self._minimum = minimum
        self._gone = gone
        columns: dict[str, Any] = {"": np.arange(patients + gone) >= patients}
        columns |= {name: np.append(groups, [""] * gone) for name, groups in labels.items()}
        if len(earlier):  # which earlier rows a patient stood in, as one value
            bits = np.packbits(np.array(earlier), axis=0)
            columns[" "] = [column.tobytes() for column in bits.T]
        frame = pd.DataFrame(columns)
        atom = frame.groupby(list(frame.columns), sort=True).ngroup().to_numpy()
        self._first = np.unique(atom, return_index=True)[1]
        self._sizes = np.bincount(atom).astype(np.float64)
        self._basis = np.empty((0, len(self._sizes)))
        self._rows: list[Bools] = []
        self._alike = np.zeros(len(self._sizes), dtype=np.intp)
        for row in earlier:
            self._keep(row[self._first])

    def admit(self, sets: Sequence[Bools]) -> bool:
        """Take these sets of patients as published, all or none; say whether they were taken."""
        before, kept = (self._basis, self._alike), len(self._rows)
        for patients in sets:
            row = np.append(patients, np.zeros(self._gone, dtype=bool))[self._first]
            if not (self._apart(row) and self._take(row)):
                self._basis, self._alike = before
                del self._rows[kept:]
                return False
        return True

    def _apart(self, row: Bools) -> bool:
        """Whether the row differs from each near one by nobody or by enough patients."""
        for known in self._rows:
            differs = float(self._sizes[row != known].sum())
            near = 0 < differs < self._minimum
            if near:
                return False
        return True

    def _take(self, row: Bools) -> bool:
        """Add a row unless something small would follow that does not follow already."""
        new = self._direction(row)
        if new is None:
            return True
        if self._gives_away(np.vstack([self._basis, new]), self._split(row)):
            return False
        self._keep(row)
        return True

    def _gives_away(self, basis: Floats, alike: NDArray[np.intp]) -> bool:
        """Whether a union of atoms under the minimum is in the span of `basis` and was not before.

        A union in the span takes atoms that are alike in every row all or none, so only atoms
        whose like are fewer than the minimum together can be in it. Of the vectors in the span
        that are 0 everywhere else, each is given by its entries at as many atoms as they have
        dimensions; these entries are tried, 0 or 1 each.
        """
        near = np.flatnonzero(np.bincount(alike, self._sizes)[alike] < self._minimum)
        values, vectors = np.linalg.eigh(basis[:, near] @ basis[:, near].T)
        inside = vectors[:, values >= 1 - TOLERANCE].T @ basis[:, near]
        dimensions = len(inside)
        if dimensions == 0:
            return False
        most = min(dimensions, self._minimum - 1)
        if sum(comb(dimensions, size) for size in range(1, most + 1)) > MOST_UNIONS:
            return True
        pivots = linalg.qr(inside, mode="r", pivoting=True)[1][:dimensions]
        spread = np.linalg.solve(inside[:, pivots], inside)
        for size in range(1, most + 1):
            chosen = np.array(list(combinations(range(dimensions), size)))
            found = spread[chosen].sum(axis=1)
            union = np.round(found)
            whole = (np.abs(found - union) < 1e-4).all(axis=1)
            whole &= ((union == 0) | (union == 1)).all(axis=1)
            small = whole & (union @ self._sizes[near] < self._minimum)
            if any(self._is_new(near[each > 0]) for each in union[small]):
                return True
        return False

    def _is_new(self, atoms: NDArray[np.intp]) -> bool:
        """Whether the sum over these atoms does not follow from the rows so far."""
        inside = float((self._basis[:, atoms].sum(axis=1) ** 2).sum())
        return inside < len(atoms) * (1 - TOLERANCE)

    def _split(self, row: Bools) -> NDArray[np.intp]:
        """Number of the class of each atom, alike in all rows so far and in this one."""
        return np.unique(2 * self._alike + row, return_inverse=True)[1]

    def _keep(self, row: Bools) -> None:
        self._rows.append(row)
        self._alike = self._split(row)
        new = self._direction(row)
        if new is not None:
            self._basis = np.vstack([self._basis, new])

    def _direction(self, row: Bools) -> Floats | None:
        """Return the part of a row that is new, of length 1; None where nothing is."""
        rest = row.astype(np.float64)
        for _ in range(2):  # twice is enough (Kahan)
            rest = rest - self._basis.T @ (self._basis @ rest)
        length = float(np.sqrt(rest @ rest))
        return rest / length if length > 1e-6 * max(1.0, np.sqrt(float(row.sum()))) else None


def all_pairs(attributes: Sequence[str]) -> list[tuple[str, str]]:
    """Every two attributes once, in order."""
    return list(combinations(attributes, 2))
