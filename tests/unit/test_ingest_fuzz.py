"""Rules for damaged input: 200 mutated files, no crash, no hang, no half-written case."""

import gzip
import random
from pathlib import Path

import numpy as np
import pytest
from dicom_reading import grid, voxels

from evenhand.cases.nifti import read_nifti, write_nifti
from evenhand.errors import DataError
from evenhand.ingest.dicom.files import FileRef, find_files
from evenhand.ingest.dicom.headers import read_headers
from evenhand.ingest.dicom.naming import SeriesTable
from evenhand.ingest.dicom.phantom import Study, write_series
from evenhand.ingest.dicom.pixels import read_stack
from evenhand.ingest.dicom.series import judge_series

MUTANTS = 100
"""Of each kind; `benchmarks/ingest_fuzz.py` makes ten times as many, in worker processes."""


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Flip, cut, double, blank or exchange a few bytes."""
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8])):
        at = chance.randrange(max(len(changed), 1))
        match chance.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del changed[at:]
            case 2:
                changed[at:at] = changed[max(at - 40, 0) : at]
            case 3:
                changed[at : at + 4] = b"\xff\xff\xff\xff"
            case _:
                del changed[at : at + chance.randrange(1, 60)]
    return bytes(changed)


def test_damaged_dicom_is_read_or_refused(tmp_path: Path) -> None:
    """Header, judgement and pixels: an answer or a DataError, never anything else."""
    paths = write_series(tmp_path / "s", voxels((8, 8, 4)), grid(), Study())
    original, chance = paths[1].read_bytes(), random.Random(1)
    ends = {"read": 0, "refused": 0}
    for _ in range(MUTANTS):
        head = chance.random() < 0.7  # most of a small file is header anyway; hit it first
        cut = original.index(b"\xe0\x7f") if head else len(original)
        paths[1].write_bytes(mutated(original[:cut], chance) + original[cut:])
        files = find_files(tmp_path / "s")
        headers = [h for h in read_headers((0, tuple(files))) if h.kind == "image"]
        for volume in judge_series(1, headers, SeriesTable()):
            if volume.problem or volume.stack is None:
                ends["refused"] += 1
                continue
            try:
                read_stack(volume.stack.planes, files, volume.facts.pet)
                ends["read"] += 1
            except DataError:
                ends["refused"] += 1
    assert min(ends.values()) > 5  # the mutations are neither harmless nor all deadly


@pytest.mark.parametrize("packed", [False, True])
def test_damaged_nifti_is_read_or_refused(tmp_path: Path, packed: bool) -> None:
    """A volume or a DataError; a small file never becomes a large one."""
    path = tmp_path / "x.nii.gz"
    write_nifti(path, voxels((8, 8, 4)), grid())
    whole = path.read_bytes() if packed else gzip.decompress(path.read_bytes())
    chance, refused = random.Random(2), 0
    for _ in range(MUTANTS // 2):
        path.write_bytes(mutated(whole, chance))
        try:
            found, _ = read_nifti(path, name="x")
            assert found.size < 2**24
        except DataError:
            refused += 1
    assert refused > 5


def test_a_gzip_bomb_is_not_inflated(tmp_path: Path) -> None:
    """Content beyond what the header promises is damage, and costs no memory."""
    path = tmp_path / "x.nii.gz"
    write_nifti(path, np.zeros((4, 4, 4), np.uint8), grid())
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(2**24)))
    with pytest.raises(DataError, match="damaged"):
        read_nifti(path, name="x")


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 200, b"DICM", b"\0" * 128 + b"DICM", b"PK\x03\x04"]
)
def test_stubs_are_no_dicom(tmp_path: Path, content: bytes) -> None:
    """Empty files and bare magics are passed over or refused."""
    (tmp_path / "x").write_bytes(content)
    (header,) = read_headers((0, (FileRef(str(tmp_path / "x")),)))
    assert header.planes == ()
