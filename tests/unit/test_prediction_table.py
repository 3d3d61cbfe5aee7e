"""The prediction table: written whole, read back exactly, refused in one sentence when wrong."""

import hashlib
import json

import pandas as pd
import pytest

from evenhand.artifacts import (
    OPTIONAL_COLUMNS,
    PREDICTION_COLUMNS,
    file_sha256,
    read_prediction_table,
    write_prediction_table,
)
from evenhand.errors import DataError, ResourceError


def row(**changes):
    """One valid row."""
    return {
        "arm": "federated",
        "prompt": "automatic",
        "case": "secret-case",
        "patient": "secret-person",
        "hospital": "north",
        "sex": "F",
        "age_years": 61.5,
        "race": "unknown",
        "ethnicity": "unknown",
        "units": "mm",
        "dice": 0.1 + 0.2,
        "hd95": 7.000000000000001,
        "nsd": 0.5,
        "nsd_tolerance": 2.0,
        "volume_reference": 1234.5,
        "volume_predicted": 0.0,
        "empty": "prediction",
    } | changes


def write_csv(path, rows):
    """Write rows as somebody else's tool would, without a sidecar."""
    pd.DataFrame(rows).to_csv(path, index=False)


def test_a_table_reads_back_exactly(tmp_path):
    """Every number survives to the last bit, a missing age stays missing, columns keep order."""
    rows = [row(), row(case="other", age_years=None, dice=1 / 3)]
    write_prediction_table(tmp_path / "t.csv", rows, {"config": "abc"})
    frame, meta = read_prediction_table(tmp_path / "t.csv")
    assert tuple(frame.columns) == PREDICTION_COLUMNS
    assert frame["dice"].tolist() == [0.1 + 0.2, 1 / 3]
    assert frame["hd95"].iloc[0] == 7.000000000000001
    assert frame["age_years"].isna().tolist() == [False, True]
    assert meta == {"config": "abc"}


