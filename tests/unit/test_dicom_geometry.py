"""Rules of DICOM geometry: voxels lie where SimpleITK says they lie, or the series is refused."""

from pathlib import Path

import numpy as np
import pytest
from dicom_reading import grid, judged, volume_of, voxels
from hypothesis import given, settings
from hypothesis import strategies as st

from evenhand.geometry import Affine
from evenhand.ingest.dicom.phantom import Study, write_enhanced, write_series
from evenhand.ingest.dicom.stacks import make_stacks

sitk = pytest.importorskip("SimpleITK")

STUDY = Study()
GRIDS = {
    "axial": grid(),
    "flipped": grid(flips=(1, -1, -1)),
    "sagittal": grid(degrees=(90, 0, 90)),
    "oblique": grid(degrees=(17.3, -8.1, 31.9)),
    "oblique, unequal": grid((0.31, 1.7, 0.62), (-41.0, 23.0, 5.5), flips=(1, 1, -1)),
    "far": grid((0.9765625, 0.9765625, 3.27), (1, 2, 3), (-1834.6, 922.4, -3123.1)),
}


def by_simpleitk(folder: Path):
    """Voxels (i, j, k) and RAS affine of a series, as SimpleITK reads it."""
    reader = sitk.ImageSeriesReader()
    (series,) = reader.GetGDCMSeriesIDs(str(folder))
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series))
    image = reader.Execute()
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ matrix


@pytest.mark.parametrize("name", GRIDS)
def test_geometry_and_values_are_those_of_simpleitk(tmp_path: Path, name: str) -> None:
    """Oblique, flipped, unequally spaced: affines agree to 1e-4 mm, values to the number."""
    write_series(tmp_path / "s", voxels(), GRIDS[name], STUDY)
    ours, affine = volume_of(tmp_path / "s")
    theirs, matrix = by_simpleitk(tmp_path / "s")
    assert np.abs(affine.ras_from_voxel - matrix).max() < 1e-4
    assert np.array_equal(ours, theirs)


@settings(max_examples=25)
@given(
    spacing=st.tuples(*[st.floats(0.2, 6)] * 3),
    degrees=st.tuples(*[st.floats(-180, 180)] * 3),
    origin=st.tuples(*[st.floats(-2000, 2000)] * 3),
)
def test_every_corner_comes_back(tmp_path_factory, spacing, degrees, origin) -> None:
    """Whatever the direction, each voxel's place survives writing and reading to 1e-4 mm."""
    affine = grid(spacing, degrees, origin, (1, 1, 1))
    stored = voxels((3, 4, 5))
    folder = tmp_path_factory.mktemp("series")
    write_series(folder, stored, affine, STUDY)
    ours, found = volume_of(folder)
    turned = np.linalg.inv(found.ras_from_voxel) @ affine.ras_from_voxel
    backwards = turned[2, 2] < 0  # the same slices, counted from the other end
    assert np.array_equal(ours[:, :, ::-1] if backwards else ours, stored - 1024.0)
    for corner in np.ndindex(2, 2, 2):
        index = np.array(corner) * (np.array(stored.shape) - 1)
        there = affine.ras_from_voxel @ [*index, 1]
        if backwards:
            index[2] = stored.shape[2] - 1 - index[2]
        assert np.abs(found.ras_from_voxel @ [*index, 1] - there).max() < 1e-4


def test_a_gantry_tilt_is_kept_as_a_sheared_grid_and_said(tmp_path: Path) -> None:
    """Tilted slices keep their places exactly; nothing is resampled, and nobody overlooks it."""
    matrix = grid().ras_from_voxel.copy()
    matrix[1, 2] = 2.5 * np.tan(np.radians(12))
    write_series(tmp_path / "s", voxels(), Affine(matrix), STUDY)
    (volume,) = judged(tmp_path / "s")
    assert volume.stack is not None
    assert volume.stack.affine is not None
    assert np.abs(volume.stack.affine.ras_from_voxel - matrix).max() < 1e-4
    assert "gantry tilt of 12.0 degrees" in volume.stack.notes[0]


