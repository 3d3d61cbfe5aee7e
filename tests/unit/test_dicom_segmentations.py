"""Rules of segmentations: polygons by a stated rule, SEG and RTSTRUCT on the image's grid."""

from pathlib import Path

import numpy as np
import pytest
from dicom_reading import grid, volume_of, voxels
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom import dcmread

from evenhand.errors import DataError
from evenhand.geometry import Affine
from evenhand.ingest.dicom.files import FileRef
from evenhand.ingest.dicom.phantom import Study, write_rtstruct, write_series
from evenhand.ingest.dicom.polygons import fill_polygons
from evenhand.ingest.dicom.segmentations import read_rtstruct, read_seg
from evenhand.ingest.resample import onto_grid

COLUMNS, ROWS = 9, 7
SQUARE = np.array([[1, 1], [5, 1], [5, 5], [1, 5]], float)


def slowly(polygons: list[np.ndarray]) -> np.ndarray:
    """The rule pixel by pixel: odd crossings of a ray to the right are inside."""
    inside = np.zeros((COLUMNS, ROWS), np.uint8)
    for x in range(COLUMNS):
        for y in range(ROWS):
            crossings = 0
            for polygon in polygons:
                for n, (x1, y1) in enumerate(polygon):
                    x2, y2 = polygon[(n + 1) % len(polygon)]
                    if y1 > y2:
                        x1, y1, x2, y2 = x2, y2, x1, y1  # noqa: PLW2901 - a swap
                    if y1 <= y < y2:
                        crossings += x < x1 + (y - y1) * (x2 - x1) / (y2 - y1)
            inside[x, y] = crossings % 2
    return inside


POINTS = st.integers(3, 8).flatmap(
    lambda n: arrays(float, (n, 2), elements=st.floats(-4, 12).map(lambda v: round(v * 4) / 4))
)


@settings(max_examples=60)
@given(polygons=st.lists(POINTS, min_size=1, max_size=3))
def test_polygons_are_filled_as_the_rule_says(polygons: list[np.ndarray]) -> None:
    """Any polygons, crossing themselves, each other and the border, on pixel centres and off."""
    assert np.array_equal(fill_polygons(polygons, COLUMNS, ROWS), slowly(polygons))


def test_a_square_and_its_hole_by_hand() -> None:
    """Half-open: pixels 1 to 4, not 5. A square in it is a hole."""
    whole = fill_polygons([SQUARE], COLUMNS, ROWS)
    assert whole.sum() == 16
    assert whole[1:5, 1:5].all()
    hole = np.array([[2, 2], [4, 2], [4, 4], [2, 4]], float)
    assert fill_polygons([SQUARE, hole], COLUMNS, ROWS).sum() == 12


def test_neighbours_share_no_pixel_and_leave_none_out() -> None:
    """Two halves make the whole."""
    left, right = SQUARE.copy(), SQUARE.copy()
    left[1:3, 0] = right[[0, 3], 0] = 2.5
    halves = [fill_polygons([half], COLUMNS, ROWS) for half in (left, right)]
    assert np.array_equal(halves[0] + halves[1], fill_polygons([SQUARE], COLUMNS, ROWS))


def contours_of(affine: Affine, slices: range) -> list[np.ndarray]:
    """The square in several slices, in RAS mm, half a pixel on: its border meets no centre."""
    return [
        (affine.ras_from_voxel @ np.vstack([SQUARE.T + 0.5, np.full(4, float(k)), np.ones(4)]))[
            :3
        ].T
        for k in slices
    ]


@pytest.mark.parametrize("degrees", [(0, 0, 0), (20, -30, 40)])
def test_an_rtstruct_lands_where_it_was_drawn(
    tmp_path: Path, degrees: tuple[float, float, float]
) -> None:
    """Contours in millimetres come out in the slices and pixels they were drawn on."""
    affine, study = grid(degrees=degrees), Study()
    write_series(tmp_path / "s", voxels((COLUMNS, ROWS, 5)), affine, study)
    write_rtstruct(tmp_path / "rs", {"GTV": contours_of(affine, range(1, 3))}, study)
    image, found = volume_of(tmp_path / "s")
    mask, notes = read_rtstruct(FileRef(str(tmp_path / "rs")), [1], image.shape, found)
    assert notes == ()
    assert mask.any(axis=(0, 1)).tolist() == [False, True, True, False, False]
    wanted = np.zeros((COLUMNS, ROWS), np.uint8)
    wanted[2:6, 2:6] = 1
    assert np.array_equal(mask[:, :, 1], wanted)


def test_regions_are_joined_and_others_left_out(tmp_path: Path) -> None:
    """Overlap of two regions is tumour, not a hole."""
    affine, study = grid(), Study()
    drawn = contours_of(affine, range(1, 2))
    write_rtstruct(tmp_path / "rs", {"A": drawn, "B": drawn, "C": drawn}, study)
    ref = FileRef(str(tmp_path / "rs"))
    both, _ = read_rtstruct(ref, [1, 2], (COLUMNS, ROWS, 5), affine)
    one, _ = read_rtstruct(ref, [3], (COLUMNS, ROWS, 5), affine)
    assert np.array_equal(both, one)
    assert both.any()


