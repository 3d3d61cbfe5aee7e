"""Weights do what each method says, and no patient is weighted alone."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.errors import DataError, UsageError
from evenhand_audit.disclosure import POOL
from evenhand_audit.mitigate.people import group_losses, read_counts, read_people
from evenhand_audit.mitigate.tables import weigh, write_weights
from evenhand_audit.mitigate.weights import (
    METHODS,
    fair_error_bound,
    group_balanced,
    group_dro,
    reweighting,
    with_mean_one,
)
from evenhand_audit.simulate import simulated_rows

GROUPS = ["F"] * 2 + ["M"] * 8
COUNTS = {"F": 2.0, "M": 8.0}


def people_of(tmp_path, frame, **options):
    """Read a table of people that was just written."""
    path = tmp_path / "people.csv"
    frame.to_csv(path, index=False)
    how = {"by": "sex", "against": "hospital", "key": "participant_id", "strip_prefix": "sub-",
           "minimum": 5, "edges": (50.0,)}  # fmt: skip
    return read_people(path, **(how | options))


def cohort(sexes, hospitals=None):
    """A participants table."""
    count = len(sexes)
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{number:02d}" for number in range(count)],
            "sex": list(sexes),
            "hospital": hospitals or ["north"] * count,
            "age": range(20, 20 + count),
        }
    )


def test_balanced_groups_are_drawn_equally_often():
    """2 F and 8 M: each group gets half of the draws, so an F weighs four times an M."""
    weights = with_mean_one(group_balanced(GROUPS, COUNTS), 100)
    assert weights[:2].sum() == pytest.approx(weights[2:].sum())
    assert weights.mean() == pytest.approx(1)


def test_reweighting_makes_two_things_independent():
    """Kamiran and Calders: under the weights the share of F is the same in both hospitals."""
    other = ["n"] * 3 + ["s"] * 7
    weights = reweighting(GROUPS, other)
    frame = pd.DataFrame({"g": GROUPS, "o": other, "w": weights})
    table = frame.pivot_table(index="g", columns="o", values="w", aggfunc="sum", fill_value=0)
    # Nobody is F in s, so only the cells that exist can be moved: by hand 2*3/(10*2), 8*3/10.
    assert table.loc["F", "n"] == pytest.approx(0.2 * 3)
    assert table.loc["M", "n"] == pytest.approx(0.8 * 3)
    assert table.loc["M", "s"] == pytest.approx(0.8 * 7)


def test_group_dro_by_hand():
    """Shares 0.2 and 0.8 grow with exp(loss): q_F = 0.2 e / (0.2 e + 0.8)."""
    weights = group_dro(GROUPS, COUNTS, {"F": 1.0, "M": 0.0}, {"F": 0.2, "M": 0.8}, 1.0)
    share = 0.2 * np.e / (0.2 * np.e + 0.8)
    assert weights[:2].sum() == pytest.approx(share)
    same = group_dro(GROUPS, COUNTS, {"F": 0.3, "M": 0.3}, {"F": 0.2, "M": 0.8}, 5.0)
    assert same == pytest.approx(np.full(10, 0.1))


def test_the_fair_error_bound_is_the_ratio_of_losses():
    """A group with twice the loss weighs 2 to the gamma, whatever its size."""
    weights = fair_error_bound(GROUPS, {"F": 0.4, "M": 0.2}, 2.0)
    assert weights[0] / weights[-1] == pytest.approx(4)
    perfect = fair_error_bound(GROUPS, {"F": 0.4, "M": 0.0}, 1.0)
    assert np.isfinite(perfect).all()


@given(
    weights=st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=40), largest=st.floats(1.0, 20.0)
)
def test_weights_have_mean_one_and_a_limit(weights, largest):
    """Whatever comes in, nobody is drawn more than `largest` times as often as on average."""
    scaled = with_mean_one(np.array(weights), largest)
    assert scaled.mean() == pytest.approx(1)
    assert scaled.max() <= largest * (1 + 1e-9)
    assert (scaled > 0).all()


def test_small_groups_are_weighted_together(tmp_path):
    """One O among 12 is not drawn alone: it shares its weight with the next smallest group."""
    people = people_of(tmp_path, cohort("FFFFFFMMMMMO"))
    assert set(people.groups) == {POOL, "F"} or set(people.groups) == {POOL, "M"}
    assert people.patients[0] == "00"


def test_age_groups_are_cut(tmp_path):
    """`age_group` comes from the column age, which participants.tsv has."""
    people = people_of(tmp_path, cohort("FM" * 20), by="age_group", edges=(40.0,))
    assert people.counts == {"under 40": 20.0, "40 and over": 20.0}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"by": "sx"}, UsageError, "did you mean 'sex'"),
        ({"key": "id"}, UsageError, "no column 'id'"),
        ({"minimum": 30}, UsageError, "only one group"),
    ],
)
def test_wrong_use_is_a_sentence(tmp_path, change, error, words):
    """A misspelt column, and an attribute with one group."""
    with pytest.raises(error, match=words):
        people_of(tmp_path, cohort("FM" * 10), **change)


def test_a_patient_with_two_groups_is_refused(tmp_path):
    """Weights need one group a patient; the patient is not named."""
    frame = pd.concat([cohort("FM" * 6), cohort("MF").head(1)])
    with pytest.raises(DataError, match="two values of sex") as error:
        people_of(tmp_path, frame)
    assert "00" not in str(error.value)


def test_all_methods_are_written(tmp_path):
    """With results every method has a table that names every patient once."""
    people = people_of(tmp_path, cohort("FMM" * 10, ["north", "south"] * 15))
    cases = pd.DataFrame(simulated_rows(patients=40, gap=0.3)).assign(age_years=40.0)
    losses = group_losses(cases, "sex", (50.0,), people)
    assert losses["F"] > losses["M"] + 0.1
    tables = weigh(people, losses=losses, counts=None, step=3, gamma=1, largest=5)
    assert tuple(tables.weights) == METHODS
    for path in write_weights(people, tables, tmp_path / "out"):
        table = pd.read_csv(path, dtype={"patient": str})
        assert sorted(table["patient"]) == sorted(people.patients)
        assert table["weight"].mean() == pytest.approx(1, abs=1e-5)
    worse = {each.method: each.weight for each in tables.groups if each.group == "F"}
    assert min(worse["group-balanced"], worse["group-dro"], worse["fair-error-bound"]) > 1


def test_methods_without_what_they_need_are_named(tmp_path):
    """Without results and without a hospital only balanced groups are left, and it says so."""
    people = people_of(tmp_path, cohort("FM" * 10), against="site")
    tables = weigh(people, losses=None, counts=None, step=3, gamma=1, largest=5)
    assert list(tables.weights) == ["group-balanced"]
    assert len(tables.left_out) == 2


def test_counts_of_all_hospitals_count(tmp_path):
    """Here F are half; with counts over all hospitals (noised, a negative one too) they are few."""
    people = people_of(tmp_path, cohort("FM" * 10))
    (tmp_path / "c.csv").write_text("group,patients\nF,20\nM,80\nO,-3\n")
    counts = read_counts(tmp_path / "c.csv", people)
    tables = weigh(people, losses=None, counts=counts, step=3, gamma=1, largest=5)
    weights = tables.weights["group-balanced"]
    assert weights[0] / weights[1] == pytest.approx(4)
    (tmp_path / "c.csv").write_text("group,patients\nF,20\n")
    with pytest.raises(DataError, match="no count of M"):
        read_counts(tmp_path / "c.csv", people)


def test_a_group_that_was_never_scored_has_no_loss(tmp_path):
    """Nothing is guessed about a group that the results do not hold."""
    people = people_of(tmp_path, cohort("FMO" * 6))
    cases = pd.DataFrame(simulated_rows(patients=20)).assign(age_years=40.0)
    with pytest.raises(DataError, match="Nobody of the group O"):
        group_losses(cases, "sex", (50.0,), people)
