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


def test_federated_is_answered(tmp_path):
    """`evenhand audit --federated` sums up a table, pools files, and alone says how it is done."""
    write_prediction_table(tmp_path / "p.csv", simulated_rows(patients=120, gap=0.2), {})
    files = []
    for name in ("north", "east"):
        files.append(tmp_path / f"{name}.json")
        found = audit("--federated", tmp_path / "p.csv", "--out", files[-1], "--hospital", name)
        assert found.exit_code == 0, found.output
    found = audit("--federated", *files, "--out", tmp_path / "pooled")
    assert found.exit_code == 0, found.output
    assert (tmp_path / "pooled" / "index.html").is_file()
    with pytest.raises(UsageError, match="takes two steps"):
        raise audit("--federated").exception


def test_noised_sums_from_ledger_to_page(tmp_path, monkeypatch):
    """With a grant sums leave with noise; the page says what was spent and what is not shown."""
    monkeypatch.setenv("EVENHAND_HOME", str(tmp_path / "home"))
    write_prediction_table(tmp_path / "p.csv", simulated_rows(patients=400, gap=0.2), {})
    files = []
    for name in ("north", "east"):
        grant = ("ledger", "grant", name, "--epsilon", "4", "--delta", "0.001")
        assert CliRunner().invoke(app, grant).exit_code == 0
        files.append(tmp_path / f"{name}.json")
        found = audit(
            *("sums", tmp_path / "p.csv", "--out", files[-1], "--hospital", name),
            *("--attributes", "sex", "--epsilon", 3),
        )
        assert found.exit_code == 0, found.output
        assert "charged to the ledger" in " ".join(found.output.split())
    found = audit("pool", *files, "--out", tmp_path / "pooled")
    assert found.exit_code == 0, found.output
    page = (tmp_path / "pooled" / "index.html").read_text()
    assert "Privacy spent" in page
    assert "Noise alone could have made" in page
    assert "account for the noise" in page


@pytest.mark.parametrize(
    "words", [("--epsilon", 1, "--together", "sex=F+O"), ("--groups", "race=a+b")]
)
def test_options_of_exact_and_noised_sums_do_not_mix(tmp_path, words):
    """Each says which to leave out, and nothing is written."""
    write_prediction_table(tmp_path / "p.csv", simulated_rows(patients=20), {})
    found = audit("sums", tmp_path / "p.csv", "--out", tmp_path / "n.json", *words)
    assert isinstance(found.exception, UsageError)
    assert not (tmp_path / "n.json").exists()
