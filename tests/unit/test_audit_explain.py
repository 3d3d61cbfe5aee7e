"""What a gap may come from: who drives it, what is left among like patients, who is missing."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from evenhand.artifacts import write_prediction_table
from evenhand.cli import app
from evenhand.errors import DataError, UsageError
from evenhand_audit.disclosure import POOL
from evenhand_audit.explain.representation import read_reference, representation
from evenhand_audit.explain.why import drivers_of, gap_of, strata_of, thirds
from evenhand_audit.simulate import simulated_rows


def test_drivers_by_hand():
    """F: 0.1, 0.7, 0.7; M: 0.8, 0.8, 0.8. Without the 0.1 the gap falls from 0.3 to 0.1."""
    dice = np.array([0.7, 0.8, 0.1, 0.8, 0.7, 0.8])
    gap = gap_of(dice, list("FMFMFM"), 3)
    assert (gap.best, gap.worst) == ("M", "F")
    assert gap.value == pytest.approx(0.3)
    drivers = drivers_of(dice, gap)
    assert drivers["position"][0] == 2
    assert drivers["influence"][0] == pytest.approx(0.2)
    assert drivers["gap_without"][0] == pytest.approx(0.1)
    assert sorted(drivers["position"]) == [0, 1, 2, 3, 4, 5]


def test_a_gap_of_hospitals_is_none_inside_hospitals():
    """F are mostly in the bad hospital: a gap overall, none between patients of one hospital."""
    rng = np.random.default_rng(0)
    sexes = ["F"] * 40 + ["M"] * 40
    hospitals = ["bad"] * 32 + ["good"] * 8 + ["bad"] * 8 + ["good"] * 32
    dice = np.where(np.array(hospitals) == "bad", 0.5, 0.8) + rng.normal(0, 0.03, 80)
    gap = gap_of(dice, sexes, 5)
    found, whole = strata_of(dice, gap, hospitals)
    assert gap.value == pytest.approx(0.18, abs=0.02)
    assert [each.name for each in found] == ["bad", "good"]
    assert whole.low < 0 < whole.high
    assert abs(whole.gap) < 0.03


def test_the_gap_inside_strata_is_that_of_a_linear_model():
    """Weights n1 n2 / (n1 + n2) give the coefficient of a model with an intercept a stratum."""
    rng = np.random.default_rng(1)
    sexes = list(rng.permutation(["F"] * 30 + ["M"] * 25))
    strata = [str(each) for each in rng.integers(0, 3, 55)]
    dice = rng.normal(0.7, 0.1, 55)
    gap = gap_of(dice, sexes, 5)
    _, whole = strata_of(dice, gap, strata)
    design = np.column_stack(
        [gap.in_best.astype(float), *((np.array(strata) == each) * 1.0 for each in "012")]
    )
    assert whole.gap == pytest.approx(np.linalg.lstsq(design, dice)[0][0], abs=1e-9)


def test_a_stratum_is_compared_by_welch():
    """Interval of one stratum, from scipy."""
    rng = np.random.default_rng(2)
    dice, sexes = rng.normal(0.7, 0.1, 30), ["F", "M"] * 15
    gap = gap_of(dice, sexes, 5)
    (found,), _ = strata_of(dice, gap, ["all"] * 30)
    test = stats.ttest_ind(dice[gap.in_best], dice[gap.in_worst], equal_var=False)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval()), abs=1e-9)


def test_strata_without_both_groups_say_nothing():
    """All F here, all M there: nothing can be held equal, and nothing is said."""
    gap = gap_of(np.linspace(0, 1, 12), ["F"] * 6 + ["M"] * 6, 5)
    assert strata_of(np.linspace(0, 1, 12), gap, ["a"] * 6 + ["b"] * 6) == ([], None)
    assert thirds(np.arange(6.0)).count("middle third") == 2
    with pytest.raises(UsageError, match="not two groups"):
        gap_of(np.ones(6), list("FFFFFM"), 3)


def test_representation_by_hand(tmp_path):
    """10 F of 100 against one half: under-represented, ratio 0.2; counts are scaled to shares."""
    (tmp_path / "r.csv").write_text("group,share\nF,510\nM,490\n")
    reference = read_reference(tmp_path / "r.csv")
    women, men = representation(["F"] * 10 + ["M"] * 90, reference, 5)
    assert women.ratio == pytest.approx(0.1 / 0.51)
    assert (women.verdict, men.verdict) == ("under-represented", "over-represented")
    exact = stats.binomtest(10, 100).proportion_ci(0.975, method="exact")
    assert (women.low, women.high) == pytest.approx(tuple(exact))
    even = representation(["F"] * 48 + ["M"] * 52, reference, 5)
    assert {each.verdict for each in even} == {"within chance"}


def test_who_is_missing_altogether_is_a_row(tmp_path):
    """A group of the population that nobody belongs to is the finding, not an absent line."""
    found = representation(["a"] * 50 + ["b"] * 50, {"a": 0.4, "b": 0.4, "c": 0.2}, 5)
    missing = next(each for each in found if each.group == "c")
    assert (missing.patients, missing.ratio, missing.verdict) == (0, 0, "under-represented")


def test_small_groups_stand_together():
    """Two c and three d are one row of five, with both shares of the population."""
    reference = {"a": 0.5, "b": 0.3, "c": 0.1, "d": 0.1}
    found = representation(["a"] * 20 + ["b"] * 20 + ["c"] * 2 + ["d"] * 3, reference, 5)
    together = next(each for each in found if each.group == POOL)
    assert (together.patients, together.reference) == (5, pytest.approx(0.2))
    with pytest.raises(DataError, match="too few"):
        representation(["a"] * 3, reference, 5)


@pytest.mark.parametrize("text", ["group,n\na,1\n", "group,share\na,-1\n", "group,share\na,\n"])
def test_a_reference_that_is_none_is_refused(tmp_path, text):
    """Missing column, negative share, blank share."""
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(DataError, match=r"r\.csv"):
        read_reference(tmp_path / "r.csv")


def test_both_commands(tmp_path):
    """`why` writes who drives the gap, `cohort` prints who is missing."""
    rows = simulated_rows(patients=60, gap=0.2)
    write_prediction_table(tmp_path / "p.csv", rows, {})
    words = [
        "audit",
        "why",
        str(tmp_path / "p.csv"),
        "--by",
        "sex",
        "--out",
        str(tmp_path / "d.csv"),
    ]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    assert "reference volume" in found.output
    assert "F lies" in found.output
    table = pd.read_csv(tmp_path / "d.csv")
    assert list(table.columns) == ["patient", "cases", "sex", "dice", "influence", "gap_without"]
    assert table["influence"].is_monotonic_decreasing
    pd.DataFrame(rows).to_csv(tmp_path / "people.csv", index=False)
    (tmp_path / "r.csv").write_text("group,share\nF,0.9\nM,0.1\n")
    words = ["audit", "cohort", str(tmp_path / "people.csv"), str(tmp_path / "r.csv"),
             "--by", "sex", "--key", "patient"]  # fmt: skip
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    assert "over-rep" in found.output
