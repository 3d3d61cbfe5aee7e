"""Somebody who knows everybody's attributes and adds and subtracts what was published."""

from fractions import Fraction
from itertools import combinations

import numpy as np


class Attacker:
    """Knows everybody's attributes and every published row; adds and subtracts exactly.

    An oracle in fractions, one unknown a patient: which sets of patients can be had from rows?
    """

    def __init__(self, rows):
        """Bring the rows into reduced echelon form."""
        matrix = [[Fraction(int(each)) for each in row] for row in rows]
        self.pivots, self.rows = [], []
        for row in matrix:
            rest = self.reduced(row)
            lead = next((index for index, each in enumerate(rest) if each), None)
            if lead is None:
                continue
            rest = [each / rest[lead] for each in rest]
            for index, known in enumerate(self.rows):
                factor = known[lead]
                self.rows[index] = [a - factor * b for a, b in zip(known, rest, strict=True)]
            self.rows.append(rest)
            self.pivots.append(lead)

    def reduced(self, row):
        """What is left of a vector after all known rows are taken out."""
        for lead, known in zip(self.pivots, self.rows, strict=True):
            factor = row[lead]
            if factor:
                row = [a - factor * b for a, b in zip(row, known, strict=True)]
        return row

    def recovers(self, patients):
        """Whether the sum over these patients follows from the rows: with it mean and size."""
        return not any(self.reduced([Fraction(int(each)) for each in patients]))


def small_cells(attributes, minimum):
    """Groups, pairs of groups and people alike in everything, under the minimum: who is in them."""
    names = list(attributes)
    columns = {name: np.array(groups, dtype=object) for name, groups in attributes.items()}
    for size in {1, 2, len(names)}:
        for chosen in combinations(names, min(size, len(names))):
            keys = list(zip(*(columns[name] for name in chosen), strict=True))
            for key in sorted(set(keys)):
                mine = np.array([each == key for each in keys])
                if 0 < mine.sum() < minimum:
                    yield key, mine