@pytest.mark.parametrize(("gone", "count"), [((3,), 1), ((2, 4), 2), ((2, 3), 2)])
def test_missing_slices_are_counted(tmp_path: Path, gone: tuple[int, ...], count: int) -> None:
    """A gap would shift everything above it; the series is refused, not closed up."""
    write_series(tmp_path / "s", voxels((5, 5, 9)), grid(), STUDY, leave_out=gone)
    (volume,) = judged(tmp_path / "s")
    assert f"{count} slice(s) are missing" in volume.problem


def test_a_file_that_came_twice_counts_once(tmp_path: Path) -> None:
    """Copies under one UID are one slice, and that is said."""
    first, *_ = write_series(tmp_path / "s", voxels(), grid(), STUDY)
    (tmp_path / "s" / "copy of it").write_bytes(first.read_bytes())
    (volume,) = judged(tmp_path / "s")
    assert (volume.problem, volume.stack.notes) == ("", ("1 slice(s) came twice",))


def test_two_slices_at_one_place_are_refused(tmp_path: Path) -> None:
    """Nothing says which of them is meant."""
    write_series(tmp_path / "a", voxels(), grid(), STUDY)
    write_series(tmp_path / "a" / "b", voxels(), grid(), STUDY, SOPInstanceUID="1.2.3")
    (volume,) = judged(tmp_path / "a")
    assert "at the place of another" in volume.problem


def test_echoes_of_one_series_become_volumes_of_their_own(tmp_path: Path) -> None:
    """What the headers tell apart is told apart, and numbered."""
    for echo in (1, 2):
        study = Study(name=f"echo {echo}")  # slices with UIDs of their own
        folder = tmp_path / str(echo)
        write_series(folder, voxels(), grid(), study, modality="MR", EchoNumbers=echo)
    assert [volume.label for volume in judged(tmp_path)] == ["series 1, echo 1", "series 1, echo 2"]
    assert all(volume.problem == "" for volume in judged(tmp_path))


def test_mixed_orientations_are_a_localiser(tmp_path: Path) -> None:
    """Three planes in one series are no volume."""
    for name in ("axial", "sagittal"):
        write_series(tmp_path / name, voxels(), GRIDS[name], Study(name=name))
    (volume,) = judged(tmp_path)
    assert "2 different directions" in volume.problem


def test_a_series_that_calls_itself_a_localiser_is_one(tmp_path: Path) -> None:
    """ImageType says so."""
    kind = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_series(tmp_path / "s", voxels(), grid(), STUDY, ImageType=kind)
    assert judged(tmp_path / "s")[0].problem == "a localiser"


def test_slices_that_wander_are_refused(tmp_path: Path) -> None:
    """Unevenly spaced slices have no affine."""
    paths = write_series(tmp_path / "s", voxels(), grid(), STUDY)
    from pydicom import dcmread

    moved = dcmread(paths[3])
    x, y, z = moved.ImagePositionPatient
    moved.ImagePositionPatient = [x, y, float(z) + 0.6]
    moved.save_as(paths[3])
    assert "not evenly spaced" in judged(tmp_path / "s")[0].problem


def test_an_enhanced_file_is_the_series_it_holds(tmp_path: Path) -> None:
    """One multi-frame file, its frames backwards, gives what single files give."""
    stored, affine = voxels(), grid(degrees=(10, 20, 30))
    write_series(tmp_path / "many", stored, affine, STUDY, modality="MR")
    (tmp_path / "one").mkdir()
    write_enhanced(tmp_path / "one" / "file", stored, affine, STUDY)
    many, one = volume_of(tmp_path / "many"), volume_of(tmp_path / "one")
    assert np.array_equal(many[0], one[0])
    assert many[1].is_close(one[1], atol_mm=1e-9)


def test_the_order_of_files_does_not_matter(tmp_path: Path) -> None:
    """Slices are sorted by where they lie."""
    write_series(tmp_path / "s", voxels(), GRIDS["oblique"], STUDY)
    (volume,) = judged(tmp_path / "s")
    assert volume.stack is not None
    planes = list(volume.stack.planes)
    (again,) = make_stacks(planes[::-1])
    assert again.planes == volume.stack.planes
