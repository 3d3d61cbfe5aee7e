"""Sums of several hospitals say exactly what all rows together say, and nothing of small groups."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evenhand.artifacts import write_prediction_table
from evenhand.config import AuditConfig
from evenhand.errors import DataError, UsageError
from evenhand_audit.across.files import pool_files
from evenhand_audit.across.pool import pool, summary
from evenhand_audit.across.sums import moments_of, read_sums, sums_of, write_sums
from evenhand_audit.disclosure import POOL
from evenhand_audit.rates import rate_interval
from evenhand_audit.resampling import Figure, standard_error
from evenhand_audit.simulate import simulated_rows

CONFIG = AuditConfig(attributes=("sex", "race"), age_edges=(50,))
LESIONS = ("lesions_reference", "lesions_found", "lesions_predicted", "lesions_predicted_true")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """160 patients of four hospitals with lesions, several cases each. Read only."""
    rng = np.random.default_rng(0)
    rows = simulated_rows(patients=160, gap=0.1, cases_per_patient=2, seed=5)
    for row in rows:
        row["race"] = "black" if row["race"] == "unknown" else row["race"]
        reference = int(rng.integers(1, 4))
        found = int(rng.integers(0, reference + 1))
        row |= dict(zip(LESIONS, (reference, found, found + 1, found), strict=True))
    path = tmp_path_factory.mktemp("table") / "p.csv"
    write_prediction_table(path, rows, {})
    return path


def hospitals(table, config=CONFIG, names=("north", "east", "south", "west")):
    """Sums of each."""
    return [sums_of(table, config, name)[0] for name in names]


def patients(table):
    """All rows in one place, one a patient."""
    rows = pd.read_csv(table)
    return rows.groupby("patient").agg(
        {"dice": "mean", "sex": "first", "race": "first", "hospital": "first"}
        | dict.fromkeys(LESIONS, "sum")
    )


def test_means_and_intervals_are_those_of_all_rows(table):
    """Mean and Student's interval of everybody and of each group, from scipy over all rows."""
    arm = pool(hospitals(table)).arms[0]
    rows = patients(table)
    found = {("", "everybody"): arm.overall}
    found |= {
        (each.attribute, group.group): group for each in arm.attributes for group in each.groups
    }
    assert len(found) == 1 + 4 + 2 + 2
    for (attribute, group), row in found.items():
        mine = rows["dice"] if not attribute else rows["dice"][rows[attribute] == group]
        theirs = stats.ttest_1samp(mine, 0).confidence_interval()
        dice = row.means["dice"]
        assert row.patients == len(mine)
        assert (dice.value, dice.low, dice.high) == pytest.approx((mine.mean(), *theirs), abs=1e-12)


def test_the_gap_is_welchs_of_all_rows(table):
    """Gap, interval and p-value of two groups, from scipy over all rows."""
    arm = pool(hospitals(table)).arms[0]
    rows = patients(table)
    gap = next(each for each in arm.attributes if each.attribute == "sex").gaps["dice"]
    women, men = (rows["dice"][rows["sex"] == sex] for sex in "FM")
    test = stats.ttest_ind(men, women, equal_var=False)
    assert (gap.best_group, gap.worst_group) == ("M", "F")
    assert (gap.gap.low, gap.gap.high) == pytest.approx(tuple(test.confidence_interval()), abs=1e-9)
    assert gap.p_value == pytest.approx(test.pvalue, rel=1e-6)
    assert gap.p_holm >= gap.p_value


def test_rates_are_sum_over_sum_of_all_rows(table):
    """Missed lesions have the rate of all rows, and an interval no narrower and hardly wider."""
    row = pool(hospitals(table)).arms[0].overall.means["missed_lesions"]
    rows = patients(table)
    figure = Figure(
        (rows["lesions_reference"] - rows["lesions_found"]).to_numpy(float),
        rows["lesions_reference"].to_numpy(float),
    )
    low, high = rate_interval(figure)
    assert row.value == pytest.approx(figure.value, abs=1e-12)
    assert low - 0.001 < row.low <= low
    assert high <= row.high < high + 0.001


