"""Gaps between like patients: a hospital's effect is not sold as an effect of sex."""

import numpy as np
import pandas as pd
import pytest

from evenhand.errors import DataError
from evenhand_audit.cohort import patients_of
from evenhand_audit.mixed import Covariates, adjusted_gap
from evenhand_audit.simulate import simulated_rows

SEXES = ("M", "F")


def cohort(rng, *, patients=80, sex_gap=0.0, hospital_gap=0.0, volume_slope=0.0, odds=0.5):
    """Dice of patients in four hospitals; hospitals 0 and 1 have F with the given odds, else not.

    Hospitals 0 and 1 lose `hospital_gap`, F loses `sex_gap`, each log unit of volume adds.
    """
    hospital = np.arange(patients) % 4
    female = rng.random(patients) < np.where(hospital < 2, odds, 1 - odds)
    volume = np.exp(rng.normal(9, 1, patients))
    dice = 0.8 + rng.normal(0, 0.05, patients) - sex_gap * female
    dice = dice - hospital_gap * (hospital < 2) + volume_slope * (np.log(volume) - 9)
    labels = ["F" if each else "M" for each in female]
    names = np.array([f"hospital {each}" for each in hospital], dtype=object)
    return dice, labels, Covariates(names, volume)


def test_a_hospital_gap_is_not_called_a_sex_gap():
    """Women go to two hospitals that are worse: the plain gap is large, the adjusted one is not."""
    dice, labels, covariates = cohort(np.random.default_rng(0), hospital_gap=0.2, odds=0.9)
    female = np.array(labels) == "F"
    assert dice[~female].mean() - dice[female].mean() > 0.1
    adjusted = adjusted_gap(dice, labels, SEXES, covariates)
    assert adjusted.held_equal == ("hospital", "tumour volume")
    assert adjusted.low <= 0 <= adjusted.high
    assert adjusted.high < 0.1


