"""`evenhand audit sums` at each hospital, `evenhand audit pool` in one place."""

import json

import pytest
from typer.testing import CliRunner

from evenhand.artifacts import write_prediction_table
from evenhand.cli import app
from evenhand.errors import UsageError
from evenhand_audit.simulate import simulated_rows


def audit(*words):
    """Run `evenhand audit ...`."""
    return CliRunner().invoke(app, ["audit", *map(str, words)])


def test_from_four_hospitals_to_one_page(tmp_path):
    """Four files of sums become a page and JSON; neither they nor the screen name a patient."""
    write_prediction_table(tmp_path / "p.csv", simulated_rows(patients=120, gap=0.2), {})
    files = []
    for name in ("north", "east", "south", "west"):
        files.append(tmp_path / f"{name}.json")
        found = audit(
            *("sums", tmp_path / "p.csv", "--out", files[-1], "--hospital", name),
            *("--attributes", "sex,race", "--together", "race=black+unknown"),
        )
        assert found.exit_code == 0, found.output
    found = audit("pool", *files, "--out", tmp_path / "pooled")
    assert found.exit_code == 0, found.output
    assert "beyond" in found.output
    index = tmp_path / "pooled" / "index.html"
    page = index.read_text()
    record = json.loads((tmp_path / "pooled" / "pooled.json").read_text())
    assert record["hospitals"] == ["north", "east", "south", "west"]
    assert len(record["sources"]) == 4
    assert "4 hospitals, no row moved" in page
    assert "http" not in page
    assert all("person-" not in path.read_text() for path in (*files, index))


def test_a_malformed_option_is_a_sentence(tmp_path):
    """--together without a plus sign."""
    write_prediction_table(tmp_path / "p.csv", simulated_rows(patients=20), {})
    found = audit("sums", tmp_path / "p.csv", "--out", tmp_path / "n.json", "--together", "race=x")
    assert isinstance(found.exception, UsageError)
    with pytest.raises(UsageError, match="wants ATTRIBUTE=GROUP"):
        raise found.exception
    assert not (tmp_path / "n.json").exists()