def test_contours_across_slices_are_refused(tmp_path: Path) -> None:
    """A contour that leans out of its slice was drawn on another series."""
    affine = grid()
    tilted = contours_of(affine, range(1, 2))[0]
    tilted[0, 2] += 2.0
    write_rtstruct(tmp_path / "rs", {"A": [tilted]}, Study())
    with pytest.raises(DataError, match="do not lie in the slices"):
        read_rtstruct(FileRef(str(tmp_path / "rs")), [1], (COLUMNS, ROWS, 5), affine)


def write_seg(folder: Path, path: Path, mask: np.ndarray) -> None:
    """Write a mask (slice, row, column) on a series, by highdicom."""
    import highdicom as hd
    from highdicom.sr.coding import CodedConcept

    sources = [dcmread(each) for each in folder.iterdir()]
    sources.sort(key=lambda each: float(each.ImagePositionPatient[2]))
    tumour = CodedConcept("108369006", "SCT", "Neoplasm")
    seg = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=mask,
        segmentation_type="BINARY",
        segment_descriptions=[
            hd.seg.SegmentDescription(1, "GTV", tumour, tumour, "MANUAL"),
        ],
        series_instance_uid=Study().uid("seg"),
        series_number=2,
        sop_instance_uid=Study().uid("seg instance"),
        instance_number=1,
        manufacturer="Evenhand phantom",
        manufacturer_model_name="none",
        software_versions="0",
        device_serial_number="0",
        omit_empty_frames=True,
    )
    seg.save_as(path)


def series_for_seg(folder: Path) -> None:
    """A series with the attributes that highdicom copies."""
    extra = {"PatientBirthDate": "", "PatientSex": "", "AccessionNumber": "", "StudyID": "1"}
    empty = {"ReferringPhysicianName": "", "PositionReferenceIndicator": ""}
    write_series(folder, voxels((COLUMNS, ROWS, 6)), grid(), Study(), **extra, **empty)


def test_a_seg_without_its_empty_frames_lands_on_the_image(tmp_path: Path) -> None:
    """Frames are placed by where they lie, not by their number."""
    series_for_seg(tmp_path / "s")
    drawn = np.zeros((6, ROWS, COLUMNS), np.uint8)
    drawn[2:4, 1:3, 4:8] = 1
    drawn[4, 5, 0] = 1
    write_seg(tmp_path / "s", tmp_path / "seg", drawn)
    image, affine = volume_of(tmp_path / "s")
    mask, notes = read_seg(FileRef(str(tmp_path / "seg")), [1], image.shape, affine)
    assert np.array_equal(mask, drawn.T)
    assert notes == ()


def test_a_damaged_seg_is_refused(tmp_path: Path) -> None:
    """Half a segmentation is none."""
    series_for_seg(tmp_path / "s")
    drawn = np.ones((6, ROWS, COLUMNS), np.uint8)
    write_seg(tmp_path / "s", tmp_path / "seg", drawn)
    (tmp_path / "seg").write_bytes((tmp_path / "seg").read_bytes()[:1500])
    with pytest.raises(DataError, match="damaged"):
        read_seg(FileRef(str(tmp_path / "seg")), [1], (COLUMNS, ROWS, 6), grid())


def test_a_copy_onto_another_grid_is_exact_where_it_can_be() -> None:
    """Permuted, flipped, cropped and padded voxels are copied, each to its place."""
    source = np.arange(1, 61, dtype=np.uint8).reshape(3, 4, 5)
    own = Affine(np.diag([2.0, 3.0, 4.0, 1.0]))
    turn = np.array([[0, 0, 2, -2], [-3, 0, 0, 9], [0, 4, 0, 4], [0, 0, 0, 1]], float)
    moved, exact = onto_grid(source, own, (4, 3, 5), Affine(turn))
    assert exact
    for index in np.ndindex(4, 3, 5):
        place = np.linalg.inv(own.ras_from_voxel) @ turn @ [*index, 1]
        i, j, k = np.rint(place[:3]).astype(int)
        within = 0 <= i < 3 and 0 <= j < 4 and 0 <= k < 5
        assert moved[index] == (source[i, j, k] if within else 0)


def test_another_spacing_is_sampled_and_said() -> None:
    """A ramp stays a ramp under linear sampling; a mask keeps 0 and 1."""
    ramp = np.tile(np.arange(8, dtype=np.float32)[:, None, None], (1, 3, 3))
    half = Affine(np.diag([0.5, 1.0, 1.0, 1.0]))
    finer, exact = onto_grid(ramp, Affine(np.eye(4)), (14, 3, 3), half)
    assert not exact
    assert np.allclose(finer[:, 1, 1], np.arange(14) / 2)
    mask, _ = onto_grid((ramp > 3).astype(np.uint8), Affine(np.eye(4)), (14, 3, 3), half)
    assert set(np.unique(mask)) == {0, 1}