def test_adjusted_intervals_hold_the_truth():
    """A sex gap of 0.05 beside hospital and volume effects: 21 or more of 24 intervals hold it."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(24):
        case = cohort(rng, sex_gap=0.05, hospital_gap=0.15, volume_slope=0.03, odds=0.8)
        adjusted = adjusted_gap(case[0], case[1], SEXES, case[2])
        held += adjusted.low <= 0.05 <= adjusted.high
    assert held >= 21


def test_a_gap_that_is_tumour_size_goes_away():
    """F have small tumours, and Dice follows size: nothing is left between like patients."""
    rng = np.random.default_rng(2)
    dice, labels, covariates = cohort(rng)
    volume = np.where(np.array(labels) == "F", covariates.volume / 10, covariates.volume)
    dice = dice + 0.05 * np.log(volume)
    adjusted = adjusted_gap(dice, labels, SEXES, Covariates(covariates.hospital, volume))
    assert adjusted.low <= 0 <= adjusted.high


def test_the_mixed_model_is_between_ignoring_hospitals_and_one_intercept_each():
    """With a true hospital effect its estimate is that of hospital intercepts, nearly."""
    dice, labels, covariates = cohort(np.random.default_rng(3), hospital_gap=0.3, odds=0.8)
    adjusted = adjusted_gap(dice, labels, SEXES, covariates)
    female = (np.array(labels) == "F").astype(float)
    volume = np.log1p(covariates.volume)
    dummies = [covariates.hospital == name for name in sorted(set(covariates.hospital))]
    design = np.column_stack([1 - female, volume, *dummies]).astype(float)
    fixed = np.linalg.lstsq(design, dice, rcond=None)[0][0]
    assert adjusted.value == pytest.approx(fixed, abs=0.005)


def test_hospitals_that_do_not_differ_are_no_trouble():
    """A hospital variance of 0 is at the border of the model, and still fitted."""
    rng = np.random.default_rng(4)
    dice, labels, covariates = cohort(rng, sex_gap=0.1)
    for name in set(covariates.hospital):  # equal means by construction: the variance is 0
        mine = covariates.hospital == name
        dice[mine] -= dice[mine].mean()
    adjusted = adjusted_gap(dice, labels, SEXES, covariates)
    assert adjusted.value is not None
    assert adjusted.low < adjusted.value < adjusted.high


def test_groups_that_are_hospitals_in_disguise_are_said():
    """Where each hospital has one group only, nothing can tell the two apart."""
    rng = np.random.default_rng(5)
    dice, _, covariates = cohort(rng)
    labels = ["F" if name in {"hospital 0", "hospital 1"} else "M" for name in covariates.hospital]
    adjusted = adjusted_gap(dice, labels, SEXES, covariates)
    assert adjusted.value is None
    assert "cannot be told apart from hospital" in adjusted.note


@pytest.mark.parametrize(
    ("dice", "said"), [(np.full(80, 0.5), "same figure"), (np.linspace(0, 1, 10), "too few")]
)
def test_what_cannot_be_fitted_is_said(dice, said):
    """No spread, or hardly more patients than parameters: a sentence, no number."""
    _, labels, covariates = cohort(np.random.default_rng(6), patients=len(dice))
    labels[:2] = SEXES
    adjusted = adjusted_gap(dice, labels, SEXES, covariates)
    assert adjusted.value is None
    assert said in adjusted.note


def test_hospitals_themselves_are_compared_at_equal_volume_only():
    """When groups are hospitals, hospital is not held equal."""
    dice, _, covariates = cohort(np.random.default_rng(7), hospital_gap=0.2)
    adjusted = adjusted_gap(
        dice, list(covariates.hospital), ("hospital 2", "hospital 0"), covariates,
        hospital_is_compared=True,
    )  # fmt: skip
    assert adjusted.held_equal == ("tumour volume",)
    assert adjusted.low < 0.2 < adjusted.high


def test_grade_is_held_equal_where_it_is_known():
    """F have the worse grade; with grade held equal nothing is left."""
    rng = np.random.default_rng(8)
    dice, labels, covariates = cohort(rng)
    high = rng.random(80) < np.where(np.array(labels) == "F", 0.8, 0.2)
    grade = np.where(high, "4", "2").astype(object)
    adjusted = adjusted_gap(
        dice - 0.2 * high, labels, SEXES,
        Covariates(covariates.hospital, covariates.volume, grade),
    )  # fmt: skip
    assert adjusted.held_equal == ("hospital", "tumour volume", "grade")
    assert adjusted.low <= 0 <= adjusted.high


@pytest.mark.parametrize("covariate", ["hospital", "grade"])
def test_two_values_of_what_is_held_equal_are_refused(covariate):
    """Also where it is not an attribute of the audit: the first value is not taken silently."""
    rows = pd.DataFrame(simulated_rows(patients=10, cases_per_patient=2)).assign(grade="2")
    assert len(patients_of(rows, ("sex",), ())) == 10
    rows.loc[0, covariate] = "other"
    with pytest.raises(DataError, match=f"1 patient has two values of '{covariate}'"):
        patients_of(rows, ("sex",), ())


def test_a_pair_that_was_picked_gets_an_interval_for_all_pairs():
    """Five groups alike: an interval for one pair alone calls every third extreme pair different.

    The one for all pairs does in 5% of audits: of 120, 6 are expected and 13 are far out.
    """
    rng = np.random.default_rng(6)
    alone, at_once = 0, 0
    for _ in range(120):
        dice, _, covariates = cohort(rng, patients=75)
        labels = [f"group {each}" for each in rng.integers(5, size=75)]
        means = pd.Series(dice).groupby(labels).mean().sort_values()
        pair = (str(means.index[-1]), str(means.index[0]))
        plain = Covariates(np.full(75, "one", dtype=object), covariates.volume)
        adjusted = adjusted_gap(dice, labels, pair, plain)
        assert adjusted.pairs == 10
        at_once += adjusted.low > 0
        half = (adjusted.high - adjusted.low) / 2
        alone += adjusted.value > half * 1.99 / 2.9  # Student's quantiles for one pair and for ten
    assert at_once <= 12
    assert alone >= 24
