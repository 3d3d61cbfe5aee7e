"""`evenhand audit frontier`: fairness against privacy over a sweep of runs."""

from xml.etree import ElementTree as ET

import pandas as pd
import pytest
from typer.testing import CliRunner

from evenhand.artifacts import write_prediction_table
from evenhand.cli import app
from evenhand.config import AuditConfig
from evenhand.errors import DataError, UsageError
from evenhand_audit.frontier import points_of
from evenhand_audit.report import write_audit
from evenhand_audit.simulate import simulated_rows

CONFIG = AuditConfig(resamples=100, attributes=("sex", "hospital"), intersections=False)


def report(folder, epsilon, gap, patients=40, config=CONFIG):
    """A report of a run whose private arm has this epsilon and this gap between F and M."""
    rows = simulated_rows(patients=patients, gap=gap, arms=(("federated-private", "automatic"),))
    rows += simulated_rows(patients=patients, gap=0.05, arms=(("federated", "automatic"),))
    folder.mkdir()
    write_prediction_table(folder / "p.csv", rows, {})
    spent = {
        name: {"epsilon": epsilon * share, "delta": 0.01, "unit": "patient", "accountant": "prv"}
        for name, share in (("north", 0.9), ("south", 1.0))
    }
    facts = {"arms": {"federated-private": {"epsilon": spent}}}
    write_audit(folder / "p.csv", folder / "report", config=config, facts=facts)
    return folder / "report"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Three runs; the smaller epsilon, the larger the gap. Read only."""
    base = tmp_path_factory.mktemp("sweep")
    return [report(base / f"e{eps}", eps, gap) for eps, gap in ((8, 0.15), (1, 0.4), (32, 0.1))]


def test_the_figure_and_its_table(sweep, tmp_path):
    """Points rise in epsilon, take the largest of any hospital, and the baseline comes last."""
    out = tmp_path / "f.svg"
    words = ["audit", "frontier", *map(str, sweep), "--by", "sex", "--out", str(out)]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    table = pd.read_csv(tmp_path / "f.csv")
    assert table["epsilon"].tolist()[:3] == [1, 8, 32]
    assert set(table["arm"][3:]) == {"federated"}
    assert table["worst_group"][0] == "F"
    assert table["gap"][0] > table["gap"][2] + 0.1
    root = ET.fromstring(out.read_text())  # noqa: S314 - written by ourselves
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = "".join(root.itertext())
    assert "no promise" in text
    assert "epsilon 1: F is worst" in text
    assert "person-" not in out.read_text()


def test_the_values_are_those_of_the_reports(sweep):
    """Nothing is computed anew: worst group, gap and interval stand in audit.json."""
    points = points_of(sweep, "sex", "automatic")
    assert all(each.gap.low <= each.gap.value <= each.gap.high for each in points)
    first = points[0]
    assert first.mean_dice.value - first.worst_dice.value == pytest.approx(first.gap.value / 2)


def test_what_cannot_be_compared_is_refused(sweep, tmp_path):
    """Other patients, other groups, no epsilon, no such attribute, no report."""
    fewer = report(tmp_path / "fewer", 4, 0.1, patients=20)
    with pytest.raises(DataError, match="different numbers of test patients"):
        points_of([sweep[0], fewer], "sex", "automatic")
    other = CONFIG.model_copy(update={"minimum_group": 6})
    with pytest.raises(DataError, match=r"differs from .* in minimum_group"):
        points_of([sweep[0], report(tmp_path / "o", 4, 0.1, config=other)], "sex", "automatic")
    with pytest.raises(UsageError, match="No arm with prompt 'box'"):
        points_of(sweep, "sex", "box")
    with pytest.raises(UsageError, match="was not made by 'race'"):
        points_of(sweep, "race", "automatic")
    with pytest.raises(DataError, match="There is no"):
        points_of([tmp_path], "sex", "automatic")
