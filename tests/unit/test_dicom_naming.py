"""Rules of sequence names: by rules that are data, by the user's table, never by a guess."""

from pathlib import Path

import pytest

from evenhand.errors import UsageError
from evenhand.ingest.dicom.naming import SKIP, SeriesTable, name_series, read_series_table

NONE = SeriesTable()


@pytest.mark.parametrize(
    ("description", "contrast", "name"),
    [
        ("t2_tirm_tra_dark-fluid", False, "FLAIR"),
        ("AX T2 FLAIR FS", False, "FLAIR"),
        ("T2FLAIR_ax", False, "FLAIR"),
        ("Sag T1 FLAIR", False, ""),
        ("t2_tse_tra_5mm", False, "T2w"),
        ("T2W_TSE", False, "T2w"),
        ("t1_mprage_sag", False, "T1w"),
        ("t1_mprage_sag", True, "T1w-ce"),
        ("T1 post gado", False, "T1w-ce"),
        ("ax t1 +c", False, "T1w-ce"),
        ("t1 pre contrast", True, "T1w"),
        ("ep2d_diff_3scan_trace", False, "DWI"),
        ("gre T2* hemo", False, "T2star"),
        ("PD axial", False, "PDw"),
        ("t1 and t2", False, ""),
        ("MRA tof", False, ""),
        ("", False, ""),
        ("patient T1000", False, ""),
    ],
)
def test_mr_series_get_the_name_that_their_words_say(
    description: str, contrast: bool, name: str
) -> None:
    """Common protocol names of several makers; what fits nothing, or two things, has no name."""
    assert name_series("MR", (description,), contrast=contrast, table=NONE).name == name


def test_other_modalities_are_what_they_are() -> None:
    """CT and PET need no words; what has no rule has no name."""
    assert name_series("CT", ("anything",), contrast=False, table=NONE).name == "CT"
    assert name_series("PT", (), contrast=False, table=NONE).name == "PET"
    assert name_series("US", ("flair",), contrast=False, table=NONE).name == ""


def test_reasons_quote_rules_and_never_headers() -> None:
    """A description may hold the name of a person."""
    for words in ("flair of Mr Aardvark", "Aardvark", "t1 t2 Aardvark"):
        naming = name_series("MR", (words,), contrast=False, table=NONE)
        assert "aardvark" not in naming.why.lower()


def test_the_users_table_comes_first(tmp_path: Path) -> None:
    """Patterns decide before rules do, in their order, and can leave series out."""
    path = tmp_path / "names.toml"
    path.write_text(
        '[[series]]\ndescription = "*SCOUT*"\nname = "skip"\n'
        '[[series]]\ndescription = "ax special*"\nmodality = "MR"\nname = "FLAIR"\n',
        encoding="utf-8",
    )
    table = read_series_table(path)
    assert name_series("CT", ("a scout",), contrast=False, table=table).name == SKIP
    named = name_series("MR", ("AX Special t2",), contrast=False, table=table)
    assert (named.name, named.why) == ("FLAIR", "entry 2 of your table")
    assert name_series("CT", ("AX Special",), contrast=False, table=table).name == "CT"


@pytest.mark.parametrize(
    "content",
    [
        "series = 3",
        "nonsense",
        "[[serie]]\nname = 'x'",
        "[[series]]\nname = 'x'",
        "[[series]]\nname = '../x'\ndescription = '*'",
        "[[series]]\nname = 'x'\ndescription = 3",
        "[[series]]\nname = 'x'\ndescription = 'a'\ncolour = 'red'",
    ],
)
def test_a_table_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    """A mistake in the table is found before anything is named by it."""
    path = tmp_path / "names.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=r"names\.toml"):
        read_series_table(path)
