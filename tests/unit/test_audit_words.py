"""The sentences of page one say what the numbers say, and no more."""

from dataclasses import replace

import pandas as pd
import pytest

from evenhand.config import AuditConfig
from evenhand_audit.analysis import audit_table
from evenhand_audit.disclosure import POOL
from evenhand_audit.rates import most_missed
from evenhand_audit.records import Estimate
from evenhand_audit.simulate import simulated_rows
from evenhand_audit.words import finding_of, group_name, headline_arm, number, unseen_misses

QUICK = AuditConfig(resamples=300, attributes=("sex",))


def audited(**options):
    """Audit of a simulated table by sex."""
    return audit_table(pd.DataFrame(simulated_rows(**options)), QUICK)


def test_a_clear_gap_is_said_plainly():
    """Worst group, both means, both numbers of patients, gap with interval, and that it is real."""
    arm = audited(patients=120, gap=0.2).arms[0]
    found = finding_of(arm)
    difference = arm.attributes[0].difference["dice"]
    assert found.sentence.startswith("Patients of sex F have the lowest mean Dice")
    assert number(difference.gap.value) in found.sentence
    assert f"{number(difference.gap.low)} to {number(difference.gap.high)}" in found.sentence
    assert found.sentence.count("60") >= 2
    assert found.sureness.startswith("That is more than chance among these patients explains")
    assert found.agreement == "HD95 and NSD name the same group as worst."
    assert found.headline == "A gap was found."
    assert "after correcting for all 3 comparisons of this report" in found.sureness
    assert found.like_patients.startswith("Between patients with hospital and tumour volume held")
    assert found.like_patients.endswith("So these do not explain it.")


def test_a_gap_within_chance_is_not_called_fair():
    """The sentence says what is not ruled out."""
    arm = audited(patients=12, gap=0.0).arms[0]
    found = finding_of(arm)
    assert found.headline == "No gap was found. That does not mean that there is none."
    assert "Chance alone could make a gap of this size" in found.sureness
    detectable = arm.attributes[0].difference["dice"].detectable.largest
    assert "could only have found gaps above these, four times in five" in found.reach
    assert f"sex {number(detectable)}" in found.reach
    assert number(arm.attributes[0].difference["dice"].gap.high) in found.sureness
    assert "no gap found does not mean no gap" in found.sureness


def test_a_gap_whose_interval_reaches_zero_is_not_called_found():
    """Test and interval can disagree where few cases make the gap: the weaker of the two counts."""
    arm = audited(patients=120, gap=0.2).arms[0]
    (sex,) = arm.attributes
    wide = replace(sex.difference["dice"], gap=Estimate(0.2, -0.01, 0.41))
    found = finding_of(
        replace(arm, attributes=(replace(sex, difference=sex.difference | {"dice": wide}),))
    )
    assert found.headline == "A possible gap, not a finding."
    assert "the interval reaches below zero" in found.sureness
    assert "not counted as found" in found.sureness


def test_nothing_to_compare_is_no_finding():
    """With one group there is no sentence."""
    rows = [row | {"sex": "F"} for row in simulated_rows(patients=8)]
    assert finding_of(audit_table(pd.DataFrame(rows), QUICK).arms[0]) is None


def test_another_metric_that_disagrees_is_said():
    """Where HD95 and NSD call another group worst, tumour size is named as a possible reason."""
    rows = simulated_rows(patients=120, gap=0.2)
    turned = [
        row | {"hd95": 5.0 if row["sex"] == "F" else 9.0, "nsd": 0.9 if row["sex"] == "F" else 0.5}
        for row in rows
    ]
    found = finding_of(audit_table(pd.DataFrame(turned), QUICK).arms[0])
    assert found.agreement.startswith("Neither HD95 nor NSD names the same group")


@pytest.mark.parametrize(
    ("arms", "lead"),
    [
        ([("pooled", "automatic"), ("federated", "box"), ("federated", "automatic")], 2),
        ([("theirs", "box"), ("ours", "automatic")], 0),
        ([("local-a", "automatic"), ("pooled", "box")], 1),
    ],
)
def test_the_leading_arm_is_chosen_by_name(arms, lead):
    """Which arm leads does not depend on results; foreign names keep the table's order."""
    audit = audited(patients=10, arms=arms)
    assert headline_arm(audit) is audit.arms[lead]


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        (0.12345, "dice", "0.123"),
        (-0.05, "nsd", "\N{MINUS SIGN}0.050"),
        (12.345, "hd95", "12.3"),
        (float("inf"), "hd95", "∞"),
        (float("-inf"), "hd95", "\N{MINUS SIGN}∞"),
    ],
)
def test_numbers_are_written_for_print(value, column, text):
    """Shares have three decimals, distances one, and a minus is a minus."""
    assert number(value, column) == text


