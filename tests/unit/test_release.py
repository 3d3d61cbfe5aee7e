"""Counts and metrics that leave: charged first, noised, and the same answer costs nothing again."""

import pytest

from evenhand.errors import BudgetError, DataError, PolicyError
from evenhand.privacy import release
from evenhand.privacy.accounting import Mechanism, epsilon_of
from evenhand.privacy.cohort import Cohort
from evenhand.privacy.ledger import Ledger
from evenhand.privacy.policy import open_policy
from evenhand.privacy.release import release_counts, release_means

DELTA = 1e-3


@pytest.fixture
def ledger(tmp_path):
    """A ledger that pays for one table with noise 4, and not for two."""
    own = Ledger(tmp_path / "ledger.sqlite", "north")
    own.grant(epsilon_of([Mechanism(1.0, 4.0, 1)], DELTA) + 0.05, DELTA)
    return own


@pytest.fixture
def cohort(ledger):
    """Thirty patients."""
    return Cohort.of(ledger.key, {f"p{n}": [] for n in range(30)})


def count(ledger, cohort, purpose="by sex", noise=4.0, policy=None):
    """Women and men among 30 patients, 20 and 10, and a group that nobody is in."""
    groups = ["F"] * 20 + ["M"] * 10
    return release_counts(
        ledger,
        policy or open_policy(),
        cohort,
        groups,
        of=("F", "M", "O"),
        noise_multiplier=noise,
        study="audit",
        purpose=purpose,
    )


def test_a_table_is_charged_as_one_gaussian_mechanism_on_everybody(ledger, cohort):
    """Each patient stands in one cell: the whole table costs what one count costs."""
    told = count(ledger, cohort)
    assert set(told) == {"F", "M", "O"}
    assert all(isinstance(value, int) and value >= 0 for value in told.values())
    (charge,) = ledger.state().charges
    assert charge.mechanism == Mechanism(1.0, 4.0, 1)
    assert (charge.release, charge.study, charge.cohort) == ("table", "audit", cohort.digest)


def test_the_noise_is_what_was_charged_for(ledger, cohort, monkeypatch):
    """Over many tables the counts scatter about the truth with the stated deviation."""
    ledger.grant(1e4, DELTA)
    monkeypatch.setattr(release, "round", lambda value: value, raising=False)
    drawn = []
    total = release.NoisedSum

    class Spy(total):
        def release(self):
            values = super().release()
            drawn.extend((values - values.new_tensor([20.0, 10.0, 0.0])).tolist())
            return values

    monkeypatch.setattr(release, "NoisedSum", Spy)
    monkeypatch.setattr(ledger, "charge", lambda *_, **__: None)
    monkeypatch.setattr(ledger, "record_release", lambda *_: None)
    for number in range(300):
        count(ledger, cohort, purpose=f"table {number}")
    spread = (sum(value * value for value in drawn) / len(drawn)) ** 0.5
    assert spread == pytest.approx(4.0, rel=0.14)  # six standard errors
    assert abs(sum(drawn) / len(drawn)) < 6 * 4.0 / len(drawn) ** 0.5


def test_the_charge_comes_first(ledger, cohort, monkeypatch):
    """A process that dies while adding up has paid."""

    def die(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(release, "NoisedSum", die)
    with pytest.raises(KeyboardInterrupt):
        count(ledger, cohort)
    assert len(ledger.state().charges) == 1


def test_the_same_question_gets_the_same_answer_at_no_cost(ledger, cohort):
    """Noise that is drawn again could be averaged away."""
    first = count(ledger, cohort)
    assert count(ledger, cohort) == first
    assert len(ledger.state().charges) == 1


def test_another_question_is_another_charge(ledger, cohort):
    """And refused where the grant does not pay for it."""
    count(ledger, cohort)
    with pytest.raises(BudgetError):
        count(ledger, cohort, purpose="by age")


def test_a_policy_that_keeps_tables_refuses_before_anything_is_charged(ledger, cohort):
    """Nothing is charged, nothing is told."""
    leaves = open_policy().leaves.model_copy(update={"tables": False})
    with pytest.raises(PolicyError):
        count(ledger, cohort, policy=open_policy().model_copy(update={"leaves": leaves}))
    with pytest.raises(PolicyError, match="noise of at least 1 patients"):
        count(ledger, cohort, noise=0.5)
    assert ledger.state().charges == ()


def test_rows_of_another_number_are_refused(ledger, cohort):
    """A patient who stands twice would count twice."""
    with pytest.raises(DataError, match="30 patients"):
        release_counts(
            ledger,
            open_policy(),
            cohort,
            ["F"] * 31,
            of=("F",),
            noise_multiplier=4.0,
            study="audit",
            purpose="by sex",
        )
    assert ledger.state().charges == ()


def means(ledger, cohort, values):
    """Dice and NSD of everybody."""
    return release_means(
        ledger,
        open_policy(),
        cohort,
        {"dice": values, "nsd": [1.0] * 30},
        noise_multiplier=4.0,
        study="audit",
        purpose="means",
    )


def test_means_are_noised_and_stay_means(ledger, cohort):
    """Between 0 and 1 whatever the noise."""
    told = means(ledger, cohort, [0.5] * 30)
    assert set(told) == {"dice", "nsd"}
    assert all(0 <= value <= 1 for value in told.values())
    assert len(ledger.state().charges) == 1


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan"), float("inf")])
def test_a_metric_beyond_its_bounds_is_refused(ledger, cohort, value):
    """Clipping it would tell another figure than what is asked for; nothing is charged."""
    with pytest.raises(DataError, match="between 0 and 1"):
        means(ledger, cohort, [value] + [0.5] * 29)
    assert ledger.state().charges == ()
