"""Noised sums are charged before they leave, and intervals know of the noise."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from evenhand.artifacts import write_prediction_table
from evenhand.config import AuditConfig
from evenhand.errors import BudgetError, DataError, PrivacyError, UsageError
from evenhand.privacy.site import Site
from evenhand_audit.across.files import pool_files
from evenhand_audit.across.noised import NoisedSums, noised_sums, sensitivity, write_noised
from evenhand_audit.across.noised_pool import noised_mean, pool_noised
from evenhand_audit.across.sums import sums_of, write_sums
from evenhand_audit.simulate import simulated_rows

CONFIG = AuditConfig(attributes=("sex",))
NAMES = ("north", "east", "south", "west")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """800 patients of four hospitals, F worse by 0.2. Read only."""
    path = tmp_path_factory.mktemp("table") / "p.csv"
    write_prediction_table(path, simulated_rows(patients=800, gap=0.2, seed=5), {})
    return path


def site_of(folder, name, epsilon=20.0):
    """A hospital with a budget."""
    site = Site.of(name, folder)
    site.ledger().grant(epsilon, 1e-3)
    return site


@pytest.fixture(scope="module")
def told(table, tmp_path_factory):
    """What four hospitals tell at epsilon 3 each."""
    home = tmp_path_factory.mktemp("home")
    return [
        noised_sums(table, CONFIG, epsilon=3.0, groups={}, hospital=name, site=site_of(home, name))
        for name in NAMES
    ]


def test_a_patient_adds_no_more_than_the_sensitivity(table):
    """The longest row over all patients, arms, pairs and metrics is within the bound."""
    from evenhand_audit.across import noised

    rows = pd.read_csv(table)
    rows["dice"], rows["nsd"] = 1.0, 0.0  # y = 1 and -1: the longest that can be
    config = CONFIG.model_copy(update={"attributes": ("sex", "age_group"), "intersections": True})
    arms = dict(noised._arms(rows, config))
    cells = noised._cells(config, noised._groups(config, {}))
    lengths = np.linalg.norm(noised._vectors(arms, cells), axis=1)
    assert len(cells) == 3
    assert lengths.max() == pytest.approx(sensitivity(3, 2))


def test_the_release_is_charged_once_and_refused_beyond_the_grant(table, tmp_path):
    """Epsilon 3 of 3.5 pays for one table; the same one again is free, another is refused."""
    site = site_of(tmp_path, "north", epsilon=3.5)
    ask = {"epsilon": 3.0, "groups": {}, "hospital": "north", "site": site}
    first = noised_sums(table, CONFIG, **ask)
    assert 2.8 < site.ledger().spent().epsilon <= 3.01
    assert noised_sums(table, CONFIG, **ask) == first
    assert len(site.ledger().state().charges) == 1
    with pytest.raises(BudgetError, match="has granted epsilon 3"):
        noised_sums(table, CONFIG.model_copy(update={"attributes": ("sex", "age_group")}), **ask)


def test_without_a_grant_nothing_leaves(table, tmp_path):
    """The way out is in the sentence."""
    with pytest.raises(PrivacyError, match="evenhand ledger grant north"):
        noised_sums(
            table, CONFIG, epsilon=3.0, groups={}, hospital="north", site=Site.of("north", tmp_path)
        )


def test_which_groups_are_told_does_not_depend_on_the_patients(told):
    """Nobody is O or of unknown sex; both are told with noise, and nobody is named."""
    groups = [(each.attribute, each.group) for each in told[0].groups]
    assert groups == [("", ""), *(("sex", name) for name in ("F", "M", "O", "unknown"))]
    counts = [each.count for each in told[0].groups[1:]]
    assert all(count != round(count) for count in counts)


def test_groups_of_other_attributes_must_be_named(table, tmp_path):
    """Reading them off the patients would tell who is there."""
    config = CONFIG.model_copy(update={"attributes": ("race",)})
    site = site_of(tmp_path, "north")
    ask = {"epsilon": 3.0, "hospital": "north", "site": site}
    with pytest.raises(UsageError, match="--groups race="):
        noised_sums(table, config, groups={}, **ask)
    assert site.ledger().state().charges == ()
    told = noised_sums(table, config, groups={"race": ("white", "black")}, **ask)
    assert {each.group for each in told.groups} == {"", "white", "black"}


def test_pooled_noise_finds_a_large_gap_and_shows_no_empty_group(told):
    """A gap of 0.2 among 800 patients survives epsilon 3; O and unknown are not shown."""
    arm = pool_noised(told).arms[0]
    sex = next(each for each in arm.attributes if each.attribute == "sex")
    assert set(sex.too_noisy) == {"O", "unknown"}
    assert [each.group for each in sex.groups] == ["F", "M"]
    gap = sex.gaps["dice"]
    assert (gap.worst_group, gap.beyond_chance) == ("F", True)
    half = (gap.gap.high - gap.gap.low) / 2  # noise is fresh each time: twice that hardly ever errs
    assert abs(gap.gap.value - 0.2) < 2 * half < 0.2
    assert abs(arm.overall.means["dice"].value - 0.7) < 0.05
    assert set(arm.overall.means) == {"dice", "nsd"}


@pytest.mark.parametrize("deviation", [0.0, 5.0, 25.0])
def test_intervals_hold_the_truth_under_noise(deviation):
    """Groups of 60, noise on number, sum and squares: 94% of 2,000 intervals or more."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(2000):
        y = 2 * rng.beta(9.6, 2.4, 60) - 1
        noise = deviation * rng.normal(size=3)
        count = 60 + noise[0]
        if count < max(5.0, 3 * deviation):
            held += 1  # not shown
            continue
        sums = (y.sum() + noise[1], (y**2).sum() + noise[2])
        value, error = noised_mean(count, sums, deviation**2, exact=False)
        held += abs(value - 0.8) <= 2.0 * error
    assert held / 2000 >= 0.94


