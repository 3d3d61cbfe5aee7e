"""Counts and metrics that leave a hospital: noised, charged, and told twice for once.

A table is a sum over patients, each of whom adds one vector of bounded length: a count adds
a 1 in one cell, a mean adds the value and a 1. The sum is noised on a grid like a gradient
(`evenhand.privacy.step`) and charged as a Gaussian mechanism on everybody. Which cells a
table has must not depend on the patients: an empty cell is told with noise like any other.
"""

from collections.abc import Mapping, Sequence

import torch

from evenhand.errors import DataError
from evenhand.privacy.accounting import Mechanism
from evenhand.privacy.cohort import Cohort
from evenhand.privacy.ledger import Ledger
from evenhand.privacy.policy import SitePolicy
from evenhand.privacy.step import NoisedSum

__all__ = ["release_counts", "release_means", "release_table"]


def release_table(
    ledger: Ledger,
    policy: SitePolicy,
    cohort: Cohort,
    rows: Sequence[Sequence[float]],
    *,
    columns: Sequence[str],
    bound: float,
    noise_multiplier: float,
    study: str,
    purpose: str,
) -> dict[str, float]:
    """Charge a table to the ledger, then noise it.

    Args:
        ledger: of the hospital.
        policy: of the hospital.
        cohort: the patients whose rows these are.
        rows: one a patient.
        columns: names of the cells, the same whoever the patients are.
        bound: largest Euclidean length of a row; longer ones are scaled down.
        noise_multiplier: noise deviation over `bound`.
        study: what it belongs to.
        purpose: what it is for, in words; the same question by the same study about the same
            cohort gets the same answer, and costs nothing again.

    Raises:
        PolicyError: the policy lets no table leave, or not with so little noise.
        BudgetError: the grant would be exceeded.
        DataError: rows, columns and cohort do not fit each other.
    """
    policy.check_table(ledger.hospital, noise_multiplier)
    if len(rows) != len(cohort) or any(len(row) != len(columns) for row in rows):
        raise DataError(
            f"A table of {len(cohort)} patients and {len(columns)} columns was wanted; rows of "
            "another number or length came in."
        )
    question = {
        "study": study,
        "purpose": purpose,
        "cohort": cohort.digest,
        "columns": list(columns),
        "bound": bound,
        "noise_multiplier": noise_multiplier,
    }
    for earlier, values in ledger.state().releases:
        if earlier == question:
            return dict(zip(columns, values, strict=True))
    mechanism = Mechanism(sampling_rate=1.0, noise_multiplier=noise_multiplier, steps=1)
    ledger.charge(mechanism, purpose, study=study, cohort=cohort, release="table")
    total = NoisedSum(len(columns), noise_multiplier=noise_multiplier, clip_norm=bound)
    for row in rows:
        vector = torch.tensor(row, dtype=torch.float64)
        total.add(vector.nan_to_num(0.0, 0.0, 0.0))  # no bound holds a NaN
    noised = [float(value) for value in total.release()]
    ledger.record_release(question, noised)
    return dict(zip(columns, noised, strict=True))


def release_counts(
    ledger: Ledger,
    policy: SitePolicy,
    cohort: Cohort,
    groups: Sequence[str],
    *,
    of: Sequence[str],
    noise_multiplier: float,
    study: str,
    purpose: str,
) -> dict[str, int]:
    """How many patients are in each group, noised; whole numbers, never below 0.

    Args:
        ledger: of the hospital.
        policy: of the hospital.
        cohort: whose patients these are.
        groups: the group of each patient.
        of: the groups that are told, known beforehand; whoever is in another counts nowhere.
        noise_multiplier: noise deviation in patients.
        study: as in `release_table`.
        purpose: as in `release_table`.
    """
    rows = [[float(group == name) for name in of] for group in groups]
    told = release_table(
        ledger,
        policy,
        cohort,
        rows,
        columns=of,
        bound=1.0,
        noise_multiplier=noise_multiplier,
        study=study,
        purpose=purpose,
    )
    return {name: max(0, round(value)) for name, value in told.items()}


def release_means(
    ledger: Ledger,
    policy: SitePolicy,
    cohort: Cohort,
    metrics: Mapping[str, Sequence[float]],
    *,
    noise_multiplier: float,
    study: str,
    purpose: str,
) -> dict[str, float]:
    """Means over patients of metrics between 0 and 1, such as Dice, noised.

    The number of patients is agreed in the study and public, so only sums are noised.

    Args:
        ledger: of the hospital.
        policy: of the hospital.
        cohort: whose patients these are.
        metrics: values by name, each from 0 to 1, one a patient.
        noise_multiplier: noise deviation over what one patient can add to all sums together.
        study: as in `release_table`.
        purpose: as in `release_table`.

    Raises:
        DataError: a value lies outside 0 to 1.
    """
    if any(not 0 <= value <= 1 for values in metrics.values() for value in values):
        raise DataError("A metric to be released must lie between 0 and 1 for every patient.")
    told = release_table(
        ledger,
        policy,
        cohort,
        list(zip(*metrics.values(), strict=True)),
        columns=list(metrics),
        bound=len(metrics) ** 0.5,
        noise_multiplier=noise_multiplier,
        study=study,
        purpose=purpose,
    )
    return {name: min(1.0, max(0.0, value / len(cohort))) for name, value in told.items()}
