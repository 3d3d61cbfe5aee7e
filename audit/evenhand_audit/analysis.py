"""The audit itself: a prediction table in, records out.

What may be shown comes from `disclosure`, estimates from fairlearn's MetricFrame over patients,
intervals from `resampling`, tests from `inference`. All tests of a report are one family and are
corrected together.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from evenhand.config import AuditConfig
from evenhand.errors import DataError
from evenhand_audit.arms import ArmAtWork, prepare_arm
from evenhand_audit.cohort import attributes_of, check_attributes, patients_of
from evenhand_audit.disclosure import TooCloseError
from evenhand_audit.inference import corrected
from evenhand_audit.records import (
    FAMILY_LEVEL,
    ArmAudit,
    AttributeAudit,
    Audit,
    Difference,
    Family,
    Withheld,
)
from evenhand_audit.register import Register
from evenhand_audit.resampling import generator_for
from evenhand_audit.thresholds import checks_of

__all__ = ["SEED", "audit_table"]

SEED = 20240717
"""Start of all resampling, so that the same table gives the same report."""

FINENESS = 4
"""A finding must be reachable with room to spare: the smallest p-value that so many deals can
give, corrected for the whole family, is the family's level divided by this."""

LEAST_DEALS = 2000
"""Permutations of one test that is not settled early, however few comparisons there are."""

MOST_DEALS = 200_000
"""Permutations of one test at most, whatever the size of the family."""


def audit_table(
    table: pd.DataFrame,
    config: AuditConfig,
    *,
    seed: int = SEED,
    register: Register | None = None,
) -> Audit:
    """Judge every arm and prompt (and label, where there are several) of a prediction table.

    Args:
        table: as `evenhand.artifacts.read_prediction_table` returns it.
        config: attributes, age edges, minimum group, resamples, limits. The tolerance of NSD is
            the table's own.
        seed: of the resampling.
        register: earlier reports; what this one shows is noted in it, and not yet saved.

    Raises:
        DataError: no arm has enough patients, a patient has two values of an attribute, or an
            earlier report is too near.
        UsageError: an attribute is not one of a table, or is named twice.
    """
    check_attributes(config.attributes, attributes_of(table))
    at_work, withheld = _shown(table, config, register)
    if not at_work:
        raise DataError(
            f"The table holds {table['patient'].nunique()} patients, and no arm reaches the "
            f"{config.minimum_group} that a figure must stand for. Score more patients, or lower "
            "audit.minimum_group if small groups may be shown."
        )
    comparisons = sum(arm.comparisons for arm in at_work)
    family = Family(comparisons, _deals(comparisons), config.within_hospital)
    arms = _corrected(
        [arm.judge(config, family, generator_for(seed, *arm.names)) for arm in at_work]
    )
    return Audit(
        arms=tuple(replace(arm, checks=checks_of(arm, config.thresholds)) for arm in arms),
        withheld=tuple(withheld),
        units=str(table["units"].iloc[0]),
        nsd_tolerance=float(table["nsd_tolerance"].iloc[0]),
        minimum_group=config.minimum_group,
        resamples=config.resamples,
        seed=seed,
        age_edges=tuple(config.age_edges),
        family=family,
        registered=register is not None,
    )


def _shown(
    table: pd.DataFrame, config: AuditConfig, register: Register | None
) -> tuple[list[ArmAtWork], list[Withheld]]:
    """What may be shown of each arm, beside the arms before it and earlier reports."""
    people = [
        (names, cases, patients_of(cases, config.attributes, config.age_edges))
        for names, cases in _arms(table)
    ]
    columns = ["patient", *config.attributes]
    alike = all(each[columns].equals(people[0][2][columns]) for _, _, each in people)
    memory = register if register is not None or alike else Register()
    at_work: list[ArmAtWork] = []
    withheld: list[Withheld] = []
    too_near = ""
    for names, cases, patients in people:
        reason = f"fewer than {config.minimum_group} patients"
        if len(patients) >= config.minimum_group:
            arm = _prepared(names, cases, patients, config, memory)
            if arm is not None:
                at_work.append(arm)
                continue
            too_near = names[0]
            reason = (
                f"its patients differ from another arm's, or an earlier report's, by fewer than "
                f"{config.minimum_group}, and the two side by side would show single patients"
            )
        withheld.append(Withheld(names[0], _prompt(names), reason))
    if too_near and not at_work:
        raise DataError(
            f"The patients of '{too_near}' differ from those of an earlier report by fewer "
            f"than {config.minimum_group}, so the two reports together would show single "
            "patients. Audit the same patients as before, or wait until more have come."
        )
    return at_work, withheld


def _arms(table: pd.DataFrame) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """Cases of each arm and prompt, and label where the table has several."""
    keys = ["arm", "prompt"]
    if "label" in table and len(set(table["label"])) > 1:
        keys.append("label")
    return [
        (tuple(str(part) for part in names), cases)
        for names, cases in table.groupby(keys, sort=False, dropna=False)
    ]


def _prompt(names: Sequence[str]) -> str:
    """Prompt, and the label behind it where there are several."""
    return " · ".join(names[1:])


def _prepared(
    names: Sequence[str],
    cases: pd.DataFrame,
    patients: pd.DataFrame,
    config: AuditConfig,
    memory: Register | None,
) -> ArmAtWork | None:
    """One arm; None where another arm or an earlier report is too near to show anything."""
    ids = [str(patient) for patient in patients["patient"]]
    title = (names[0], _prompt(names))
    try:
        known = memory.earlier(ids, with_new=True) if memory else ([], 0)
        arm = prepare_arm(title, cases, patients, config, known)
    except TooCloseError:
        return None
    if memory:
        memory.note(ids, arm.publication.rows)
    return arm


def _deals(comparisons: int) -> int:
    """Permutations that a finding in a family of this size needs."""
    needed = int(np.ceil(FINENESS * comparisons / FAMILY_LEVEL))
    return min(max(LEAST_DEALS, needed), MOST_DEALS)


def _corrected(arms: Sequence[ArmAudit]) -> list[ArmAudit]:
    """Put the p-values that are corrected for the whole family in their places."""
    found: list[Difference] = [
        difference
        for arm in arms
        for attribute in (*arm.attributes, *arm.intersections)
        for difference in attribute.difference.values()
    ]
    holm, fdr = corrected([each.p_value for each in found])
    right = {
        id(each): replace(each, p_holm=p_holm, p_fdr=p_fdr)
        for each, p_holm, p_fdr in zip(found, holm, fdr, strict=True)
    }

    def put(attribute: AttributeAudit) -> AttributeAudit:
        put_right = {column: right[id(each)] for column, each in attribute.difference.items()}
        return replace(attribute, difference=put_right)

    return [
        replace(
            arm,
            attributes=tuple(put(each) for each in arm.attributes),
            intersections=tuple(put(each) for each in arm.intersections),
        )
        for arm in arms
    ]
