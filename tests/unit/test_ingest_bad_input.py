"""Every kind of bad input: one sentence, the right exit code, nothing half-written."""

import errno
import gzip
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from evenhand.cases import case_folder
from evenhand.cases.store import CaseStore
from evenhand.cli import main
from evenhand.errors import DataError, ResourceError
from evenhand.ingest.bids import ingest_bids

FLAIR = "sub-north001/anat/sub-north001_FLAIR.nii.gz"
MASK = "derivatives/manual_masks/sub-north001/anat/sub-north001_label-tumour_mask.nii.gz"
TABLE = "participants.tsv"


def rewrite(tree: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the voxels of an image and keep its affine."""
    image = nib.load(tree / name)
    voxels = change(np.asarray(image.dataobj))
    nib.save(nib.Nifti1Image(voxels, image.affine), tree / name)


def put(value: float, dtype: type = np.float32) -> Callable[[np.ndarray], np.ndarray]:
    """Return a change that sets one voxel."""

    def change(voxels: np.ndarray) -> np.ndarray:
        changed = voxels.astype(dtype)
        changed[1, 2, 3] = value
        return changed

    return change


def move(tree: Path, name: str) -> None:
    """Shift an image by a millimetre."""
    image = nib.load(tree / name)
    affine = image.affine.copy()
    affine[0, 3] += 1
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), tree / name)


def cut(tree: Path, name: str, keep: float) -> None:
    """Keep the first part of a file."""
    content = (tree / name).read_bytes()
    (tree / name).write_bytes(content[: int(len(content) * keep)])


def cut_inside(tree: Path, name: str) -> None:
    """Cut the volume but pack it well."""
    content = gzip.decompress((tree / name).read_bytes())
    (tree / name).write_bytes(gzip.compress(content[: len(content) // 2]))


def edit(tree: Path, change: Callable[[list[list[str]]], None]) -> None:
    """Change the rows of the table; row 0 is the header."""
    path = tree / TABLE
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    change(rows)
    path.write_text("\n".join("\t".join(row) for row in rows) + "\n", encoding="utf-8")


def cell(column: int, text: str) -> Callable[[list[list[str]]], None]:
    """Return a change of the table's second line."""

    def change(rows: list[list[str]]) -> None:
        rows[1][column] = text

    return change


def no_images(tree: Path) -> None:
    """Move a patient's images into a session."""
    (tree / "sub-north001" / "anat").rename(tree / "sub-north001" / "anat-old")
    (tree / "sub-north001" / "ses-1").mkdir()


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "image missing": (lambda t: (t / FLAIR).unlink(), "'sub-north001/anat' holds no NIfTI image"),
    "folder missing": (lambda t: shutil.rmtree(t / "sub-north001"), "a row in .* but no folder"),
    "sessions": (no_images, "has session folders, which are not read"),
    "image truncated": (lambda t: cut(t, FLAIR, 0.6), f"'{FLAIR}' is truncated"),
    "image empty": (lambda t: cut(t, FLAIR, 0), f"'{FLAIR}' is truncated"),
    "volume truncated": (lambda t: cut_inside(t, FLAIR), f"'{FLAIR}' is truncated"),
    "image not NIfTI": (lambda t: (t / FLAIR).write_text("x" * 999), f"'{FLAIR}' is .*not NIfTI"),
    "image 4-D": (
        lambda t: rewrite(t, FLAIR, lambda v: v[..., None]),
        f"'{FLAIR}' must hold a 3-D",
    ),
    "image NaN": (lambda t: rewrite(t, FLAIR, put(np.nan)), f"'{FLAIR}' has 1 voxel.*NaN"),
    "image infinite": (lambda t: rewrite(t, FLAIR, put(np.inf)), f"'{FLAIR}' has 1 voxel.*inf"),
    "image too large": (lambda t: rewrite(t, FLAIR, put(1e300, np.float64)), "NaN or infinite"),
    "mask missing": (lambda t: (t / MASK).unlink(), "'sub-north001' has no mask"),
    "mask truncated": (lambda t: cut(t, MASK, 0.9), f"'{MASK}' is truncated"),
    "mask shape": (
        lambda t: rewrite(t, MASK, lambda v: v[:, :, 1:]),
        rf"'{MASK}' has shape \(32, 32, 5\), '{FLAIR}' has \(32, 32, 6\)",
    ),
    "mask affine": (lambda t: move(t, MASK), f"'{MASK}' has another affine than '{FLAIR}'"),
    "mask of 255": (lambda t: rewrite(t, MASK, lambda v: v * 255), "neither 0 nor 1"),
    "mask of halves": (lambda t: rewrite(t, MASK, put(0.5)), f"'{MASK}' has 1 voxel"),
    "mask NaN": (lambda t: rewrite(t, MASK, put(np.nan)), f"'{MASK}' has 1 voxel"),
    "mask negative": (lambda t: rewrite(t, MASK, put(-1, np.int16)), f"'{MASK}' has 1 voxel"),
    "two masks": (
        lambda t: shutil.copy(t / MASK, (t / MASK).with_name("sub-north001_old_mask.nii.gz")),
        "could both be meant by 'mask'",
    ),
    "table missing": (lambda t: (t / TABLE).unlink(), f"{TABLE}' is missing"),
    "table empty": (lambda t: (t / TABLE).write_text(""), "must have one column 'participant_id'"),
    "table binary": (lambda t: (t / TABLE).write_bytes(b"\xff\xfe\x00"), "cannot be read as UTF-8"),
    "table rowless": (lambda t: edit(t, lambda r: r.__delitem__(slice(1, None))), "has no rows"),
    "id twice": (
        lambda t: edit(t, lambda r: r.append(r[1])),
        "lists 'sub-north001' twice, in lines 2 and 7",
    ),
    "id without prefix": (lambda t: edit(t, cell(0, "x")), "line 2, column 'participant_id'"),
    "id with a slash": (lambda t: edit(t, cell(0, "sub-a/b")), "line 2: A patient id must be"),
    "row missing": (
        lambda t: edit(t, lambda r: r.pop(1)),
        rf"'sub-north001' has no row in '{TABLE}' \(1 such folder",
    ),
    "no site column": (
        lambda t: edit(t, lambda r: r[0].__setitem__(1, "sites")),
        "must have one column 'site' .*did you mean 'sites'",
    ),
    "site empty": (lambda t: edit(t, cell(1, "n/a")), "line 2, column 'site': no hospital"),
    "site no name": (lambda t: edit(t, cell(1, "No Name")), "line 2: A hospital name must be"),
    "sex unreadable": (lambda t: edit(t, cell(2, "Fe male")), "line 2, column 'sex': F, M, O"),
    "age unreadable": (lambda t: edit(t, cell(3, "old")), "line 2, column 'age': years from 0"),
    "age impossible": (lambda t: edit(t, cell(3, "203")), "line 2, column 'age': years from 0"),
    "row short": (lambda t: edit(t, lambda r: r[1].pop()), "line 2: 6 cells wanted, 5 came"),
}


