"""The tables of faults and attacks in docs/results/federation.md name tests that are there."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "results" / "federation.md"


def table(section):
    """Rows of the table in a section, as lists of cells."""
    text = PAGE.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows[1:]]


def unit_tests():
    """Every test in tests/unit as `FILE::NAME`, with the text constants of its file."""
    found = {}
    for path in sorted((ROOT / "tests" / "unit").glob("test_*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
        for node in nodes:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[f"{path.name}::{node.name}"] = texts
    return found


TESTS = unit_tests()


@pytest.mark.parametrize(
    ("section", "fewest", "what"), [("Faults", 30, "lost"), ("Closed doors", 6, "logged in")]
)
def test_every_row_names_a_test_that_is_there(section, fewest, what):
    """A row without a test is a claim; so is one whose test was renamed or lost its case."""
    rows = table(section)
    assert len(rows) >= fewest
    for row in rows:
        assert len(row) == 4, row
        assert all(row), f"{row}: {what} is not said"
        name, _, case = row[3].strip("`").partition("[")
        assert name in TESTS, f"there is no test {name}"
        assert not case or case.removesuffix("]") in TESTS[name], f"{name} has no case {case}"


def test_every_case_of_a_failing_hospital_has_a_row():
    """A fault that is tried and not told would be missing from the count."""
    from test_federation_faults import FAULTS

    told = {row[3].strip("`").partition("[")[2].rstrip("]") for row in table("Faults")}
    assert set(FAULTS) <= told
