"""Right is right: whatever way round a file stores its voxels, the viewer gets RAS, and back."""

import gzip
import itertools

import nibabel as nib
import numpy as np
import pytest

from evenhand.errors import DataError
from evenhand.geometry import Affine
from evenhand_ui.volumes import Canonical, default_window, encode_image, pack, unpack

RAS_SHAPE = (5, 7, 4)
ORIENTATIONS = [
    "".join(codes)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*axes)
]


def in_ras():
    """A volume that no flip or turn leaves as it is."""
    return np.arange(np.prod(RAS_SHAPE), dtype=np.float32).reshape(RAS_SHAPE)


def stored_as(codes, volume=None):
    """A volume in RAS, stored as `codes`: voxels and affine, by nibabel."""
    ras = nib.Nifti1Image(in_ras() if volume is None else volume, np.diag([2.0, 3.0, 4.0, 1.0]))
    change = nib.orientations.ornt_transform(
        nib.io_orientation(ras.affine), nib.orientations.axcodes2ornt(codes)
    )
    image = ras.as_reoriented(change)
    assert nib.aff2axcodes(image.affine) == tuple(codes)
    voxels = np.asarray(image.dataobj)
    return voxels, Canonical(voxels.shape, Affine(image.affine))


def received(pixels):
    """What the browser makes of an image: numbers with x fastest, as (x, y, z); packed or not."""
    assert gzip.decompress(pixels.packed) == bytes(pixels.plain)
    return np.frombuffer(pixels.plain, dtype="<i2").reshape(RAS_SHAPE[::-1]).T


@pytest.mark.parametrize("codes", ORIENTATIONS)
class TestLaterality:
    """All 48 ways to store a volume: RAS, LAS, LPS, and every flip and turn."""

    def test_turned_to_ras_and_back(self, codes):
        """The viewer gets x to the right, y anterior, z superior; what it sends is put back."""
        voxels, canonical = stored_as(codes)
        assert np.array_equal(canonical.turn(voxels), in_ras())
        assert np.array_equal(canonical.back(in_ras()), voxels)
        assert canonical.turned_shape == RAS_SHAPE
        assert canonical.spacing_mm == (2, 3, 4)

    def test_letters(self, codes):
        """Low and high ends of the three axes carry the letters of RAS."""
        _, canonical = stored_as(codes)
        assert canonical.letters == [("L", "R"), ("P", "A"), ("I", "S")]

    def test_place_in_the_patient(self, codes):
        """A voxel lies at the same millimetres before and after it is turned."""
        voxels, canonical = stored_as(codes)
        x, y, z = np.argwhere(canonical.turn(voxels) == 17)[0]
        stored = np.argwhere(voxels == 17)[0]
        place = np.array(canonical.turned_affine) @ [x, y, z, 1]
        assert np.allclose(place, canonical.affine.ras_from_voxel @ [*stored, 1])
        edge = canonical.stored_place((x + 0.25, y + 0.25, z + 0.25))
        assert np.floor(edge).tolist() == stored.tolist()

    def test_slices_are_those_of_the_file(self, codes):
        """Stored slices are counted in the viewer's order, and named by their k in the file."""
        voxels, canonical = stored_as(codes)
        mask = np.zeros(voxels.shape, dtype=np.uint8)
        k = 1
        mask[0, 0, k] = 1
        areas = canonical.areas(mask)
        (index,) = np.flatnonzero(areas)
        assert canonical.stored_slice(int(index)) == k
        axis = canonical.slice_axis
        assert np.flatnonzero(canonical.turn(mask).any(axis=tuple({0, 1, 2} - {axis}))) == [index]