Shell = Callable[..., tuple[int, str]]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Return a runner of the command line: words in, exit code and one line of stderr out."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["evenhand", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), " ".join(capsys.readouterr().err.split())

    return run


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    kind: str, bids_tree: Path, tmp_path: Path
) -> None:
    """The file or the table's line is named, no row's value is, and no store appears."""
    spoil, wanted = BAD[kind]
    spoil(bids_tree)
    with pytest.raises(DataError, match=wanted) as caught:
        ingest_bids(bids_tree, tmp_path / "stores")
    text = str(caught.value)
    assert caught.value.exit_code == 1
    assert not any(value in text for value in ("Fe male", "203", "No Name"))
    assert not (tmp_path / "stores").exists()


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("image truncated", "Copy it again from where it came from."),
        ("id twice", "Remove one of them."),
    ],
)
def test_the_command_line_says_the_sentence_and_exits_with_1(
    kind: str, sentence: str, bids_tree: Path, tmp_path: Path, shell: Shell
) -> None:
    """Bad data is a failure, told without a traceback."""
    BAD[kind][0](bids_tree)
    code, text = shell("ingest", bids_tree, "--into", tmp_path / "stores")
    assert code == 1
    assert "Error: 'sub-north001" in text or "Error: 'participants.tsv'" in text
    assert text.endswith(sentence)
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--hospital", "nroth"], "No data for hospital 'nroth': .* did you mean 'north'"),
        (["--hospital", "north", "--hospital", "zzz"], "No data for hospital 'zzz'"),
        (["--bad-option"], "No such option"),
    ],
)
def test_wrong_use_exits_with_2(
    words: list[str], sentence: str, tiny_tree: Path, tmp_path: Path, shell: Shell
) -> None:
    """A wrong call is told apart from bad data; the nearest hospital is named."""
    code, text = shell("ingest", tiny_tree, "--into", tmp_path / "s", *words)
    assert code == 2
    assert re.search(sentence, text)
    assert not (tmp_path / "s").exists()


