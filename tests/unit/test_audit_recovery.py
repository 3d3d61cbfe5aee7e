"""An attacker with audit.json in hand: everything published together gives no small group away.

`test_audit_disclosure` attacks the plan of what may be shown. Here the attack starts from the file
that is handed over: rows are found again by the names in it.
"""

import json

import numpy as np
import pandas as pd
import pytest
from attacker import Attacker, small_cells

from evenhand.artifacts import write_prediction_table
from evenhand.config import AuditConfig
from evenhand.errors import DataError
from evenhand_audit.disclosure import POOL
from evenhand_audit.report import write_audit
from evenhand_audit.simulate import simulated_rows

NAMES = ("sex", "hospital", "race")
MINIMUM = 5
PAIR = " \N{MULTIPLICATION SIGN} "


def cohort(seed, patients=46):
    """Patients with rare groups, so that something has to be hidden."""
    rng = np.random.default_rng(seed)
    rows = simulated_rows(patients=patients, seed=seed)
    for row in rows:
        row["sex"] = str(rng.choice(["F", "M", "O"], p=[0.5, 0.42, 0.08]))
        row["hospital"] = str(rng.choice(["north", "south", "east"], p=[0.5, 0.4, 0.1]))
        row["race"] = str(rng.choice(["a", "b", "c"], p=[0.6, 0.3, 0.1]))
    return rows


def publish(rows, folder, register=None):
    """A report with all pairs; its arm as audit.json has it."""
    return publish_all(rows, folder, register)[0]


def publish_all(rows, folder, register=None):
    """The same with all of its arms."""
    folder.mkdir()
    write_prediction_table(folder / "p.csv", rows, {})
    config = AuditConfig(
        attributes=NAMES, minimum_group=MINIMUM, resamples=100, register_file=register
    )
    write_audit(folder / "p.csv", folder / "report", config=config)
    return json.loads((folder / "report" / "audit.json").read_text())["audit"]["arms"]


def rows_of(arm, people):
    """Who is behind each published row, found from names alone; checks n and mean on the way."""
    found = [np.ones(len(people), dtype=bool)]
    groupings = {}
    for attribute in (*arm["attributes"], *arm["intersections"]):
        names = attribute["attribute"].split(PAIR)
        shown = [row["group"] for row in attribute["by_group"]]
        # A pair is crossed after small groups of each attribute were put together.
        labels = (
            people[names[0]]
            if len(names) == 1
            else groupings[names[0]] + ", " + groupings[names[1]]
        )
        labels = labels.where(labels.isin(shown), POOL)
        if len(names) == 1:
            groupings[names[0]] = labels
        for row in attribute["by_group"]:
            mine = (labels == row["group"]).to_numpy()
            assert mine.sum() == row["patients"]
            published = row["metrics"]["dice"]["mean"]["value"]
            assert people["dice"][mine].mean() == pytest.approx(published, abs=1e-9)
            found.append(mine)
    return found


def attributes_of(people):
    """As the attacker's oracle takes them."""
    return {name: list(people[name]) for name in NAMES}


@pytest.mark.parametrize("seed", range(4))
def test_no_small_group_can_be_worked_out_from_a_report(tmp_path, seed):
    """Overall, margins and intersections, added and subtracted in every way."""
    people = pd.DataFrame(cohort(seed)).sort_values("patient").reset_index(drop=True)
    arm = publish(cohort(seed), tmp_path / "one")
    attacker = Attacker(rows_of(arm, people))
    hidden = list(small_cells(attributes_of(people), MINIMUM))
    assert hidden
    assert not [key for key, mine in hidden if attacker.recovers(mine)]


@pytest.mark.parametrize(("seed", "come"), [(0, 9), (1, 12), (2, 7), (3, 2)])
def test_nor_from_two_consecutive_reports(tmp_path, seed, come):
    """Some patients came in between: both reports hide them, or the second is refused."""
    rows = cohort(seed, 50)
    people = pd.DataFrame(rows).sort_values("patient").reset_index(drop=True)
    first = np.arange(50) < 50 - come
    before = rows_of(publish(rows[: 50 - come], tmp_path / "a", tmp_path / "r"), people[first])
    known = [np.append(row, np.zeros(come, dtype=bool)) for row in before]
    try:
        second = publish(rows, tmp_path / "b", tmp_path / "r")
    except DataError:
        assert come < MINIMUM
        return
    attacker = Attacker([*known, *rows_of(second, people)])
    for key, mine in small_cells(attributes_of(people), MINIMUM):
        for part in (mine, mine & first, mine & ~first):
            if part.any():
                assert not attacker.recovers(part), key


def test_the_attack_succeeds_where_nothing_was_remembered(tmp_path):
    """Two reports without a register, one patient apart: the attack finds that patient."""
    rows = cohort(0, 47)
    people = pd.DataFrame(rows).sort_values("patient").reset_index(drop=True)
    first = np.arange(47) < 46
    before = rows_of(publish(rows[:46], tmp_path / "a"), people[first])
    after = rows_of(publish(rows, tmp_path / "b"), people)
    attacker = Attacker([*(np.append(row, False) for row in before), *after])
    assert attacker.recovers(~first)


def test_a_report_with_a_withheld_arm_can_be_made_again(tmp_path):
    """The arm that was shown is known by then; that must not refuse the whole report."""
    rows = cohort(3, 50)
    both = [row | {"arm": "a"} for row in rows[:48]] + [row | {"arm": "b"} for row in rows]
    register = tmp_path / "register.json"
    for name in ("one", "two"):
        arms = publish_all(both, tmp_path / name, register)
        assert [arm["arm"] for arm in arms] == ["a"]


@pytest.mark.parametrize(("seed", "more"), [(0, 9), (1, 12), (2, 7), (3, 2)])
def test_nor_from_two_arms_of_one_report(tmp_path, seed, more):
    """Arms on other patients are planned together: both hide them, or the second is withheld."""
    rows = cohort(seed, 50)
    people = pd.DataFrame(rows).sort_values("patient").reset_index(drop=True)
    first = np.arange(50) < 50 - more
    both = [row | {"arm": "a"} for row in rows[: 50 - more]] + [row | {"arm": "b"} for row in rows]
    arms = publish_all(both, tmp_path / "one")
    assert [arm["arm"] for arm in arms] == (["a", "b"] if more >= MINIMUM else ["a"])
    known = [np.append(row, np.zeros(more, dtype=bool)) for row in rows_of(arms[0], people[first])]
    attacker = Attacker([*known, *(row for arm in arms[1:] for row in rows_of(arm, people))])
    for key, mine in small_cells(attributes_of(people), MINIMUM):
        for part in (mine, mine & first, mine & ~first):
            if part.any():
                assert not attacker.recovers(part), key
    if more < MINIMUM:
        assert not attacker.recovers(~first)
