"""What the audit computes, against numbers worked out by hand."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from evenhand.artifacts import PREDICTION_COLUMNS
from evenhand.config import AuditConfig
from evenhand.errors import DataError, UsageError
from evenhand.metrics import LesionCounts, count_lesions
from evenhand_audit.analysis import audit_table
from evenhand_audit.cohort import LESIONS, age_group_names, group_order, patients_of
from evenhand_audit.disclosure import POOL
from evenhand_audit.fairness import equity_scaled_by_std, equity_scaled_by_sum
from evenhand_audit.simulate import simulated_rows

QUICK = AuditConfig(resamples=200, minimum_group=2)


def table(*patients, **changes):
    """One case per (sex, dice) pair; HD95 is 10 x (1 - dice), NSD is Dice."""
    base = simulated_rows(patients=len(patients))
    rows = [
        row | {"sex": sex, "dice": dice, "hd95": 10 * (1 - dice), "nsd": dice} | changes
        for row, (sex, dice) in zip(base, patients, strict=True)
    ]
    return frame(rows)


def frame(rows):
    """Rows as the reader of tables gives them."""
    return pd.DataFrame(rows, columns=list(PREDICTION_COLUMNS)).astype({"age_years": float})


def attribute(audit, name, arm=0):
    """One attribute of one arm."""
    return next(each for each in audit.arms[arm].attributes if each.attribute == name)


def test_equity_scaled_dice_by_hand():
    """I = 0.8, groups 0.9 and 0.7: 0.8 / (1 + 0.2) = 2/3, and std 0.1 gives 0.8 / 1.1."""
    overall, groups = np.array(0.8), np.array([0.9, 0.7])
    assert equity_scaled_by_sum(overall, groups) == pytest.approx(2 / 3)
    assert equity_scaled_by_std(overall, groups) == pytest.approx(0.8 / 1.1)


def test_equal_groups_are_not_scaled_down():
    """Without any difference both definitions are the mean Dice itself."""
    overall, groups = np.array(0.8), np.array([0.8, 0.8, 0.8])
    assert equity_scaled_by_sum(overall, groups) == pytest.approx(0.8)
    assert equity_scaled_by_std(overall, groups) == pytest.approx(0.8)


def test_groups_gap_and_equity_by_hand():
    """F 0.5, 0.7 (mean 0.6); M 0.8, 0.9, 1.0 (mean 0.9); all 3.9 / 5 = 0.78.

    Gap 0.3. Equity-scaled: 0.78 / (1 + 0.18 + 0.12) = 0.6, and std of 0.6 and 0.9 is 0.15, so
    0.78 / 1.15. HD95 means are 4 and 1: F is worst there too, by 3.
    """
    cases = table(("F", 0.5), ("F", 0.7), ("M", 0.8), ("M", 0.9), ("M", 1.0))
    audit = audit_table(cases, QUICK.model_copy(update={"attributes": ("sex",)}))
    found = attribute(audit, "sex")
    assert audit.arms[0].overall.metrics["dice"].mean.value == pytest.approx(0.78)
    assert audit.arms[0].overall.metrics["dice"].median.value == pytest.approx(0.8)
    assert [(row.group, row.patients) for row in found.by_group] == [("F", 2), ("M", 3)]
    assert found.by_group[0].metrics["dice"].mean.value == pytest.approx(0.6)
    assert found.by_group[1].metrics["dice"].median.value == pytest.approx(0.9)
    difference = found.difference["dice"]
    assert (difference.best_group, difference.worst_group) == ("M", "F")
    assert difference.gap.value == pytest.approx(0.3)
    distance = found.difference["hd95"]
    assert (distance.best_group, distance.worst_group) == ("M", "F")
    assert distance.gap.value == pytest.approx(3.0)
    assert found.equity_scaled_dice.by_sum == pytest.approx(0.6)
    assert found.equity_scaled_dice.by_std == pytest.approx(0.78 / 1.15)


def test_a_patient_counts_once_however_many_cases():
    """Cases 0.2, 0.4 of one patient and 0.9 of another: mean 0.6 over patients, not 0.5."""
    rows = simulated_rows(patients=2)
    cases = frame(
        [
            rows[0] | {"dice": 0.2},
            rows[0] | {"dice": 0.4, "case": "second"},
            rows[1] | {"dice": 0.9},
        ]
    )
    overall = audit_table(cases, QUICK).arms[0].overall
    assert overall.metrics["dice"].mean.value == pytest.approx(0.6)
    assert (overall.patients, overall.cases) == (2, 3)


def test_cases_of_a_patient_are_kept_together():
    """Ten copies of every case narrow no interval: the patients are what is resampled."""
    once = frame(simulated_rows(patients=20))
    copies = pd.concat(
        [once.assign(case=once["case"] + f"-{copy}") for copy in range(10)], ignore_index=True
    )
    first, many = (audit_table(each, QUICK).arms[0].overall.metrics for each in (once, copies))
    assert many["dice"].mean.low == pytest.approx(first["dice"].mean.low)
    assert many["dice"].mean.high == pytest.approx(first["dice"].mean.high)


def test_the_same_table_gives_the_same_audit():
    """Nothing depends on the clock or on the order of rows."""
    cases = frame(simulated_rows(patients=24))
    turned = cases.sample(frac=1, random_state=1).reset_index(drop=True)
    first, again, other = (audit_table(each, QUICK) for each in (cases, cases, turned))
    assert first == again
    assert first.arms[0].overall.metrics["dice"].mean == other.arms[0].overall.metrics["dice"].mean


def test_a_planted_gap_is_found_and_an_absent_one_is_not():
    """A true gap of 0.15 by sex among 120 patients is found in 24 of 24 tables, and lies inside.

    By hospital there is none. Of 24 intervals of 95% each, 20 or more hold the truth in 99.4% of
    such runs.
    """
    config = AuditConfig(resamples=300, attributes=("sex", "hospital"), intersections=False)
    held = alarms = 0
    for seed in range(24):
        audit = audit_table(frame(simulated_rows(patients=120, gap=0.15, seed=seed)), config)
        difference = attribute(audit, "sex").difference["dice"]
        assert difference.beyond_chance
        assert difference.worst_group == "F"
        held += difference.gap.low <= 0.15 <= difference.gap.high
        alarms += attribute(audit, "hospital").difference["dice"].beyond_chance
    assert held >= 20
    assert alarms <= 3


def test_pairs_of_attributes_are_compared_too():
    """Four cells of sex and age group, each with its patients and a gap between them."""
    people = [(sex, dice) for sex, dice in zip("FM" * 12, np.linspace(0.5, 0.9, 24), strict=True)]
    cases = table(*people)
    cases["age_years"] = [30.0, 30.0, 70.0, 70.0] * 6
    config = QUICK.model_copy(update={"attributes": ("sex", "age_group")})
    arm = audit_table(cases, config).arms[0]
    assert [found.attribute for found in arm.intersections] == [
        "sex \N{MULTIPLICATION SIGN} age_group"
    ]
    cells = {row.group: row for row in arm.intersections[0].by_group}
    assert {name: row.patients for name, row in cells.items()} == {
        "F, under 50": 6, "F, 50 and over": 6, "M, under 50": 6, "M, 50 and over": 6,
    }  # fmt: skip
    mine = cases[(cases["sex"] == "F") & (cases["age_years"] == 30)]["dice"].mean()
    assert cells["F, under 50"].metrics["dice"].mean.value == pytest.approx(mine)


def test_all_comparisons_are_one_family():
    """3 attributes or pairs x 3 metrics x 2 arms are corrected together, whatever the arm."""
    rows = simulated_rows(patients=40, arms=(("a", "automatic"), ("b", "automatic")))
    config = AuditConfig(resamples=100, attributes=("sex", "hospital"))
    audit = audit_table(frame(rows), config)
    assert audit.family.comparisons == 18
    found = [
        difference
        for arm in audit.arms
        for each in (*arm.attributes, *arm.intersections)
        for difference in each.difference.values()
    ]
    assert len(found) == 18
    smallest = min(found, key=lambda each: each.p_value)
    assert smallest.p_holm == pytest.approx(min(1.0, 18 * smallest.p_value))
    assert all(each.p_value <= each.p_fdr <= each.p_holm for each in found)


def test_missed_lesions_are_a_rate_of_the_group():
    """F: 3 of 4 lesions missed, M: 1 of 8; the gap in missed lesions is 0.75 - 0.125."""
    cases = table(("F", 0.5), ("F", 0.7), ("M", 0.8), ("M", 0.9))
    cases["lesions_reference"] = [1.0, 3.0, 4.0, 4.0]
    cases["lesions_found"] = [0.0, 1.0, 4.0, 3.0]
    cases["lesions_predicted"] = [2.0, 1.0, 4.0, 4.0]
    cases["lesions_predicted_true"] = [0.0, 1.0, 4.0, 3.0]
    config = QUICK.model_copy(update={"attributes": ("sex",)})
    arm = audit_table(cases, config).arms[0]
    found = attribute(audit_table(cases, config), "sex")
    names = [metric.column for metric in arm.metrics][3:]
    assert names == ["missed_lesions", "false_lesions", "lesion_f1"]
    missed = {row.group: row.metrics["missed_lesions"].mean.value for row in found.by_group}
    assert missed == pytest.approx({"F": 0.75, "M": 0.125})
    assert found.difference["missed_lesions"].gap.value == pytest.approx(0.625)
    assert found.difference["missed_lesions"].worst_group == "F"
    assert arm.overall.metrics["missed_lesions"].median is None


def test_lesion_f1_is_that_of_the_counted_masks():
    """Of each patient over all cases, by the counts of the masks; the empty rule where none are."""
    rng = np.random.default_rng(1)
    rows, expected = [], {}
    for number in range(12):
        counts = []
        for case in range(2):
            masks = rng.random((2, 14, 14, 3)) < (0.0 if number == 0 else 0.03)
            counts.append(count_lesions(*masks))
            found = counts[-1]
            rows.append(
                simulated_rows(patients=1)[0]
                | {"patient": f"p{number:02d}", "case": f"c{number}-{case}"}
                | dict(zip(LESIONS, (found.reference, found.found, found.predicted,
                                     found.predicted_true), strict=True))
            )  # fmt: skip
        total = LesionCounts(*(sum(getattr(each, part) for each in counts) for part in
                               ("reference", "found", "predicted", "predicted_true")))  # fmt: skip
        expected[f"p{number:02d}"] = 1.0 if number == 0 else total.f1
    people = patients_of(pd.DataFrame(rows), ("sex",), ())
    assert dict(zip(people["patient"], people["lesion_f1"], strict=True)) == pytest.approx(expected)
    assert any(0 < each < 1 for each in expected.values())


def test_missed_and_invented_lesions_have_an_f1_of_zero():
    """A lesion without an answer, and an answer without a lesion."""
    cases = table(("F", 0.5), ("M", 0.7))
    for column, values in zip(LESIONS, ([1, 0], [0, 0], [0, 2], [0, 0]), strict=True):
        cases[column] = values
    assert list(patients_of(cases, ("sex",), ())["lesion_f1"]) == [0.0, 0.0]


def test_a_figure_that_half_of_the_cases_lack_is_left_out_and_said():
    """A mean over the cases that happen to have it would be of others than its row says."""
    cases = table(*[(sex, 0.8) for sex in "FMFM"])
    cases["calibration_error"] = [0.1, 0.2, np.nan, 0.1]
    arm = audit_table(cases, QUICK).arms[0]
    assert [metric.column for metric in arm.metrics] == ["dice", "hd95", "nsd"]
    assert arm.incomplete == ("calibration error",)
    cases["calibration_error"] = [0.1, 0.2, 0.1, 0.1]
    whole = audit_table(cases, QUICK).arms[0]
    assert whole.overall.metrics["calibration_error"].mean.value == pytest.approx(0.125)
    assert whole.incomplete == ()


def test_a_table_of_several_labels_is_judged_label_by_label():
    """Each label stands for itself: Dice of the core and of the whole tumour are not averaged."""
    cases = table(*[(sex, 0.8) for sex in "FMFM"])
    both = pd.concat([cases.assign(label="core"), cases.assign(label="whole", dice=0.6)])
    arms = audit_table(both.reset_index(drop=True), QUICK).arms
    assert [arm.prompt for arm in arms] == ["automatic · core", "automatic · whole"]
    assert [arm.overall.metrics["dice"].mean.value for arm in arms] == pytest.approx([0.8, 0.6])


def test_unknown_is_a_group_of_its_own():
    """A missing attribute is shown as unknown, after the known groups; an unknown age likewise."""
    cases = table(("M", 0.8), ("M", 0.9), ("unknown", 0.5), ("unknown", 0.6), age_years=None)
    audit = audit_table(cases, QUICK)
    assert [row.group for row in attribute(audit, "sex").by_group] == ["M", "unknown"]
    assert [row.group for row in attribute(audit, "age_group").by_group] == ["unknown"]


def test_age_groups_are_cut_at_the_edges():
    """An age at an edge belongs to the group above it."""
    assert age_group_names((40, 60)) == ("under 40", "40 to under 60", "60 and over")
    rows = simulated_rows(patients=6)
    ages = (39.9, 20, 40, 59.9, 60, 80)
    cases = frame([row | {"age_years": age} for row, age in zip(rows, ages, strict=True)])
    audit = audit_table(cases, QUICK.model_copy(update={"age_edges": (40, 60)}))
    found = attribute(audit, "age_group")
    assert [(row.group, row.patients) for row in found.by_group] == [
        ("under 40", 2),
        ("40 to under 60", 2),
        ("60 and over", 2),
    ]


def test_no_published_number_is_that_of_a_hidden_group():
    """Two patients of sex O have Dice 0.123: neither it nor its counterpart by subtraction is out.

    20 F, 19 M and 2 O: with F and M shown, O's mean would follow from the overall mean. The audit
    pools O with the next smallest group, M.
    """
    people = [("F", 0.6 + i / 100) for i in range(20)] + [("M", 0.7 + i / 100) for i in range(19)]
    people += [("O", 0.123), ("O", 0.123)]
    audit = audit_table(table(*people), AuditConfig(resamples=200, attributes=("sex",)))
    found = attribute(audit, "sex")
    assert [row.group for row in found.by_group] == ["F", POOL]
    assert found.pooled == ("M", "O")
    overall, shown = audit.arms[0].overall, found.by_group[0]
    rest = overall.metrics["dice"].mean.value * 41 - shown.metrics["dice"].mean.value * 20
    pooled = found.by_group[1]
    assert (pooled.patients, pooled.metrics["dice"].mean.value) == (21, pytest.approx(rest / 21))
    assert "0.123" not in json.dumps(asdict(audit))


def test_an_attribute_with_one_group_is_not_compared():
    """One group only: shown, but without gap and without equity-scaled Dice."""
    found = attribute(audit_table(table(*[("F", 0.5 + i / 20) for i in range(6)]), QUICK), "sex")
    assert len(found.by_group) == 1
    assert (found.difference, found.equity_scaled_dice) == ({}, None)


def test_an_arm_with_too_few_patients_is_withheld():
    """An arm scored on fewer patients than a group may have is named and not shown."""
    rows = simulated_rows(patients=8)
    small = [row | {"arm": "local-north"} for row in rows[:3]]
    audit = audit_table(frame(rows + small), AuditConfig(resamples=100))
    assert [arm.arm for arm in audit.arms] == ["federated"]
    assert [(each.arm, each.prompt) for each in audit.withheld] == [("local-north", "automatic")]


def test_three_patients_are_no_audit():
    """A table with too few patients gets one sentence with the way out."""
    with pytest.raises(DataError, match=r"holds 3 patients, and no arm reaches the 5"):
        audit_table(frame(simulated_rows(patients=3)), AuditConfig())


def test_all_masks_empty_is_a_result():
    """A model that finds nothing has Dice 0 everywhere, with intervals and no gap."""
    cases = table(*[(sex, 0.0) for sex in "FM" * 5], empty="prediction", volume_predicted=0.0)
    audit = audit_table(cases, AuditConfig(resamples=100))
    mean = audit.arms[0].overall.metrics["dice"].mean
    assert (mean.value, mean.low, mean.high) == (0, 0, 0)
    assert audit.arms[0].empty_masks == {"reference": 0, "prediction": 10, "both": 0}
    assert not attribute(audit, "sex").difference["dice"].beyond_chance


def test_one_patient_of_two_hospitals_is_refused():
    """Patient ids that collide between hospitals are said, without showing one."""
    rows = simulated_rows(patients=8)
    rows.append(rows[0] | {"case": "again", "hospital": "elsewhere"})
    with pytest.raises(DataError, match="1 patient has two values of 'hospital'") as error:
        audit_table(frame(rows), QUICK)
    assert "person-" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attributes": ("scanner",)}, "cannot be audited by 'scanner'"),
        ({"attributes": ("sx",)}, "cannot be audited by 'sx'; did you mean 'sex'"),
        ({"attributes": ("sex", "sex")}, "named twice"),
    ],
)
def test_a_wrong_question_is_refused(changes, said):
    """Unknown and repeated attributes are wrong use."""
    config = QUICK.model_copy(update=changes)
    with pytest.raises(UsageError, match=said):
        audit_table(frame(simulated_rows(patients=8)), config)


def test_cut_numbers_stand_by_size():
    """Readers look for a trend: groups of a number rise, names follow, unknown is last."""
    groups = ["10 and over", "unknown", "under 2.5", "2.5 to under 10", "GE"]
    ordered = ["under 2.5", "2.5 to under 10", "10 and over", "GE", "unknown"]
    assert group_order("size", groups, ()) == ordered
    assert group_order("grade", ["10", "9", "e"], ()) == ["9", "10", "e"]


def test_a_rate_that_one_group_lacks_is_listed_as_left_out():
    """No reference lesion in F: no rate of missed lesions for anybody, and that is said."""
    table = pd.DataFrame(simulated_rows(patients=24))
    table["lesions_reference"] = (table["sex"] != "F").astype(int)
    table["lesions_found"] = 0
    table["lesions_predicted"], table["lesions_predicted_true"] = 1, 0
    (arm, *_) = audit_table(table, AuditConfig(attributes=("sex",), resamples=100)).arms
    assert "missed_lesions" not in [metric.column for metric in arm.metrics]
    assert arm.incomplete == ("missed lesions",)