def test_a_source_that_is_not_there_exits_with_2(tmp_path: Path, shell: Shell) -> None:
    """A mistyped path is wrong use."""
    code, text = shell("ingest", tmp_path / "no", "--into", tmp_path / "s")
    assert code == 2
    assert "There is no file or folder" in text


def test_a_missing_sequence_is_named(tiny_tree: Path, tmp_path: Path) -> None:
    """The file that was looked for is named, with the ways out."""
    with pytest.raises(DataError, match=r"'sub-north001/anat/sub-north001_T1w.nii.gz' is missing"):
        ingest_bids(tiny_tree, tmp_path / "s", sequences=["FLAIR", "T1w"])
    assert not (tmp_path / "s").exists()


def test_two_files_for_one_sequence_are_named(bids_tree: Path, tmp_path: Path) -> None:
    """Which image is meant is never guessed."""
    image = bids_tree / FLAIR
    for label in ("acq-a_T1w", "acq-b_T1w"):
        shutil.copy(image, image.with_name(f"sub-north001_{label}.nii.gz"))
    with pytest.raises(DataError, match=r"acq-a_T1w.* and .*acq-b_T1w.* could both be meant by"):
        ingest_bids(bids_tree, tmp_path / "s", hospitals=["north"], sequences=["T1w"])


def test_images_of_one_case_must_share_a_grid(bids_tree: Path, tmp_path: Path) -> None:
    """Sequences that lie elsewhere are refused like masks that do."""
    second = "sub-north001/anat/sub-north001_T1w.nii.gz"
    shutil.copy(bids_tree / FLAIR, bids_tree / second)
    move(bids_tree, second)
    with pytest.raises(DataError, match=f"'{second}' has another affine than '{FLAIR}'"):
        ingest_bids(bids_tree, tmp_path / "s")


def test_a_patient_in_two_hospitals_stores_is_refused(bids_tree: Path, tmp_path: Path) -> None:
    """A patient who moved in the table must first leave the old store."""
    into = tmp_path / "stores"
    ingest_bids(bids_tree, into)
    edit(bids_tree, cell(1, "south"))
    before = sorted(into.rglob("*"))
    with pytest.raises(DataError, match=r"'sub-north001' is a patient of hospital south .* north"):
        ingest_bids(bids_tree, into)
    with pytest.raises(DataError, match="belongs to one hospital"):
        ingest_bids(bids_tree, into, hospitals=["south"])
    assert sorted(into.rglob("*")) == before


@pytest.mark.parametrize(("fails_at", "kept"), [(1, []), (4, ["north001"])])
def test_a_full_disk_keeps_whole_cases_only(
    fails_at: int, kept: list[str], tiny_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no space left, finished cases stay, drafts and empty stores go, a rerun goes on."""
    real, calls = case_folder.nifti_members, []

    def full(*volume: object) -> Iterator[bytes]:
        calls.append(volume)
        if len(calls) == fails_at:
            yield b"half"
            raise OSError(errno.ENOSPC, "No space left on device")
        yield from real(*volume)  # type: ignore[arg-type]

    monkeypatch.setattr(case_folder, "nifti_members", full)
    with pytest.raises(ResourceError, match="No space left on device") as caught:
        ingest_bids(tiny_tree, tmp_path / "s")
    assert caught.value.exit_code == 1
    folder = tmp_path / "s" / "north" / "cases"
    assert (sorted(path.name for path in folder.iterdir()) if folder.exists() else []) == kept
    assert (tmp_path / "s" / "north").exists() == bool(kept)
    assert not (tmp_path / "s" / "south").exists()
    monkeypatch.setattr(case_folder, "nifti_members", real)
    report = ingest_bids(tiny_tree, tmp_path / "s")
    assert (report.written, report.reused) == (5 - len(kept), len(kept))
    assert len(list(CaseStore(tmp_path / "s" / "north"))) == 3
