"""Mitigation under privacy: nothing that a share follows from looks at the patients."""

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from evenhand.cli import app
from evenhand.errors import DataError, PrivacyError, UsageError
from evenhand.privacy.site import Site
from evenhand.privacy.step import NoisedSum, PrivateStep
from evenhand.training.patient_weights import read_patient_shares
from evenhand_audit.ledger_cohort import cohort_of
from evenhand_audit.mitigate.private import group_shares, write_shares

RULE = {"step": 3.0, "gamma": 1.0, "largest": 5.0}


def mitigate(*words):
    """Run `evenhand mitigate ...`."""
    return CliRunner().invoke(app, ["mitigate", *map(str, words)])


@pytest.fixture
def people(tmp_path):
    """60 F and 20 M."""
    rows = [f"p{n}\t{'FM'[n % 4 == 0]}" for n in range(80)]
    path = tmp_path / "participants.tsv"
    path.write_text("participant_id\tsex\n" + "\n".join(rows) + "\n")
    return path


class TestShares:
    """By hand: one group's weight over the largest."""

    def test_the_rarer_group_counts_fully(self):
        """30 F and 10 M: F count a third, so that both add up to the same."""
        shares = group_shares({"F": 30.0, "M": 10.0}, losses=None, **RULE)
        assert shares == {"group-balanced": {"F": pytest.approx(1 / 3), "M": 1.0}}

    def test_methods_that_follow_the_loss(self):
        """Twice the loss, twice the share; group DRO: e^(3 x 0.2) times."""
        losses = {"F": 0.4, "M": 0.2}
        shares = group_shares({"F": 10.0, "M": 10.0}, losses=losses, **RULE)
        assert shares["fair-error-bound"] == {"F": 1.0, "M": pytest.approx(0.5)}
        assert shares["group-dro"] == {"F": 1.0, "M": pytest.approx(np.exp(-0.6))}

    def test_a_noised_count_of_nobody_has_an_end(self):
        """A group that noise made empty does not take all the weight of the others."""
        counts = {"F": 60.0, "M": 20.0, "O": 0.0}
        (shares,) = group_shares(counts, losses=None, **RULE).values()
        assert shares == {"F": pytest.approx(1 / 3), "M": 1.0, "O": 1.0}

    def test_no_group_is_all_but_left_out(self):
        """A large group keeps a fifth."""
        (shares,) = group_shares({"F": 900.0, "M": 60.0}, losses=None, **RULE).values()
        assert shares == {"F": pytest.approx(1 / 5), "M": 1.0}

    def test_a_group_that_nobody_counted_is_refused(self, tmp_path):
        """Its patients would have no share, and nothing is written."""
        with pytest.raises(DataError, match="no count of O"):
            write_shares({"a": "F", "b": "O"}, {"m": {"F": 1.0, "M": 0.5}}, tmp_path / "out")
        assert not (tmp_path / "out").exists()


class TestStep:
    """A share shortens a clipped gradient, and never makes a patient count for more."""

    def test_shares_scale_after_clipping(self):
        """Two patients, both clipped to 1: their sum is 1 x 1 + 0.25 x 1."""
        weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        step = PrivateStep(
            [weight],
            torch.optim.SGD([weight], lr=1.0),
            noise_multiplier=0.0,
            clip_norm=1.0,
            expected_patients=1.0,
            share={"a": 1.0, "b": 0.25}.__getitem__,
        )
        pull = {"a": torch.tensor([8.0, 0.0]), "b": torch.tensor([0.0, 8.0])}
        step(["a", "b"], lambda one: -(pull[one] * weight).sum())
        assert weight.tolist() == pytest.approx([1.0, 0.25], abs=1e-6)

    @pytest.mark.parametrize("share", [0.0, 1.01, float("nan"), -0.5])
    def test_no_patient_may_count_for_more_than_one(self, share):
        """The accountant's bound on one patient would not hold."""
        total = NoisedSum(2, noise_multiplier=0.0, clip_norm=1.0)
        with pytest.raises(PrivacyError, match="at most 1"):
            total.add(torch.ones(2), share)
        assert total.release().tolist() == [0.0, 0.0]


