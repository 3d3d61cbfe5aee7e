"""Limits become verdicts, and a small sample does not pass for its smallness."""

import pandas as pd
import pytest
from pydantic import ValidationError

from evenhand.config import AuditConfig, Threshold, ThresholdConfig
from evenhand_audit.analysis import audit_table
from evenhand_audit.records import Estimate
from evenhand_audit.simulate import simulated_rows
from evenhand_audit.thresholds import RULES, judge, verdict_of

GAP = Threshold(warn=0.05, fail=0.10)
WORST = Threshold(warn=0.8, fail=0.7)


@pytest.mark.parametrize(
    ("estimate", "limit", "lower", "verdict", "why"),
    [
        (Estimate(0.12, 0.02, 0.22), GAP, False, "fail", "0.120 is above the limit of 0.100"),
        (
            Estimate(0.12, 0.02, 0.22),
            GAP,
            False,
            "fail",
            "reaches 0.020, so chance may have made it",
        ),
        (Estimate(0.07, 0.01, 0.09), GAP, False, "warn", "0.070 is above 0.050"),
        (Estimate(0.03, -0.1, 0.16), GAP, False, "warn", "0.100 is not ruled out"),
        (Estimate(0.03, 0.0, 0.09), GAP, False, "pass", "and so is its 95% interval"),
        (Estimate(0.65, 0.6, 0.7), WORST, True, "fail", "below the limit of 0.700"),
        (Estimate(0.75, 0.71, 0.8), WORST, True, "warn", "0.750 is below 0.800"),
        (Estimate(0.85, 0.65, 0.9), WORST, True, "warn", "reaches 0.650"),
        (Estimate(0.85, 0.75, 0.9), WORST, True, "pass", "within the limits"),
        (Estimate(0.03, 0.0, 0.07), Threshold(warn=0.05), False, "warn", "not ruled out"),
        (Estimate(0.12, 0.12, 0.12), Threshold(fail=0.1), False, "fail", "above the limit"),
    ],
)
def test_verdicts_by_hand(estimate, limit, lower, verdict, why):
    """Beyond fail fails; beyond warn, or fail not ruled out, warns; else it passes."""
    found, reason = judge(estimate, limit, lower_is_worse=lower)
    assert found == verdict
    assert why in reason


def test_every_limit_of_the_config_has_a_rule():
    """No limit can be set that nothing is held against."""
    assert set(RULES) == set(ThresholdConfig.model_fields)


def test_a_planted_gap_fails_and_says_where():
    """A gap of 0.3 by sex against a limit of 0.1: sex fails, and the arm with it."""
    config = AuditConfig(
        resamples=200,
        attributes=("sex",),
        thresholds=ThresholdConfig(dice_gap=GAP, skewed_error_ratio=Threshold(warn=1.2)),
    )
    arm = audit_table(pd.DataFrame(simulated_rows(patients=60, gap=0.3)), config).arms[0]
    assert {(check.limit, check.attribute) for check in arm.checks} == {
        ("dice_gap", "sex"),
        ("skewed_error_ratio", "sex"),
    }
    assert next(check for check in arm.checks if check.limit == "dice_gap").verdict == "fail"
    assert verdict_of(arm.checks) == "fail"


def test_without_limits_there_is_no_verdict():
    """Pass means that a limit was held, so nothing passes unasked."""
    arm = audit_table(pd.DataFrame(simulated_rows(patients=20)), AuditConfig(resamples=100)).arms[0]
    assert arm.checks == ()
    assert verdict_of(arm.checks) is None


@pytest.mark.parametrize(
    "limits",
    [
        {"dice_gap": {}},
        {"dice_gap": {"warn": 0.2, "fail": 0.1}},
        {"worst_group_dice": {"warn": 0.7, "fail": 0.8}},
        {"dice_gab": {"warn": 0.1}},
    ],
)
def test_limits_that_make_no_sense_are_refused(limits):
    """Empty limits, fail milder than warn, unknown figures."""
    with pytest.raises(ValidationError):
        ThresholdConfig.model_validate(limits)


def like_patients_check(rows, attribute):
    """The one check of the gap between like patients."""
    config = AuditConfig(
        resamples=100,
        attributes=(attribute,),
        thresholds=ThresholdConfig(adjusted_dice_gap=Threshold(fail=0.5)),
    )
    (check,) = audit_table(pd.DataFrame(rows), config).arms[0].checks
    return check


def test_a_gap_that_could_not_be_adjusted_warns():
    """Each hospital has one sex only: nothing is ruled out, and nothing passes in silence."""
    rows = simulated_rows(patients=40)
    for row in rows:
        row["hospital"] = "north" if row["sex"] == "F" else "south"
    check = like_patients_check(rows, "sex")
    assert (check.verdict, check.value) == ("warn", None)
    assert "cannot be told apart from hospital" in check.reason


def test_the_reason_says_which_pair_was_held_against_the_limit():
    """With three groups or more a pass is one of a single pair, and says so; with two it is all."""
    rows = simulated_rows(patients=90, gap=0.0)
    assert "other pairs are not held" not in like_patients_check(rows, "sex").reason
    assert "other pairs are not held" in like_patients_check(rows, "hospital").reason