def test_the_sidecar_vouches_for_the_bytes(tmp_path):
    """The sidecar holds the hash of the csv as it lies on disk."""
    path = tmp_path / "t.csv"
    write_prediction_table(path, [row()], {})
    sidecar = json.loads((tmp_path / "t.json").read_text())
    assert sidecar["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() == file_sha256(path)
    assert (sidecar["schema_version"], sidecar["rows"]) == (2, 1)


def test_a_foreign_table_needs_no_sidecar(tmp_path):
    """Anybody's CSV of the schema is read; blank attributes are unknown, NA is text."""
    write_csv(tmp_path / "t.csv", [row(sex="", race="NA")])
    frame, meta = read_prediction_table(tmp_path / "t.csv")
    assert (frame["sex"].iloc[0], frame["race"].iloc[0], meta) == ("unknown", "NA", {})


def test_a_changed_table_is_refused(tmp_path):
    """A table edited after writing no longer matches its hash."""
    path = tmp_path / "t.csv"
    write_prediction_table(path, [row()], {})
    path.write_text(path.read_text().replace("federated", "pooled"))
    with pytest.raises(DataError, match=r"'t\.csv' is not the file that 't\.json' vouches for"):
        read_prediction_table(path)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": "something else"}'])
def test_a_foreign_or_damaged_sidecar_is_refused(tmp_path, content):
    """A JSON of the same name that is no sidecar is named, and the way out is given."""
    write_csv(tmp_path / "t.csv", [row()])
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(DataError, match="move that file away"):
        read_prediction_table(tmp_path / "t.csv")


def test_a_newer_sidecar_is_refused(tmp_path):
    """A table of another schema version says which version came and which is read."""
    path = tmp_path / "t.csv"
    write_prediction_table(path, [row()], {})
    sidecar = json.loads((tmp_path / "t.json").read_text())
    (tmp_path / "t.json").write_text(json.dumps(sidecar | {"schema_version": 99}))
    with pytest.raises(DataError, match="table schema 99; this version of Evenhand reads 1 and 2"):
        read_prediction_table(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dice": 1.2}, r"row 3, column 'dice': wanted a number from 0 to 1, got one outside"),
        ({"nsd": -0.1}, r"row 3, column 'nsd'"),
        ({"hd95": ""}, r"row 3, column 'hd95': wanted a number 0 or more"),
        ({"hd95": float("inf")}, r"row 3, column 'hd95'"),
        ({"dice": "high"}, r"row 3, column 'dice'"),
        ({"age_years": "young"}, r"row 3, column 'age_years'"),
        ({"age_years": 200}, r"row 3, column 'age_years'"),
        ({"prompt": "boxes"}, r"row 3, column 'prompt': wanted one of automatic, box"),
        ({"empty": "yes"}, r"row 3, column 'empty'"),
        ({"patient": ""}, r"row 3, column 'patient': wanted a name, got nothing"),
        ({"units": "voxel"}, r"mixes values in column 'units'"),
        ({"nsd_tolerance": 1.0}, r"mixes values in column 'nsd_tolerance'"),
        ({"case": "secret-case"}, r"scores one case twice .* \(rows 2 and 3\)"),
    ],
)
def test_a_bad_row_is_named_and_not_shown(tmp_path, changes, said):
    """A wrong row is named by number and column, by both ways in; nobody's id is in the message."""
    rows = [row(), row(case="secret-two") | changes]
    write_csv(tmp_path / "in.csv", rows)
    with pytest.raises(DataError, match=said) as read:
        read_prediction_table(tmp_path / "in.csv")
    with pytest.raises(DataError, match=said):
        write_prediction_table(tmp_path / "out.csv", rows, {})
    assert "secret" not in str(read.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_an_unknown_column_names_the_nearest(tmp_path):
    """A misspelt column is answered with the right one."""
    rows = [{("hospitl" if key == "hospital" else key): value for key, value in row().items()}]
    write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(DataError, match="unknown column 'hospitl'; did you mean 'hospital'"):
        read_prediction_table(tmp_path / "t.csv")


OPTIONAL = {
    "label": "core",
    "iou": 0.25,
    "volume_difference": -12.5,
    "lesions_reference": 3,
    "lesions_found": 2,
    "lesions_predicted": 4,
    "lesions_predicted_true": 2,
    "calibration_error": None,
    "uncertainty": 0.2,
}


def test_optional_columns_and_attributes_travel_with_the_table(tmp_path):
    """Further figures and attributes are read back under their names; the sidecar lists them."""
    rows = [row(scanner="A", **OPTIONAL), row(scanner="", **OPTIONAL | {"label": "edema"})]
    write_prediction_table(tmp_path / "t.csv", rows, {}, attributes=["scanner"])
    frame, _ = read_prediction_table(tmp_path / "t.csv")
    assert tuple(frame.columns) == (*PREDICTION_COLUMNS, *OPTIONAL_COLUMNS, "scanner")
    assert frame["scanner"].tolist() == ["A", "unknown"]
    assert frame["volume_difference"].tolist() == [-12.5, -12.5]
    assert frame["calibration_error"].isna().all()


def test_a_table_of_version_1_is_still_read(tmp_path):
    """Tables that earlier versions vouched for stay readable."""
    path = tmp_path / "t.csv"
    write_csv(path, [row()])
    old = {"schema": "evenhand prediction table", "schema_version": 1, "meta": {"config": "abc"}}
    (tmp_path / "t.json").write_text(json.dumps(old | {"sha256": file_sha256(path)}))
    assert read_prediction_table(path)[1] == {"config": "abc"}


def test_an_attribute_is_read_only_where_it_is_named(tmp_path):
    """A foreign column is an attribute if the reader says so, and otherwise a mistake."""
    write_csv(tmp_path / "t.csv", [row(scanner="A")])
    frame, _ = read_prediction_table(tmp_path / "t.csv", attributes=["scanner", "sex", "grade"])
    assert frame["scanner"].tolist() == ["A"]
    with pytest.raises(DataError, match=r"unknown column 'scanner'; .*name it as an attribute"):
        read_prediction_table(tmp_path / "t.csv")


def test_more_lesions_found_than_there_are_is_refused(tmp_path):
    """A part larger than its whole is a mixed-up column."""
    write_csv(tmp_path / "t.csv", [row(**OPTIONAL | {"lesions_found": 4})])
    with pytest.raises(DataError, match="'lesions_found': wanted at most what 'lesions_reference'"):
        read_prediction_table(tmp_path / "t.csv")


def test_missing_columns_are_all_named(tmp_path):
    """All missing columns come in one message."""
    rows = [{key: value for key, value in row().items() if key not in {"race", "units"}}]
    write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(DataError, match="lacks columns 'race', 'units'"):
        read_prediction_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a CSV table"),
        (b"\xff\xfe\x00", "not a CSV table"),
        ((",".join(PREDICTION_COLUMNS) + "\n").encode(), "has no rows"),
        (None, "There is no prediction table"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, content, said):
    """Empty, binary, rowless and missing files get a sentence each."""
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_prediction_table(path)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    """Where a file stands in the way of the folder, the error names the path."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(ResourceError, match="could not be written"):
        write_prediction_table(tmp_path / "taken" / "t.csv", [row()], {})