class TestTable:
    """What private training reads."""

    def test_without_a_table_everybody_counts_fully(self, tmp_path):
        """And with one each as it says; ids are text."""
        assert read_patient_shares(None, ["a"]) == {"a": 1.0}
        path = tmp_path / "s.csv"
        path.write_text("patient,share\n007,0.5\nb,1\nc,0.1\n")
        assert read_patient_shares(path, ["b", "007"]) == {"b": 1.0, "007": 0.5}

    @pytest.mark.parametrize("text", ["patient,share\na,1.5\n", "patient,share\nb,1\n"])
    def test_shares_above_one_and_missing_ones_are_refused(self, tmp_path, text):
        """A share of 1.5 would break the promise."""
        path = tmp_path / "s.csv"
        path.write_text(text)
        with pytest.raises(DataError, match="no share above 0 and at most 1 for 1 of 1"):
            read_patient_shares(path, ["a"])


class TestCommands:
    """From the patients to a table, through the ledger."""

    def count(self, people, out, *more, epsilon=3):
        """Count with noise at hospital north."""
        given = ("--by", "sex", "--groups", "F,M,O", "--hospital", "north")
        return mitigate("count", people, *given, "--epsilon", epsilon, "--out", out, *more)

    def test_counts_are_charged_once_and_give_shares(self, people, tmp_path, monkeypatch):
        """The same question twice costs once; F, three times as many, count about a third."""
        monkeypatch.setenv("EVENHAND_HOME", str(tmp_path / "home"))
        ledger = Site.of("north").ledger()
        ledger.grant(8.0, 1e-3, by="test", reason="test")
        counts = tmp_path / "counts.csv"
        assert self.count(people, counts).exit_code == 0
        spent = ledger.spent("mitigation").epsilon
        assert 2.9 < spent <= 3.0
        first = counts.read_text()
        assert self.count(people, counts).exit_code == 0
        assert counts.read_text() == first
        assert ledger.spent("mitigation").epsilon == spent
        table = pd.read_csv(counts).set_index("group")["patients"]
        assert list(table.index) == ["F", "M", "O"]
        assert abs(table["F"] - 60) < 12, "six deviations"
        given = ("--by", "sex", "--private", "--counts", counts, "--out", tmp_path / "w")
        found = mitigate("weights", people, *given)
        assert found.exit_code == 0, found.output
        known = read_patient_shares(
            tmp_path / "w" / "shares-group-balanced.csv", [f"p{n}" for n in range(80)]
        )
        assert known["p0"] > known["p1"], "M are fewer, so each of them counts for more"

    def test_exact_counts_of_the_patients_are_never_used(self, people, tmp_path):
        """Without --counts there is nothing that shares could follow from."""
        found = mitigate("weights", people, "--by", "sex", "--private", "--out", tmp_path / "w")
        assert isinstance(found.exception, UsageError)
        assert "noised counts" in str(found.exception)
        assert not (tmp_path / "w").exists()

    def test_beyond_the_grant_nothing_is_told(self, people, tmp_path, monkeypatch):
        """The ledger refuses, and no table is there."""
        monkeypatch.setenv("EVENHAND_HOME", str(tmp_path / "home"))
        Site.of("north").ledger().grant(1.0, 1e-3, by="test", reason="test")
        found = self.count(people, tmp_path / "counts.csv")
        assert found.exit_code != 0
        assert not (tmp_path / "counts.csv").exists()


def test_a_store_tells_the_ledger_images(tiny_stores, tmp_path, monkeypatch):
    """Under another pseudonym the same images are the same person to the ledger."""
    monkeypatch.setenv("EVENHAND_HOME", str(tmp_path / "home"))
    store = tiny_stores["north"]
    names = sorted({case.patient.patient_id for case in store})
    site = Site.of("north")
    by_id, by_image = cohort_of(site, names, None), cohort_of(site, names, store.path)
    assert all(len(tags) == 1 for tags in by_id.members)
    assert all(len(tags) > 1 for tags in by_image.members)
    key = site.key()
    images = {image for case in store for image in case.sequences.values()}
    assert {key.tag("image", image) for image in images} <= {t for m in by_image.members for t in m}


def test_patients_whom_the_store_does_not_know_are_refused(tiny_stores, tmp_path, monkeypatch):
    """Charged without their images they would be strangers to what they were trained on before."""
    monkeypatch.setenv("EVENHAND_HOME", str(tmp_path / "home"))
    with pytest.raises(DataError, match="1 of 1 patients have no case") as error:
        cohort_of(Site.of("north"), ["sub-unheard"], tiny_stores["north"].path)
    assert "unheard" not in str(error.value)


def test_many_groups_and_none():
    """Of 25 groups none has a twentieth of all; the largest then sets the scale."""
    shares = group_shares({str(n): 10.0 for n in range(25)}, losses=None, **RULE)
    assert set(shares["group-balanced"].values()) == {1.0}
    with pytest.raises(DataError, match="No group was counted"):
        group_shares({}, losses=None, **RULE)
