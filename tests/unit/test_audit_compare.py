"""Two tables compared: the right change, the right doubt, nobody given away."""

import json

import numpy as np
import pandas as pd
import pytest

from evenhand.artifacts import write_prediction_table
from evenhand.config import AuditConfig
from evenhand.errors import DataError, UsageError
from evenhand.metrics import DEFINITIONS
from evenhand_audit.compare import _join, compare_files, compare_tables
from evenhand_audit.compare_report import write_comparison
from evenhand_audit.compare_statistics import change_of_means
from evenhand_audit.register import Register
from evenhand_audit.simulate import simulated_rows

QUICK = AuditConfig(attributes=("sex",), resamples=400)


def table(**options):
    """Simulated rows as a table."""
    return pd.DataFrame(simulated_rows(**options))


def shifted(rows, shift, *, noise=0.01, seed=0):
    """The same patients under a model that is better by `shift`, but for a little noise."""
    rng = np.random.default_rng(seed)
    dice = rows["dice"] + shift + rng.normal(0, noise, len(rows))
    return rows.assign(dice=dice.clip(0, 1))


class TestStatistics:
    """One estimator for the same, other, and partly the same patients."""

    def moved(self, before, after, seed=0):
        """The change with 95% and wider intervals."""
        return change_of_means(
            before, after, resamples=600, level=0.95, simultaneous_level=0.99,
            rng=np.random.default_rng(seed),
        )  # fmt: skip

    def test_the_same_patients_are_compared_with_themselves(self):
        """A small change that all share is seen beneath large differences between patients."""
        rng = np.random.default_rng(1)
        before = rng.uniform(0.2, 0.9, 40)
        after = before + 0.02 + rng.normal(0, 0.005, 40)
        low, high = self.moved(before, after).interval
        assert 0.01 < low < 0.02 < high < 0.03
        alone = (
            np.concatenate([before, np.full(40, np.nan)]),
            np.concatenate([np.full(40, np.nan), after]),
        )
        apart = self.moved(*alone).interval
        assert apart[1] - apart[0] > 5 * (high - low)

    def test_the_interval_holds_the_truth_as_often_as_it_says(self):
        """Partly the same patients, 200 repeats with a fixed seed: near 95%, never below 90%."""
        rng = np.random.default_rng(2)
        hits = 0
        for repeat in range(200):
            people = rng.normal(0.7, 0.1, 40)
            before, after = people.copy(), people + rng.normal(0.05, 0.05, 40)
            before[30:], after[:10] = np.nan, np.nan
            low, high = self.moved(before, after, seed=repeat).interval
            hits += low <= 0.05 <= high
        assert 180 <= hits <= 199

    def test_the_wider_interval_is_wider(self):
        """Many comparisons together want more."""
        rng = np.random.default_rng(3)
        moved = self.moved(rng.normal(size=20), rng.normal(size=20))
        assert moved.simultaneous[0] < moved.interval[0]
        assert moved.simultaneous[1] > moved.interval[1]

    def test_no_change_at_all_is_exactly_none(self):
        """The same table twice: 0, without a made-up spread."""
        values = np.linspace(0.1, 0.9, 12)
        moved = self.moved(values, values)
        assert (moved.value, moved.interval) == (0.0, (0.0, 0.0))


