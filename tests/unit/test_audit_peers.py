"""The same table gives the same figures as the peers, where their definitions are ours."""

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame

from evenhand.config import AuditConfig
from evenhand_audit.analysis import audit_table
from evenhand_audit.simulate import simulated_rows

CONFIG = AuditConfig(resamples=100, attributes=("sex", "hospital"), intersections=True)


@pytest.fixture(scope="module")
def judged():
    """A table of 80 patients with one case each, and its audit."""
    table = pd.DataFrame(simulated_rows(patients=80, gap=0.15, seed=3))
    return table, audit_table(table, CONFIG).arms[0]


def test_fairlearn_agrees(judged):
    """overall, by_group, difference, ratio and group_min are MetricFrame's, pairs included."""
    table, arm = judged
    for found in (*arm.attributes, *arm.intersections):
        names = found.attribute.split(" \N{MULTIPLICATION SIGN} ")
        frame = MetricFrame(
            metrics=lambda dice, _: dice.mean(),
            y_true=table["dice"],
            y_pred=table["dice"],
            sensitive_features=table[names],
        )
        assert found.pooled == ()
        assert arm.overall.metrics["dice"].mean.value == pytest.approx(frame.overall, abs=1e-9)
        for row in found.by_group:
            key = tuple(row.group.split(", ")) if len(names) > 1 else row.group
            mean = row.metrics["dice"].mean.value
            assert mean == pytest.approx(frame.by_group[key], abs=1e-9)
        difference = found.difference["dice"]
        assert difference.gap.value == pytest.approx(frame.difference(), abs=1e-9)
        assert difference.ratio == pytest.approx(frame.ratio(), abs=1e-9)
        lowest = min(row.metrics["dice"].mean.value for row in found.by_group)
        assert lowest == pytest.approx(frame.group_min(), abs=1e-9)


def test_fairmedfm_agrees(judged):
    """Gap, worst group, skewed error ratio and equity-scaled Dice by standard deviation."""
    fairmedfm = pytest.importorskip("fairmedfm")
    table, arm = judged
    for found in arm.attributes:
        report = fairmedfm.evaluate_segmentation(
            {found.attribute: table[found.attribute].tolist()}, dice=table["dice"].to_numpy()
        )
        theirs = report.to_dict()["attributes"][found.attribute]["summary"]
        assert found.difference["dice"].gap.value == pytest.approx(theirs["delta_dice"], abs=1e-6)
        lowest = min(row.metrics["dice"].mean.value for row in found.by_group)
        assert lowest == pytest.approx(theirs["min_dice"], abs=1e-6)
        assert found.skewed_error_ratio.ratio == pytest.approx(theirs["skewness_dice"], abs=1e-6)
        assert found.equity_scaled_dice.by_std == pytest.approx(theirs["es_dice"], abs=1e-6)


def test_segauge_agrees(judged):
    """Subgroup means are segauge's; its intervals are plain percentiles, ours are wider."""
    core = pytest.importorskip("segauge.core")
    table, arm = judged
    result = core.EvaluationResult(
        rows=[
            {"case_id": case, "dice": dice, "meta.sex": sex}
            for case, dice, sex in table[["case", "dice", "sex"]].itertuples(index=False)
        ],
        metric_names=["dice"],
        metadata_keys=["sex"],
        confidence=0.95,
        n_resamples=2000,
        seed=0,
    )
    theirs = result.by_subgroup("sex")
    sex = next(found for found in arm.attributes if found.attribute == "sex")
    for row in sex.by_group:
        mean = row.metrics["dice"].mean
        other = theirs[row.group]["dice"]
        assert mean.value == pytest.approx(other.value, abs=1e-6)
        assert np.isclose(mean.low, other.ci_low, atol=0.03)
        assert np.isclose(mean.high, other.ci_high, atol=0.03)