def with_lesions(path, missed):
    """One lesion a patient, missed in the patients that `missed` says."""
    rows = simulated_rows(patients=80, gap=0.0, seed=3)
    for row in rows:
        row |= dict(zip(LESIONS, (1, 0 if missed(row) else 1, 1, 1), strict=True))
    write_prediction_table(path, rows, {})
    return path


def test_no_lesion_missed_is_not_certainty(tmp_path):
    """A pooled rate of 0 has Clopper and Pearson's interval, and a gap of 0 one around 0."""
    path = with_lesions(tmp_path / "p.csv", lambda _: False)
    arm = pool(hospitals(path)).arms[0]
    exact = stats.binomtest(0, 80).proportion_ci(method="exact")
    rate = arm.overall.means["missed_lesions"]
    assert (rate.low, rate.high) == pytest.approx(tuple(exact), abs=1e-9)
    gap = next(each for each in arm.attributes if each.attribute == "sex").gaps["missed_lesions"]
    assert gap.gap.low < -0.05 < 0.05 < gap.gap.high
    assert gap.p_value == 1.0
    assert gap.detectable > 0.05


def test_rates_of_zero_and_one_are_not_proven_by_no_spread(tmp_path):
    """All lesions of F missed, none of M: the gap's end stays under 1, and p above 0."""
    path = with_lesions(tmp_path / "p.csv", lambda row: row["sex"] == "F")
    sex = pool(hospitals(path)).arms[0].attributes[1]
    gap = sex.gaps["missed_lesions"]
    assert (gap.worst_group, gap.gap.value, gap.gap.high) == ("F", 1.0, 1.0)
    assert 0.8 < gap.gap.low < 0.95
    assert 0 < gap.p_value < 1e-6


def test_means_without_any_spread_have_the_test_of_permutations(tmp_path):
    """Everybody of F at 0.5 and of M at 0.9: p is one deal in all, not 0; intervals are clipped."""
    rows = simulated_rows(patients=16, seed=3)
    for row in rows:
        row |= {"hospital": "north" if int(str(row["patient"])[-4:]) < 8 else "east"}
        row["dice"] = 0.5 if row["sex"] == "F" else 0.9
    write_prediction_table(tmp_path / "p.csv", rows, {})
    config = AuditConfig(attributes=("sex",), minimum_group=4)
    arm = pool(hospitals(tmp_path / "p.csv", config, ("north", "east"))).arms[0]
    sex = next(each for each in arm.attributes if each.attribute == "sex")
    assert sex.gaps["dice"].p_value == pytest.approx(2 / 12870)
    for group in (arm.overall, *sex.groups):
        dice = group.means["dice"]
        assert 0 <= dice.low <= dice.value <= dice.high <= 1


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(0, 300), min_size=2, max_size=30), parts=st.integers(1, 5))
def test_sums_lose_nothing(values, parts):
    """However rows are dealt out to hospitals, the sums give value and error of all."""
    figure = Figure(np.array(values))
    shares = np.array_split(np.arange(len(values)), parts)
    moments = np.sum([moments_of(figure.of(share)) for share in shares], axis=0)
    value, error = summary(len(values), tuple(moments))
    assert value == pytest.approx(figure.value, rel=1e-9, abs=1e-9)
    assert error == pytest.approx(standard_error(figure), rel=1e-4, abs=1e-4)


