"""A verdict says what a measure did, also where it only makes everybody worse off."""

import numpy as np
import pytest

from evenhand.errors import UsageError
from evenhand_audit.mitigate.thresholds import COMMON, GRID, chosen, cross_fitted
from evenhand_audit.mitigate.verdict import judge_trial

SEXES = ["F"] * 60 + ["M"] * 60


def trial(women, men, noise=0.01, seed=0):
    """60 F at 0.6 and 60 M at 0.8 before; both move by so much on average."""
    rng = np.random.default_rng(seed)
    before = np.concatenate([np.full(60, 0.6), np.full(60, 0.8)]) + rng.normal(0, 0.05, 120)
    moved = np.concatenate([np.full(60, women), np.full(60, men)])
    after = before + moved + rng.normal(0, noise, 120)
    return judge_trial(before, after, SEXES, resamples=500, rng=np.random.default_rng(1))


@pytest.mark.parametrize(
    ("women", "men", "words"),
    [
        (0.1, 0.0, "F, the worst group, is served better"),
        (-0.02, -0.15, "lowers every group"),
        (-0.003, -0.1, "lowers every group"),
        (0.0, -0.1, "gains nothing|is open"),
        (0.0, 0.1, "The gap grows"),
        (0.05, 0.05, "Whether the gap changes is open"),
        (0.5, 0.0, "turns round"),
    ],
)
def test_every_outcome_has_its_words(women, men, words):
    """Better for the worst, worse for all, only others worse, wider, the same, turned round."""
    seed = 3 if women == men else 0
    found = trial(women, men, seed=seed)
    assert (found.best_before, found.worst_before) == ("M", "F")
    assert any(each in found.verdict for each in words.split("|")), found.verdict


def test_the_gap_keeps_its_sign():
    """A gap that turns round is negative afterwards, not small."""
    found = trial(0.3, 0.0)
    assert found.gap_before.value == pytest.approx(0.2, abs=0.03)
    assert found.gap_after.value == pytest.approx(-0.1, abs=0.03)
    assert found.gap_change.low < found.gap_change.value < found.gap_change.high < 0


def test_one_group_is_no_gap():
    """Nothing to follow."""
    with pytest.raises(UsageError, match="one group only"):
        judge_trial(np.ones(4), np.ones(4), ["F"] * 4, resamples=100, rng=np.random.default_rng(0))


def sweep(rng, best, count, spread=0.02):
    """Dice at each threshold, highest near `best`."""
    return 0.8 - (np.array(GRID) - best) ** 2 + rng.normal(0, spread, (count, 1))


def test_each_group_gets_its_own_threshold():
    """F do best at 0.3, M at 0.6; a group under the minimum keeps the common one."""
    rng = np.random.default_rng(0)
    dice = np.concatenate([sweep(rng, 0.3, 30), sweep(rng, 0.6, 30), sweep(rng, 0.9, 4)])
    groups = ["F"] * 30 + ["M"] * 30 + ["O"] * 4
    assert chosen(dice, groups, 10) == {"F": 0.3, "M": 0.6, "O": COMMON}


def test_of_equal_thresholds_the_nearest_to_the_common_one():
    """A flat curve is no reason to move."""
    assert chosen(np.ones((20, len(GRID))), ["F"] * 20, 10) == {"F": COMMON}


def test_noise_does_not_look_like_a_gain():
    """Thresholds chosen from noise look better on the same patients, and not on others."""
    rng = np.random.default_rng(2)
    dice = 0.7 + rng.normal(0, 0.1, (40, len(GRID)))
    groups = ["F"] * 20 + ["M"] * 20
    best = chosen(dice, groups, 10)
    fooled = np.mean([dice[row, GRID.index(best[group])] for row, group in enumerate(groups)])
    honest = cross_fitted(dice, groups, 10, 0).mean()
    assert fooled > 0.72
    assert honest < fooled - 0.02


def test_cross_fitting_finds_a_gain_that_is_there():
    """With a true optimum off the common threshold, other patients' choice helps."""
    rng = np.random.default_rng(5)
    dice = np.concatenate([sweep(rng, 0.2, 30), sweep(rng, 0.5, 30)])
    groups = ["F"] * 30 + ["M"] * 30
    after = cross_fitted(dice, groups, 10, 0)
    before = dice[:, GRID.index(COMMON)]
    assert (after - before)[:30].mean() == pytest.approx(0.09, abs=0.01)
    assert (after - before)[30:].mean() == pytest.approx(0, abs=0.01)
