"""Right is right: an asymmetric volume is drawn the radiological way, however it is stored."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from evenhand.geometry import Affine
from evenhand_ui.picture import (
    MARGIN_PX,
    PROPOSED_COLOUR,
    BorderLetters,
    CaseView,
    Overlay,
    Window,
    default_window,
    render_slice,
)

RAS_SHAPE = (5, 7, 4)
ORIENTATIONS = [
    "".join(codes)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*axes)
]

# By convention of radiology: the patient faces the reader (axial, coronal), or looks left.
LETTERS = {
    "axial": BorderLetters(left="R", right="L", top="A", bottom="P"),
    "coronal": BorderLetters(left="R", right="L", top="S", bottom="I"),
    "sagittal": BorderLetters(left="A", right="P", top="S", bottom="I"),
}


def stored_as(codes, volume=None):
    """A volume whose one bright voxel is the most right, anterior and superior, stored as `codes`.

    In RAS every index grows towards the letter, so the voxel is the last one of each axis.
    """
    if volume is None:
        volume = np.zeros(RAS_SHAPE, dtype=np.float32)
        volume[-1, -1, -1] = 100
    ras = nib.Nifti1Image(volume, np.diag([2.0, 3.0, 4.0, 1.0]))
    change = nib.orientations.ornt_transform(
        nib.io_orientation(ras.affine), nib.orientations.axcodes2ornt(codes)
    )
    image = ras.as_reoriented(change)
    assert nib.aff2axcodes(image.affine) == tuple(codes)
    return CaseView(np.asarray(image.dataobj).astype(np.float32), Affine(image.affine))


@pytest.mark.parametrize("codes", ORIENTATIONS)
class TestLaterality:
    """All 48 ways to store a volume: RAS, LAS, LPS, and every flip and turn."""

    def test_right_is_on_the_left(self, codes):
        """The right anterior superior voxel is at the top left of the last slice, nowhere else.

        Axial: right is left, anterior is up. Coronal: right is left, superior is
        up. Sagittal: anterior is left, superior is up. Slices run towards
        superior, anterior and right.
        """
        view = stored_as(codes)
        last = len(view) - 1
        assert view.pixels(last)[0, 0] == 100
        total = sum(view.pixels(index).sum() for index in range(len(view)))
        assert total == 100

    def test_letters_say_so(self, codes):
        """The letters are those of the plane in which the volume is stored."""
        view = stored_as(codes)
        plane = {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal"}.get(
            codes[2], "sagittal"
        )
        assert view.plane == plane
        assert view.letters == LETTERS[plane]

    def test_mask_lies_where_the_image_does(self, codes):
        """A mask is turned with its image: drawn, counted and numbered alike."""
        view = stored_as(codes)
        mask = (view.image > 0).astype(np.uint8)
        last = len(view) - 1
        assert view.mask_pixels(mask, last)[0, 0] == 1
        assert view.areas(mask).tolist() == [0] * last + [1]
        assert mask[:, :, view.voxel_slice(last)].any()


class TestOblique:
    """A tilted volume gets the letters of the nearest axes."""

    def test_letters_and_pixels(self):
        """A tilt of 20 degrees about the superior axis leaves right on the left."""
        straight = stored_as("LPS")
        turn = np.eye(4)
        angle = np.radians(20)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        view = CaseView(straight.image, Affine(turn @ straight.affine.ras_from_voxel))
        assert view.letters == LETTERS["axial"]
        assert view.pixels(len(view) - 1)[0, 0] == 100


def side_by_side(codes):
    """A big axial volume whose right half is bright, stored as `codes`."""
    volume = np.zeros((40, 40, 3), dtype=np.float32)
    volume[20:] = 100
    return stored_as(codes, volume)


WINDOW = Window(level=50, width=100)


class TestRender:
    """What reaches the screen."""

    @pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "RPI"])
    def test_bright_right_half_is_on_the_left(self, codes):
        """In the finished picture the patient's right half is left of the middle."""
        picture = render_slice(side_by_side(codes), 1, WINDOW)
        inner = picture[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
        quarter = inner.shape[1] // 4
        assert inner[:, :quarter].min() == 255
        assert inner[:, -quarter:].max() == 0

    @pytest.mark.parametrize("codes", ["RAS", "LPS"])
    def test_letters_are_drawn_at_their_borders(self, codes):
        """The glyph in the left margin is an R, the one in the right margin an L."""
        picture = render_slice(side_by_side(codes), 1, WINDOW)
        height = picture.shape[0]
        for letter, margin in (("R", picture[:, :MARGIN_PX]), ("L", picture[:, -MARGIN_PX:])):
            blank = Image.new("RGB", (MARGIN_PX, height))
            ImageDraw.Draw(blank).text(
                (MARGIN_PX // 2, height // 2),
                letter,
                font=ImageFont.load_default(size=18),
                fill=(255, 255, 255),
                anchor="mm",
            )
            assert np.array_equal(margin, np.asarray(blank)), f"no {letter} at its border"

    def test_true_to_the_spacing(self):
        """A field of 40 x 80 mm is drawn twice as high as wide, whatever its voxels."""
        affine = Affine(np.diag([1.0, 4.0, 1.0, 1.0]))
        picture = render_slice(
            CaseView(np.ones((40, 20, 1), dtype=np.float32), affine), 0, Window(level=1, width=1)
        )
        height, width = (side - 2 * MARGIN_PX for side in picture.shape[:2])
        assert height == 2 * width

    def test_fill_and_outline(self):
        """A fill colours the inside with its opacity; an outline leaves the inside as it is."""
        view = CaseView(np.zeros((40, 40, 1), dtype=np.float32), Affine(np.eye(4)))
        mask = np.zeros((40, 40, 1), dtype=np.uint8)
        mask[10:30, 10:30] = 1

        def centre(style, opacity):
            overlay = Overlay(mask=mask, colour=PROPOSED_COLOUR, style=style, opacity=opacity)
            picture = render_slice(view, 0, Window(level=50, width=100), [overlay])
            drawn = (picture == PROPOSED_COLOUR).all(axis=2).sum()
            return picture[picture.shape[0] // 2, picture.shape[1] // 2].tolist(), drawn

        inside, filled = centre("fill", 1.0)
        assert inside == list(PROPOSED_COLOUR)
        assert centre("fill", 0.5)[0] == [channel // 2 for channel in PROPOSED_COLOUR]
        inside, outlined = centre("outline", 1.0)
        assert inside == [0, 0, 0]
        assert 0 < outlined < filled / 4

    def test_broken_voxels_do_not_break_the_picture(self):
        """Voxels that are not numbers are drawn black."""
        image = np.full((8, 8, 1), np.nan, dtype=np.float32)
        view = CaseView(image, Affine(np.eye(4)))
        picture = render_slice(view, 0, default_window(image))
        assert picture.dtype == np.uint8


class TestWindow:
    """The first look needs no fiddling."""

    def test_background_does_not_count(self):
        """A volume that is mostly air opens on its tissue."""
        image = np.zeros(10_000, dtype=np.float32)
        image[:1000] = np.linspace(1000, 2000, 1000)
        window = default_window(image)
        # 1 % and 99.5 % of the way from 1000 to 2000.
        assert window.level == pytest.approx((1010 + 1995) / 2, abs=1)
        assert window.width == pytest.approx(985, abs=1)

    def test_flat_volume(self):
        """A volume of one value has a window too, and of positive width."""
        assert default_window(np.ones((3, 3, 3), dtype=np.float32)).width > 0