def test_small_groups_are_told_together(tmp_path):
    """Where one hospital has two O, its O leave with another group, and all O are judged so."""
    rows = simulated_rows(patients=120, seed=2)
    for row in rows:
        number = int(str(row["patient"])[-4:])
        if row["hospital"] == "north" and number < 10:
            row["sex"] = "O"
        if row["hospital"] == "east" and number % 3 == 0:
            row["sex"] = "O"
    write_prediction_table(tmp_path / "p.csv", rows, {})
    config = AuditConfig(attributes=("sex",))
    told = hospitals(tmp_path / "p.csv", config, ("north", "east"))
    north = {row.group: row for row in told[0].arms[0].rows if row.attribute == "sex"}
    assert POOL in north
    assert "O" in north[POOL].members
    assert all(row.patients >= 5 for each in told for arm in each.arms for row in arm.rows)
    pooled = next(each for each in pool(told).arms[0].attributes if each.attribute == "sex")
    together = next(each for each in pooled.groups if each.group == POOL)
    frame = pd.DataFrame(rows)
    frame = frame[frame["hospital"].isin(["north", "east"])]
    mine = frame[frame["sex"].isin(together.members)]
    assert together.patients == len(mine)
    assert together.means["dice"].value == pytest.approx(mine["dice"].mean(), abs=1e-12)


def test_a_hospital_that_tells_nothing_apart_is_left_out_and_named(tmp_path):
    """Five M and two F in the west cannot be told apart; sex is compared in the other three."""
    rows = [
        row
        for row in simulated_rows(patients=120, seed=2)
        if row["hospital"] != "west" or row["sex"] == "M" or int(str(row["patient"])[-4:]) < 16
    ]
    write_prediction_table(tmp_path / "p.csv", rows, {})
    found = pool(hospitals(tmp_path / "p.csv", AuditConfig(attributes=("sex",))))
    sex = found.arms[0].attributes[1]
    assert sex.without == ("west",)
    assert {each.group for each in sex.groups} == {"F", "M"}
    assert sum(each.patients for each in sex.groups) < found.arms[0].overall.patients


def test_groups_that_were_agreed_on_are_joined(tmp_path):
    """Race has a small group everywhere; joined beforehand, two groups are left to compare."""
    write_prediction_table(tmp_path / "p.csv", simulated_rows(patients=80, seed=2), {})
    config = AuditConfig(attributes=("race",))
    names = ("north", "east", "south", "west")
    alone = [sums_of(tmp_path / "p.csv", config, name)[0] for name in names]
    assert len(pool(alone).arms[0].attributes[1].groups) < 3
    joined = {"race": dict.fromkeys(("black", "unknown"), "black + unknown")}
    told = [sums_of(tmp_path / "p.csv", config, name, joined)[0] for name in names]
    groups = {each.group: each.patients for each in pool(told).arms[0].attributes[1].groups}
    races = pd.read_csv(tmp_path / "p.csv")["race"].fillna("unknown")
    assert groups == {
        "white": (races == "white").sum(),
        "black + unknown": (races != "white").sum(),
    }
    with pytest.raises(DataError, match="differ in joined"):
        pool([told[0], alone[1]])


def test_what_leaves_names_nobody(table, tmp_path):
    """The file holds sums: no id of a patient or case, no value of one."""
    sums, _ = sums_of(table, CONFIG, "north")
    write_sums(sums, tmp_path / "n.json")
    text = (tmp_path / "n.json").read_text()
    assert "person-" not in text
    assert read_sums(json.loads(text)) == sums
    shown = {row["patients"] for arm in json.loads(text)["arms"] for row in arm["rows"]}
    assert min(shown) >= 5


def test_a_register_remembers_what_was_told(table, tmp_path):
    """The same sums may be told again; with one patient less they would tell of that patient."""
    config = CONFIG.model_copy(update={"register_file": tmp_path / "r.json"})
    write_sums(*reversed_pair(sums_of(table, config, "north"), tmp_path / "1.json"))
    write_sums(*reversed_pair(sums_of(table, config, "north"), tmp_path / "2.json"))
    rows = pd.read_csv(table)
    fewer = rows[rows["patient"] != rows["patient"].iloc[0]]
    fewer.to_csv(tmp_path / "p.csv", index=False)
    gone = rows["hospital"].iloc[0]
    with pytest.raises(DataError, match="earlier report") as error:
        sums_of(tmp_path / "p.csv", config, gone)
    assert "person-" not in str(error.value)


