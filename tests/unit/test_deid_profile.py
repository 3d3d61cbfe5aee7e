"""The table of PS3.15 Annex E is what the standard says, and options do what they promise."""

import importlib

import pytest
from pydicom.datadict import dictionary_has_tag, dictionary_VR

from evenhand.errors import UsageError
from evenhand.ingest.deid.profile import (
    Action,
    Option,
    action_of,
    parse_options,
    profile_rows,
    row_of,
    safe_private,
)

ROWS = profile_rows()
NO_OPTIONS = frozenset()


class TestTable:
    """Data that nobody mistyped."""

    def test_every_basic_action_is_that_of_another_reading_of_the_standard(self):
        """Each attribute of edition 2026c has the action that dicom-anonymizer read from it."""
        package = "dicomanonymizer.dicom_anonymization_databases.dicomfields_2026c"
        pytest.importorskip("dicomanonymizer")
        theirs = importlib.import_module(package)
        lists = {
            "D": theirs.D_TAGS,
            "Z": theirs.Z_TAGS,
            "U": theirs.U_TAGS,
            "Z/D": theirs.Z_D_TAGS,
            "X/Z": theirs.X_Z_TAGS,
            "X/D": theirs.X_D_TAGS,
            "X/Z/D": theirs.X_Z_D_TAGS,
            "X/Z/U*": theirs.X_Z_U_STAR_TAGS,
            "X": theirs.X_TAGS,
        }
        expected = {
            f"{tag[0]:04x}{tag[1]:04x}": action
            for action, tags in lists.items()
            for tag in tags
            if len(tag) == 2
        }
        single = {
            tag: row.basic for tag, row in ROWS.items() if tag[:4].isalnum() and "x" not in tag
        }
        single.pop("ggggeeee")
        assert single == expected

    def test_vrs_are_the_dictionarys(self):
        """Where pydicom knows an attribute, the table has its VR."""
        wrong = [
            row.tag
            for row in ROWS.values()
            if row.tag.isalnum() and "x" not in row.tag and row.tag != "ggggeeee"
            if dictionary_has_tag(int(row.tag, 16))
            and dictionary_VR(int(row.tag, 16)).split(" or ")[0] != row.vr
        ]
        assert wrong == []

    def test_size_and_marks(self):
        """656 rows; option columns hold K, C or nothing."""
        assert len(ROWS) == 656
        assert {mark for row in ROWS.values() for mark in row.options.values()} == {"K", "C"}
        assert len(safe_private()) == 25

    @pytest.mark.parametrize(
        ("tag", "found"),
        [
            (0x00100010, "00100010"),
            (0x00091001, "ggggeeee"),
            (0x50001234, "50xxxxxx"),
            (0x60023000, "60xx3000"),
            (0x60020022, "60xx3000"),
            (0x00280010, None),
        ],
    )
    def test_rows_are_found_by_tag_and_by_group(self, tag, found):
        """Repeating groups and private attributes meet their row; image attributes meet none."""
        row = row_of(tag)
        assert (row.tag if row else None) == found


class TestActions:
    """What an option changes, and nothing else."""

    @pytest.mark.parametrize(
        ("tag", "options", "action"),
        [
            ("00100010", set(), Action.EMPTY),  # Patient's Name, Z
            ("00080020", set(), Action.EMPTY),  # Study Date, Z
            ("00080020", {Option.MODIFIED_DATES}, Action.SHIFT),
            ("00080030", {Option.MODIFIED_DATES}, Action.KEEP),  # Study Time
            ("00100030", {Option.MODIFIED_DATES}, Action.EMPTY),  # Birth Date: in no option
            ("00101010", set(), Action.REMOVE),  # Patient's Age, X
            ("00101010", {Option.PATIENT_CHARACTERISTICS}, Action.KEEP),
            ("00102110", {Option.PATIENT_CHARACTERISTICS}, Action.REMOVE),  # Allergies: C
            ("00181000", set(), Action.DUMMY),  # Device Serial Number, X/Z/D
            ("00181000", {Option.DEVICE_IDENTITY}, Action.KEEP),
            ("00181002", {Option.DEVICE_IDENTITY}, Action.UID),  # Device UID
            ("0020000d", set(Option), Action.UID),  # Study Instance UID
            ("00081140", set(), Action.RECURSE),  # Referenced Image Sequence, X/Z/U*
            ("0008103e", set(Option), Action.REMOVE),  # Series Description
        ],
    )
    def test_derived_by_hand(self, tag, options, action):
        """Read off Table E.1-1."""
        row = ROWS[tag]
        assert action_of(row, row.vr, frozenset(options)) is action

    def test_no_option_keeps_a_uid_or_a_whole_date(self):
        """Options that are offered never keep what links an object to its original."""
        everything = frozenset(Option)
        kept = [row for row in ROWS.values() if action_of(row, row.vr, everything) is Action.KEEP]
        assert {row.vr for row in kept} & {"UI", "PN", "SQ"} == set()
        dated = [row.name for row in kept if row.vr in ("DA", "DT")]
        assert (
            all(not ROWS[row.tag].options.get("retain_modified_dates") for row in kept)
            or dated == []
        )

    def test_unknown_option_names_the_known(self):
        """A misspelt option is refused, not ignored."""
        assert parse_options(["modified-dates"]) == {Option.MODIFIED_DATES}
        with pytest.raises(UsageError, match="safe-private"):
            parse_options(["keep-all"])
