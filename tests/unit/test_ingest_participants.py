"""Rules of evenhand.ingest.participants: what a table may say, and what it means."""

from pathlib import Path

import pytest

from evenhand.ingest.participants import read_participants


def write(folder: Path, *lines: str) -> Path:
    """Write a table; cells are separated by spaces in `lines`."""
    text = "\r\n".join(line.replace(" ", "\t") for line in lines)
    (folder / "participants.tsv").write_text("\ufeff" + text + "\r\n\r\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("cell", "sex"),
    [("f", "F"), ("Female", "F"), ("M", "M"), ("MALE", "M"), ("o", "O"), ("other", "O")]
    + [(text, "unknown") for text in ("n/a", "N/A", "", "unknown", "NaN")],
)
def test_ways_to_write_sex(tmp_path: Path, cell: str, sex: str) -> None:
    """Common spellings are read, missing ones are unknown."""
    tree = write(tmp_path, "participant_id site sex", f"sub-1 A {cell}")
    assert read_participants(tree)[0].patient.sex == sex


def test_missing_columns_and_cells_are_unknown_and_others_are_kept(tmp_path: Path) -> None:
    """Nothing that a table says is lost; what it does not say is unknown.

    The byte order mark, line ends of Windows and empty lines are no data.
    """
    tree = write(tmp_path, "participant_id grade site age", "sub-b G2 A 41.5", "sub-a n/a A n/a")
    first, second = (person.patient for person in read_participants(tree))
    assert (first.patient_id, first.age_years, dict(first.extra)) == (
        "a",
        None,
        {"grade": "unknown"},
    )
    assert (second.age_years, second.extra["grade"], second.race) == (41.5, "G2", "unknown")


def test_the_site_column_can_be_named(tmp_path: Path) -> None:
    """A tree that calls its hospitals otherwise needs no rewriting."""
    tree = write(tmp_path, "participant_id centre site", "sub-1 A 7")
    (person,) = read_participants(tree, site_column="centre")
    assert (person.patient.hospital, person.patient.extra["site"]) == ("A", "7")