class TestOblique:
    """A tilted volume goes to the nearest axes, and its letters say that it is tilted."""

    @staticmethod
    def turned_by(degrees):
        """A volume stored as LPS, turned about the superior axis."""
        voxels, straight = stored_as("LPS")
        angle = np.radians(degrees)
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        return voxels, Canonical(voxels.shape, Affine(turn @ straight.affine.ras_from_voxel))

    def test_pixels_stay(self):
        """A tilt of 30 degrees leaves right on the right side."""
        voxels, canonical = self.turned_by(30)
        assert np.array_equal(canonical.turn(voxels), in_ras())

    def test_letters(self):
        """Up to 20 degrees one letter says enough; beyond, the second is named after it."""
        assert self.turned_by(15)[1].letters == [("L", "R"), ("P", "A"), ("I", "S")]
        assert self.turned_by(30)[1].letters == [("LP", "RA"), ("PR", "AL"), ("I", "S")]


class TestImage:
    """What the browser gets stands for the image's values."""

    def test_whole_numbers_are_kept(self):
        """Whole numbers that fit arrive as they are, x fastest."""
        voxels, canonical = stored_as("LPS", in_ras() - 50)
        pixels = encode_image(voxels, canonical)
        assert (pixels.slope, pixels.intercept) == (1, 0)
        assert np.array_equal(received(pixels), in_ras() - 50)

    @pytest.mark.parametrize("scale", [1e-5, 0.37, 1e6])
    def test_other_numbers_are_close(self, scale):
        """Others arrive within a 60,000th of their range, and slope and intercept lead back."""
        voxels, canonical = stored_as("RAS", in_ras() * np.float32(scale) + np.float32(scale / 7))
        pixels = encode_image(voxels, canonical)
        back = received(pixels) * pixels.slope + pixels.intercept
        reach = float(np.ptp(voxels))
        assert np.abs(back - voxels).max() < reach / 60_000
        assert (pixels.low, pixels.high) == (voxels.min(), voxels.max())

    def test_broken_voxels_do_not_break_it(self):
        """Voxels that are not numbers become 0; a volume of one value is drawn."""
        voxels, canonical = stored_as("RAS")
        voxels[0, 0, 0], voxels[1, 0, 0] = np.nan, np.inf
        numbers = received(encode_image(voxels, canonical))
        assert numbers[0, 0, 0] == numbers[1, 0, 0] == 0
        same = encode_image(np.full(RAS_SHAPE, 0.25, np.float32), canonical)
        assert same.intercept == 0.25
        assert not received(same).any()

    def test_window_passes_over_background(self):
        """A volume that is mostly air opens on its tissue."""
        image = np.zeros(10_000, dtype=np.float32)
        image[:1000] = np.linspace(1000, 2000, 1000)
        window = default_window(image)
        # 1 % and 99.5 % of the way from 1000 to 2000.
        assert window.level == pytest.approx((1010 + 1995) / 2, abs=1)
        assert window.width == pytest.approx(985, abs=1)


class TestUnpack:
    """A mask from outside is unpacked to its size and not a byte further."""

    def test_comes_back(self):
        """What was packed is unpacked, x fastest."""
        mask = (in_ras() % 3 == 0).astype(np.uint8)
        assert np.array_equal(unpack(pack(mask), RAS_SHAPE), mask)
        assert unpack(pack(mask[:0]), (0, 7, 4)).size == 0

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"", "another size"),
            (b"not gzip at all", "damaged"),
            (gzip.compress(b"\0" * 139), "another size"),
            (gzip.compress(b"\0" * 141), "another size"),
            (gzip.compress(b"\0" * (64 << 20)), "another size"),
            (gzip.compress(b"\0" * 140)[:-9], "another size"),
            (gzip.compress(b"\0" * 140) + b"more", "another size"),
            (gzip.compress(b"\2" * 140), "values other than 0 and 1"),
            (gzip.compress(b"\0" * 140)[:-8] + b"\1" * 8, "another size|damaged"),
        ],
        ids=[
            "nothing",
            "no gzip",
            "a voxel short",
            "a voxel more",
            "a bomb",
            "cut off",
            "something behind",
            "other values",
            "wrong checksum",
        ],
    )
    def test_faults(self, content, why):
        """Cut, enlarged, a bomb, other values, a wrong checksum: each is refused in words."""
        with pytest.raises(DataError, match=why):
            unpack(content, RAS_SHAPE)