class TestTables:
    """Prediction tables of two versions or two months."""

    def test_a_better_version_is_better_for_everybody(self):
        """Same patients, Dice up by 0.05: said for all and for each group."""
        before = table(patients=60, gap=0.0, mean_dice=0.7)
        (arm,) = compare_tables(before, shifted(before, 0.05), QUICK, pairs={}).arms
        assert "same patients" in arm.overlap
        assert [(row.group, row.patients_before) for row in (arm.overall, *arm.groups)] == [
            ("everybody", 60),
            ("F", 30),
            ("M", 30),
        ]
        for row in (arm.overall, *arm.groups):
            low, high = row.metrics["dice"].interval
            assert low < 0.05 < high + 0.01
            assert row.metrics["dice"].is_better is True

    def test_more_distance_is_worse(self):
        """For HD95 up is not better."""
        before = table(patients=40)
        after = before.assign(hd95=before["hd95"] + 5)
        (arm,) = compare_tables(before, after, QUICK, pairs={}).arms
        assert arm.overall.metrics["hd95"].is_better is False
        assert arm.overall.metrics["dice"].is_better is None

    def test_two_months_of_other_patients_say_so(self):
        """Then the cohort may have changed as well as the model."""
        before, after = table(patients=40), table(patients=40, seed=5)
        after["patient"] = "later-" + after["patient"]
        (arm,) = compare_tables(before, after, QUICK, pairs={}).arms
        assert arm.overlap.startswith("other patients")

    def test_groups_are_what_both_reports_may_show(self):
        """A group that one report hides in a pool is compared within that pool only."""
        assert _join([("a",), ("b",), ("c", "d")], [("a",), ("b", "c"), ("d",)]) == {
            "a": "a",
            "b": "b or c or d",
            "c": "b or c or d",
            "d": "b or c or d",
        }

    def test_a_small_group_stays_hidden(self):
        """Three patients of a third sex in one of the tables are in no row of their own."""
        before, after = table(patients=60), table(patients=60)
        after.loc[after["patient"].isin(["person-0001", "person-0003"]), "sex"] = "O"
        (arm,) = compare_tables(before, after, QUICK, pairs={}).arms
        assert not [row for row in arm.groups if row.group == "O"]
        assert all(min(row.patients_before, row.patients_after) >= 5 for row in arm.groups)

    def test_tables_that_differ_by_one_patient_are_refused(self):
        """Both means of everybody side by side would give that patient's score."""
        before = table(patients=41)
        after = before[before["patient"] != before["patient"].iloc[0]]
        for tables in ((before, after), (after, before)):
            with pytest.raises(DataError, match="differ by fewer than 5"):
                compare_tables(*tables, QUICK, pairs={})

    def test_a_register_remembers_a_comparison(self, tmp_path):
        """What was compared once is known: a later table with one patient more is refused."""
        rows = table(patients=61)
        first = rows[rows["patient"] != rows["patient"].iloc[0]]
        register = Register(tmp_path / "r.json")
        again = shifted(first, 0.02)
        compared = compare_tables(first, again, QUICK, pairs={}, register=register)
        write_comparison(compared, tmp_path / "out", register)
        compare_tables(first, again, QUICK, pairs={}, register=Register(tmp_path / "r.json"))
        assert compare_tables(rows, shifted(rows, 0.02), QUICK, pairs={}).arms
        with pytest.raises(DataError, match="earlier report in the register") as error:
            compare_tables(
                rows, shifted(rows, 0.02), QUICK, pairs={}, register=Register(tmp_path / "r.json")
            )
        assert "person-" not in str(error.value)

    def test_a_register_is_saved_only_when_the_page_is_written(self, tmp_path):
        """A comparison that nobody saw is not remembered."""
        register = Register(tmp_path / "r.json")
        rows = table(patients=60)
        compare_tables(rows, shifted(rows, 0.02), QUICK, pairs={}, register=register)
        assert not (tmp_path / "r.json").exists()

    def test_a_group_that_differs_by_one_patient_is_not_shown(self):
        """Of six patients who came one is F: neither F nor M, its complement, has a row."""
        after = table(patients=60)
        women, men = (list(after["patient"][after["sex"] == sex]) for sex in "FM")
        before = after[~after["patient"].isin([women[0], *men[:5]])]
        (arm,) = compare_tables(before, after, QUICK, pairs={}).arms
        assert (arm.overall.patients_before, arm.overall.patients_after) == (54, 60)
        assert arm.groups == ()
        more = after[~after["patient"].isin([*women[:5], *men[:5]])]
        (arm,) = compare_tables(more, after, QUICK, pairs={}).arms
        assert [row.group for row in arm.groups] == ["F", "M"]

    def test_arms_of_other_names_are_paired(self):
        """One arm each are compared; several want to be named."""
        before = table(patients=20, arms=[("v1", "automatic")])
        after = table(patients=20, arms=[("v2", "automatic")])
        (arm,) = compare_tables(before, after, QUICK, pairs={}).arms
        assert (arm.before, arm.after) == ("v1", "v2")
        two = table(patients=20, arms=[("v2", "automatic"), ("v3", "automatic")])
        with pytest.raises(UsageError, match="--pair OLD=NEW"):
            compare_tables(before, two, QUICK, pairs={})
        (arm,) = compare_tables(before, two, QUICK, pairs={"v1": "v3"}).arms
        assert arm.after == "v3"
        with pytest.raises(UsageError, match="'v9', which its table lacks"):
            compare_tables(before, two, QUICK, pairs={"v1": "v9"})

    def test_too_few_patients_are_refused(self):
        """Nothing is shown of four."""
        with pytest.raises(DataError, match="fewer than 5 patients"):
            compare_tables(table(patients=40), table(patients=4), QUICK, pairs={})


class TestFiles:
    """Tables on disk, with what is on record of their definitions."""

    def write(self, tmp_path, name, meta, **changes):
        """A table with changed columns and a sidecar."""
        rows = [row | changes for row in simulated_rows(patients=20)]
        write_prediction_table(tmp_path / f"{name}.csv", rows, meta)
        return tmp_path / f"{name}.csv"

    @pytest.mark.parametrize(
        ("changes", "said"),
        [({"units": "voxel"}, "another units"), ({"nsd_tolerance": 1.0}, "another tolerance")],
    )
    def test_other_units_or_tolerance_are_refused(self, tmp_path, changes, said):
        """Such figures mean different things."""
        before, after = self.write(tmp_path, "a", {}), self.write(tmp_path, "b", {}, **changes)
        with pytest.raises(DataError, match=said):
            compare_files(before, after, QUICK, pairs={})

    def test_other_definitions_are_refused_by_name(self, tmp_path):
        """A change of definition is not one of the model."""
        now = {"definitions": dict(DEFINITIONS)}
        then = {"definitions": dict(DEFINITIONS) | {"hd95": "pooled over both directions"}}
        before, after = self.write(tmp_path, "a", then), self.write(tmp_path, "b", now)
        with pytest.raises(DataError, match="define hd95 differently"):
            compare_files(before, after, QUICK, pairs={})

    def test_definitions_that_nobody_wrote_down_are_a_note(self, tmp_path):
        """Foreign tables can be compared, at the reader's risk, which is said."""
        before, after = self.write(tmp_path, "a", {}), self.write(tmp_path, "b", {})
        assert "on record for neither" in compare_files(before, after, QUICK, pairs={}).notes[0]

    def test_the_page_stands_alone_and_names_nobody(self, tmp_path):
        """No address, no script, no id; hashes of tables and code are in page and JSON."""
        now = {"definitions": dict(DEFINITIONS)}
        before, after = self.write(tmp_path, "a", now), self.write(tmp_path, "b", now)
        index = write_comparison(compare_files(before, after, QUICK, pairs={}), tmp_path / "out")
        page = index.read_text(encoding="utf-8")
        record = json.loads((tmp_path / "out" / "compare.json").read_text())
        assert "http" not in page
        assert "<script" not in page
        assert "person-" not in page + json.dumps(record)
        for side in ("before", "after"):
            assert record["origin"][side]["table_sha256"] in page
        assert record["code"]["code_sha256"] in page