def test_noise_widens_intervals(told):
    """The same sums with four times the noise have wider intervals."""
    louder = [
        replace(each, privacy=each.privacy | {"deviation": 4 * each.privacy["deviation"]})
        for each in told
    ]
    spans = [
        (found.high - found.low)
        for found in (pool_noised(each).arms[0].overall.means["dice"] for each in (told, louder))
    ]
    assert spans[1] > 1.5 * spans[0]


def test_files_come_back_and_kinds_do_not_mix(table, told, tmp_path):
    """What is written is read; exact and noised sums together are refused, and so is damage."""
    paths = [tmp_path / f"{each.hospital}.json" for each in told]
    for each, path in zip(told, paths, strict=True):
        write_noised(each, path)
        assert "person-" not in path.read_text()
    assert pool_files(paths) == pool_noised(told)
    write_sums(sums_of(table, CONFIG, "north")[0], tmp_path / "exact.json")
    with pytest.raises(DataError, match="some noised"):
        pool_files([tmp_path / "exact.json", paths[1]])
    record = json.loads(paths[0].read_text())
    for broken in ({"groups": 1}, {"patients": 0}, {"privacy": {}}, {"schema_version": 9}):
        paths[0].write_text(json.dumps(record | broken))
        with pytest.raises(DataError, match=r"north\.json"):
            pool_files(paths)


def test_arms_of_different_patients_are_refused(tmp_path):
    """One public number of patients cannot stand for both."""
    arms = [("a", "automatic"), ("b", "automatic")]
    rows = [row for row in simulated_rows(patients=40, arms=arms)
            if row["arm"] == "a" or row["patient"] != "person-0000"]  # fmt: skip
    write_prediction_table(tmp_path / "p.csv", rows, {})
    with pytest.raises(UsageError, match="different patients"):
        noised_sums(
            tmp_path / "p.csv", CONFIG, epsilon=3.0, groups={}, hospital="north",
            site=site_of(tmp_path, "north"),
        )  # fmt: skip


def test_pairs_are_told_with_noise(table, tmp_path):
    """Every cell of the product, named beforehand."""
    config = AuditConfig(attributes=("sex", "age_group"), age_edges=(50,))
    told = noised_sums(
        table, config, epsilon=3.0, groups={}, hospital="north", pairs=True,
        site=site_of(tmp_path, "north"),
    )  # fmt: skip
    assert isinstance(told, NoisedSums)
    cells = [each.group for each in told.groups if "\N{MULTIPLICATION SIGN}" in each.attribute]
    assert len(cells) == 12
    assert "F, under 50" in cells