def test_arms_of_one_table_are_told_together(table, tmp_path):
    """With one patient less in another arm, the two arms' sums differ by exactly that patient."""
    rows = pd.read_csv(table)
    rows = rows[rows["hospital"] == "north"]
    fewer = rows[rows["patient"] != rows["patient"].iloc[0]].assign(arm="fewer")
    pd.concat([rows, fewer]).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(DataError, match="another arm"):
        sums_of(tmp_path / "p.csv", CONFIG, "north")
    pd.concat([rows, rows.assign(arm="alike")]).to_csv(tmp_path / "p.csv", index=False)
    assert len(sums_of(tmp_path / "p.csv", CONFIG, "north")[0].arms) == 2


def reversed_pair(found, path):
    """Arguments of write_sums."""
    return found[0], path, found[1]


def test_what_does_not_fit_together_is_refused(table, tmp_path):
    """Other settings, one hospital twice, one hospital only, a damaged file."""
    north, east = hospitals(table, names=("north", "east"))
    other = sums_of(table, CONFIG.model_copy(update={"minimum_group": 6}), "east")[0]
    with pytest.raises(DataError, match="differ in minimum_group"):
        pool([north, other])
    with pytest.raises(DataError, match="same hospital"):
        pool([north, north])
    with pytest.raises(DataError, match="two hospitals or more"):
        pool([north])
    with pytest.raises(UsageError, match="4 hospitals"):
        sums_of(table, CONFIG)
    with pytest.raises(UsageError, match="give their values away"):
        sums_of(table, CONFIG.model_copy(update={"minimum_group": 2}), "north")
    with pytest.raises(UsageError, match="no hospital 'nowhere'"):
        sums_of(table, CONFIG, "nowhere")
    write_sums(east, tmp_path / "e.json")
    text = (tmp_path / "e.json").read_text()
    for broken in ("{", "{}", text.replace('"members"', '"member"')):
        (tmp_path / "e.json").write_text(broken)
        with pytest.raises(DataError, match=r"e\.json"):
            pool_files([tmp_path / "e.json", tmp_path / "e.json"])


def test_a_hospital_with_four_patients_tells_nothing(tmp_path):
    """Not even its overall mean."""
    write_prediction_table(tmp_path / "p.csv", simulated_rows(patients=4), {})
    rows = pd.read_csv(tmp_path / "p.csv").assign(hospital="small")
    rows.to_csv(tmp_path / "q.csv", index=False)
    with pytest.raises(DataError, match="can tell nothing yet"):
        sums_of(tmp_path / "q.csv", CONFIG)


def test_a_hospital_without_rows_of_an_attribute_is_named(table):
    """A file that tells nothing of race is no fault: the others are pooled, and it is said."""
    told = hospitals(table)
    arms = [
        replace(arm, rows=tuple(row for row in arm.rows if row.attribute != "race"))
        for arm in told[0].arms
    ]
    pooled = pool([replace(told[0], arms=tuple(arms)), *told[1:]]).arms[0]
    race = next(each for each in pooled.attributes if each.attribute == "race")
    assert race.without == (told[0].hospital,)


def test_pairs_are_those_of_all_rows(tmp_path):
    """Cells of sex and race over four hospitals, what is told together put together."""
    rows = simulated_rows(patients=240, gap=0.1, seed=4)
    write_prediction_table(tmp_path / "p.csv", rows, {})
    names = ("north", "east", "south", "west")
    told = [sums_of(tmp_path / "p.csv", CONFIG, name, pairs=True)[0] for name in names]
    assert all(row.patients >= 5 for each in told for arm in each.arms for row in arm.rows)
    crossed = pool(told).arms[0].attributes[-1]
    frame = pd.DataFrame(rows)
    cell = frame["sex"] + ", " + frame["race"]
    assert len(crossed.groups) > 2
    assert sum(each.patients for each in crossed.groups) == len(frame)
    assert set().union(*(each.members for each in crossed.groups)) >= set(cell)
    for group in crossed.groups:
        mine = frame["dice"][cell.isin(group.members)]
        assert group.patients == len(mine)
        assert group.means["dice"].value == pytest.approx(mine.mean(), abs=1e-12)
