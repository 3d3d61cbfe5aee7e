"""What the tests of DICOM reading share: phantoms on disk, and reading them in this process."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evenhand.geometry import Affine
from evenhand.ingest.deid import HospitalKey, Pseudonymiser
from evenhand.ingest.dicom.files import find_files
from evenhand.ingest.dicom.headers import read_headers
from evenhand.ingest.dicom.naming import SeriesTable
from evenhand.ingest.dicom.pixels import read_stack
from evenhand.ingest.dicom.series import Volume, judge_series

KEY = HospitalKey(bytes(range(32)))
NAMES = Pseudonymiser(KEY)
"""Pseudonyms by a key that is no secret."""


def voxels(shape: tuple[int, int, int] = (13, 11, 7), seed: int = 0) -> NDArray[np.int16]:
    """Random stored values, each slice another."""
    return np.random.default_rng(seed).integers(-100, 3000, shape).astype(np.int16)


def rotation(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    """Turn about x, then y, then z."""
    a, b, c = np.radians(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return z @ y @ x


def grid(
    spacing_mm: tuple[float, float, float] = (0.7, 0.9, 2.5),
    degrees: tuple[float, float, float] = (0, 0, 0),
    origin: tuple[float, float, float] = (12.5, -40.25, 7.0),
    flips: tuple[int, int, int] = (-1, -1, 1),
) -> Affine:
    """Return an affine; the flips of an axial DICOM series unless others are given."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(degrees) @ np.diag(flips) @ np.diag(spacing_mm)
    matrix[:3, 3] = origin
    return Affine(matrix)


def judged(folder: Path) -> tuple[Volume, ...]:
    """Judge all images of a folder as one series."""
    headers = read_headers((0, tuple(find_files(folder))))
    return judge_series(1, [header for header in headers if header.kind == "image"], SeriesTable())


def volume_of(folder: Path) -> tuple[NDArray[np.float32], Affine]:
    """Read the one good volume of a folder."""
    (volume,) = judged(folder)
    assert volume.problem == ""
    assert volume.stack is not None
    assert volume.stack.affine is not None
    read = read_stack(volume.stack.planes, find_files(folder), volume.facts.pet)
    return read, volume.stack.affine
