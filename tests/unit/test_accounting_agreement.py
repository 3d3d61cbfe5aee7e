"""A second opinion: our epsilons against Google's dp-accounting, an independent implementation.

What it said about 200 random schedules lies beside this file, because it cannot be installed
beside our other tools; `benchmarks/accountant_reference.py` made it.
"""

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from evenhand.privacy.accounting import Mechanism, epsilon_of

REFERENCE = json.loads((Path(__file__).parent / "dp_accounting_epsilons.json").read_text("utf-8"))
TWENTY = REFERENCE["schedules"][::10]


def mechanism_of(row):
    """A schedule as ours."""
    return Mechanism(row["rate"], row["noise"], row["steps"])


def is_installed():
    """Whether a dp-accounting that can compose is here."""
    try:
        return tuple(map(int, version("dp-accounting").split(".")[:2])) >= (0, 4)
    except PackageNotFoundError:
        return False


@pytest.mark.parametrize("row", TWENTY, ids=str)
def test_both_accountants_agree(row):
    """Within 1%; all 200 schedules in the benchmark."""
    ours = epsilon_of([mechanism_of(row)], row["delta"])
    assert ours == pytest.approx(row["epsilon"], rel=0.01)
    assert ours >= row["epsilon"] * (1 - 1e-3)  # both are upper bounds, so hardly below


def test_the_schedules_are_as_different_as_hospitals():
    """Nearly no privacy and a lot of it, one step and hundreds: not one kind twenty times."""
    epsilons = [row["epsilon"] for row in REFERENCE["schedules"]]
    steps = [row["steps"] for row in REFERENCE["schedules"]]
    assert len(epsilons) == 200
    assert min(epsilons) < 0.05
    assert max(epsilons) > 20
    assert (min(steps), max(steps) > 300) == (1, True)


@pytest.mark.skipif(not is_installed(), reason="needs dp-accounting 0.4 or newer")
@pytest.mark.parametrize("row", TWENTY[:3], ids=str)
def test_the_stored_opinion_is_theirs(row):
    """Where the other accountant is installed, it still says what was stored."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    step = PoissonSampledDpEvent(row["rate"], GaussianDpEvent(row["noise"]))
    accountant = PLDAccountant()
    accountant.compose(SelfComposedDpEvent(step, row["steps"]))
    assert accountant.get_epsilon(row["delta"]) == pytest.approx(row["epsilon"], rel=1e-3)
