"""Volume, long and short axis of lesions, against figures by hand."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

import evenhand_ui
from evenhand.geometry import Affine
from evenhand.metrics.lesion_sizes import FIGURES_LIMIT, lesion_figures, measure_lesions

SPACED = Affine(np.diag([2.0, 1.0, 5.0, 1.0]))


def blank():
    """An empty mask."""
    return np.zeros((20, 20, 6), dtype=np.uint8)


def test_block():
    """4 x 4 voxels of 2 x 1 mm on two slices: 8 x 4 mm.

    Long axis: from (4, 1.5) to (-4, -1.5), the middles of outer edges: sqrt(73). Short axis: at
    right angles to that from the side at 2 to that at -2: sqrt(73) / 2. Volume: 32 of 10 mm3.
    """
    mask = blank()
    mask[2:6, 3:7, 1:3] = 1
    (size,) = measure_lesions(mask, SPACED)
    assert size.volume_mm3 == pytest.approx(320)
    assert size.long_axis_mm == pytest.approx(73**0.5)
    assert size.short_axis_mm == pytest.approx(73**0.5 / 2)


def test_line_and_point():
    """Ten voxels of 2 x 1 mm in a row: 20 x 1 mm. One voxel: 2 x 1 mm, not nothing."""
    mask = blank()
    mask[3:13, 4, 2] = 1
    mask[18, 18, 5] = 1
    line, point = measure_lesions(mask, SPACED)
    assert (line.long_axis_mm, line.short_axis_mm) == (pytest.approx(20), pytest.approx(1))
    assert line.slice_k == 2
    assert (point.long_axis_mm, point.short_axis_mm) == (pytest.approx(2), pytest.approx(1))
    assert point.volume_mm3 == pytest.approx(10)


def skewed():
    """A row of 50 voxels with a column of 11 above its left end and one below its right end."""
    mask = np.zeros((50, 40, 1), dtype=np.uint8)
    mask[:, 20] = 1
    mask[10, 21:32] = mask[39, 9:20] = 1
    return mask


def test_skewed():
    """The short axis is a chord: what sticks out elsewhere on the other side is not added.

    Above the row 11.5 mm at 10; below it, there, the hull from (0, -0.5) to (39, -11.5).
    """
    (size,) = measure_lesions(skewed(), Affine(np.eye(4)))
    assert size.long_axis_mm == pytest.approx(50)
    assert size.short_axis_mm == pytest.approx(11.5 + 0.5 + 11 * 10 / 39)


def random_lesions():
    """Ragged lesions with many axes of nearly equal length."""
    rng = np.random.default_rng(3)
    noise = ndimage.gaussian_filter(rng.normal(size=(40, 36, 5)), (2.5, 2.5, 1))
    return (noise > np.quantile(noise, 0.85)).astype(np.uint8)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 4.0)])
@pytest.mark.parametrize("drawn", [skewed, random_lesions])
def test_the_page_says_the_same(tmp_path, drawn, spacing):
    """The review page and the structured report give one lesion the same figures, turned or not."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    mask = drawn()
    viewer = Path(evenhand_ui.__file__).parent / "viewer"
    for name in ("lesions.js", "volume.js"):
        shutil.copy(viewer / name, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    turned = mask[::-1, :, ::-1]  # as the page may turn a volume
    given = {"shape": mask.shape, "sizes": spacing, "mask": turned.ravel(order="F").tolist()}
    (tmp_path / "ask.js").write_text(_ASK.replace("GIVEN", json.dumps(given)))
    done = subprocess.run(
        [node, tmp_path / "ask.js"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    page = sorted(map(tuple, json.loads(done.stdout)))
    report = sorted(
        (one.volume_mm3 / np.prod(spacing), one.long_axis_mm, one.short_axis_mm)
        for one in measure_lesions(mask, Affine(np.diag([*spacing, 1.0])))
    )
    assert np.allclose(page, report, atol=1e-6)


_ASK = """
import { findLesions } from "./lesions.js";
import { Volume, PLANES, MINE } from "./volume.js";
const { shape, sizes, mask } = GIVEN;
const volume = new Volume({ shape, spacing: sizes, letters: [] });
volume.setMask(Uint8Array.from(mask), [0, shape[0], 0, shape[1], 0, shape[2]], MINE);
const found = findLesions(volume, PLANES.axial, sizes);
console.log(JSON.stringify(found.map(({ voxels, length, width }) => [voxels, length, width])));
"""


def test_largest_first_and_widest_slice():
    """Lesions come by volume, and axes from the slice where the lesion is longest."""
    mask = blank()
    mask[0:2, 0:2, 0] = 1
    mask[5:8, 5:8, 1:5] = 1
    mask[5:15, 6, 3] = 1
    large, small = measure_lesions(mask, Affine(np.eye(4)))
    assert large.slice_k == 3
    assert large.long_axis_mm == pytest.approx((10**2 + 1) ** 0.5)
    assert small.volume_mm3 == 4


def test_turned_in_the_scanner():
    """Millimetres are those of the patient, however the slices are turned."""
    mask = blank()
    mask[2:6, 3:7, 1:3] = 1
    angle = np.radians(25)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    (size,) = measure_lesions(mask, Affine(turn @ np.diag([2.0, 1.0, 5.0, 1.0])))
    assert size.long_axis_mm == pytest.approx(73**0.5)


def test_empty():
    """Where there is no tumour there is no lesion."""
    assert measure_lesions(blank(), SPACED) == []


def test_figures_of_a_record():
    """A record keeps millilitres and millimetres as plain numbers that JSON takes.

    The block of above: 320 mm3, sqrt(73) = 8.544 mm and half of that; longest on both its slices,
    of which the first counts.
    """
    mask = blank()
    mask[2:6, 3:7, 1:3] = 1
    (figures,) = json.loads(json.dumps(lesion_figures(mask, SPACED)))
    assert figures == {
        "volume_ml": 0.32,
        "longest_diameter_mm": 8.544,
        "perpendicular_diameter_mm": 4.272,
        "slice": 1,
    }


def test_figures_of_crumbs():
    """A mask of crumbs does not make a record without end; its largest lesions are in it."""
    mask = np.zeros((60, 60, 1), dtype=np.uint8)
    mask[::2, ::2] = 1
    mask[30:34, 30:34] = 1
    figures = lesion_figures(mask, Affine(np.eye(4)))
    assert len(figures) == FIGURES_LIMIT
    assert figures[0]["volume_ml"] > figures[1]["volume_ml"] == 0.001