class TestUnseenMisses:
    """What a sample without a missed patient leaves open."""

    def test_the_bound_by_hand(self):
        """None of 15: 1 - 0.05^(1/15), 18%. One of 15: P(at most 1) is 5% there. All: 1."""
        assert most_missed(0, 15) == pytest.approx(1 - 0.05 ** (1 / 15))
        share = most_missed(1, 15)
        assert (1 - share) ** 15 + 15 * share * (1 - share) ** 14 == pytest.approx(0.05)
        assert most_missed(15, 15) == 1

    def test_small_groups_name_what_they_do_not_rule_out(self):
        """Each of 15 without a miss leaves room for 18% of such patients."""
        said = unseen_misses(audited(patients=30, gap=0.0).arms[0])
        assert "up to 18% of patients of sex F (n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}15)" in said
        assert "sex M" in said

    def test_a_miss_in_the_sample_is_counted(self):
        """A missed patient is counted where the reference is not empty, and nothing is claimed."""
        table = pd.DataFrame(simulated_rows(patients=30, gap=0.0))
        women = table.index[table["sex"] == "F"]
        table.loc[women[0], ["dice", "empty"]] = [0.0, "prediction"]
        table.loc[women[1], ["dice", "empty"]] = [0.0, "reference"]
        arm = audit_table(table, QUICK).arms[0]
        missed = {row.group: row.missed for row in arm.attributes[0].by_group}
        assert (missed["F"].patients, missed["M"].patients) == (1, 0)
        assert missed["F"].at_most == most_missed(1, 15)
        assert "sex F" not in unseen_misses(arm)

    def test_large_groups_need_no_warning(self):
        """From 60 patients on none missed means fewer than one in twenty."""
        assert unseen_misses(audited(patients=120, gap=0.0).arms[0]) == ""
        assert most_missed(0, 60) < 0.05 < most_missed(0, 58)


class TestPools:
    """Groups that are shown only together are called by their names where there are few."""

    def test_a_pool_of_two_is_named(self):
        """One patient of unknown sex takes the men along: the sentence says who they are."""
        table = pd.DataFrame(simulated_rows(patients=40, gap=0.0))
        man = table.index[table["sex"] == "M"][0]
        table.loc[man, "sex"] = "unknown"
        arm = audit_table(table, QUICK).arms[0]
        (sex,) = arm.attributes
        assert [row.group for row in sex.by_group] == ["F", POOL]
        assert group_name(POOL, sex) == "M and unknown together"
        assert group_name("F", sex) == "F"
        assert "patients of sex M and unknown together" in finding_of(arm).sentence.replace(
            "P", "p"
        )

    def test_cells_of_a_pair_say_what_was_crossed(self):
        """A cell of two pools names the groups of both."""
        table = pd.DataFrame(simulated_rows(patients=40, gap=0.0))
        (sex,) = audit_table(table, QUICK).arms[0].attributes
        singles = (
            replace(sex, pooled=("M", "unknown")),
            replace(sex, attribute="race", pooled=("b", "c")),
        )
        pair = replace(sex, attribute="sex \N{MULTIPLICATION SIGN} race")
        assert group_name(f"{POOL}, {POOL}", pair, singles) == "M or unknown, b or c"
        assert group_name(f"F, {POOL}", pair, singles) == "F, b or c"
        assert group_name(POOL, pair, singles) == POOL

    def test_a_pool_of_many_is_not(self):
        """Nor is one of a pair: the names would fill the page."""
        table = pd.DataFrame(simulated_rows(patients=40, gap=0.0))
        (sex,) = audit_table(table, QUICK).arms[0].attributes
        assert group_name(POOL, replace(sex, pooled=("a", "b", "c", "d"))) == POOL
        pair = replace(sex, attribute="sex \N{MULTIPLICATION SIGN} hospital", pooled=("a", "b"))
        assert group_name(POOL, pair) == POOL
