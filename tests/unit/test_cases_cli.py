"""Rules of `evenhand phantom|ingest|cases`: they work together and tell what they did."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from evenhand.cases.store import CaseStore
from evenhand.cli import app


def invoke(*words: object) -> Result:
    """Run a command of the application; it must not fail."""
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_from_phantoms_to_stores_to_a_table(tmp_path: Path) -> None:
    """The commands of a first visit, as the help texts show them."""
    tree, stores = tmp_path / "phantoms", tmp_path / "stores"
    made = invoke("phantom", "--into", tree, "--hospitals", 5, "--patients", 1, "--seed", 2)
    assert "5 patients of north, east, south, west, hospital-5" in made.stdout
    assert "phantom_truth.json" in made.stdout.replace("\n", "")
    checked = invoke("ingest", tree, "--into", stores, "--dry-run")
    assert "No problem was found" in checked.stdout
    assert not stores.exists()
    assert "5 cases written, 0 reused" in invoke("ingest", tree, "--into", stores).stdout
    again = invoke("ingest", tree, "--into", stores, "--hospital", "east", "--sequence", "FLAIR")
    assert "0 cases written, 1 reused" in again.stdout


def test_cases_lists_attributes_and_tumours(tiny_store: CaseStore) -> None:
    """The table has each case's size and tumour; attributes are counted with the unknown."""
    shown = invoke("cases", tiny_store.path).stdout
    assert "Hospital north: 3 cases" in shown
    for case in tiny_store:
        mask = tiny_store.volumes(case).mask
        assert mask is not None
        (line,) = (line for line in shown.splitlines() if case.case_id in line)
        cells = [cell.strip() for cell in line.strip("│ ").split("│")]
        assert "32 x 32 x 6" in cells
        assert cells[-2] == str(mask.sum())
        assert cells[-1] == str(mask.any(axis=(0, 1)).sum())
    (sexes,) = (line for line in shown.splitlines() if "│ sex" in line)
    assert sum(int(word.strip(",")) for word in sexes.split() if word.strip(",").isdigit()) == 3


def test_one_case_shows_its_record_and_intensities(tiny_store: CaseStore) -> None:
    """A look at one case says how bright its images are."""
    case = tiny_store.case("north002")
    shown = invoke("cases", tiny_store.path, "north002").stdout
    image = tiny_store.volumes(case).images["FLAIR"]
    assert "Case north002 of hospital north" in shown
    (line,) = (line for line in shown.splitlines() if line.startswith("│ FLAIR"))
    assert f"{image.max():.4g}" in line
    assert f"{image.mean():.4g}" in line


@pytest.mark.parametrize("command", ["phantom", "ingest", "cases"])
def test_help_ends_with_an_example(command: str) -> None:
    """Who asks for help sees a line to copy."""
    shown = invoke(command, "--help").stdout
    assert f"Example: evenhand {command} " in shown


@pytest.mark.parametrize("words", [["--hospitals", "0"], ["--bias-contrast", "2"], []])
def test_impossible_phantoms_are_wrong_use(words: list[str], tmp_path: Path) -> None:
    """Numbers out of range, and no folder at all, exit with 2."""
    into = ["--into", str(tmp_path / "p")] if words else []
    assert CliRunner().invoke(app, ["phantom", *into, *words]).exit_code == 2
    assert not (tmp_path / "p").exists()


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    """`python -m evenhand` is the command line, errors and exit codes included."""
    words = [sys.executable, "-m", "evenhand", "cases", str(tmp_path / "none")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not a case store (no store.json)" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
