"""From a volume to squares and back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from evenhand.model.preprocessing import Letterbox, display_range, with_neighbours


class TestDisplayRange:
    """Volumes become fractions of what a reader would be shown."""

    def test_percentiles_of_what_is_above_zero(self):
        """Background does not count; 0.5% of the body at each end is clipped."""
        volume = np.zeros((20, 30, 4), np.float32)
        volume[:, :, 1] = np.arange(1, 601).reshape(20, 30)
        inside = np.arange(1, 601)
        low, high = np.percentile(inside, 0.5), np.percentile(inside, 99.5)
        shown = display_range(volume)
        assert shown.shape == (4, 20, 30)
        assert shown.dtype == torch.float32
        wanted = np.clip((inside - low) / (high - low), 0, 1).reshape(20, 30)
        np.testing.assert_allclose(shown[1].numpy(), wanted, atol=1e-6)
        assert (shown[[0, 2, 3]] == 0).all()

    def test_slices_keep_their_axes(self):
        """(i, j, k) becomes (k, i, j): rows stay rows."""
        volume = np.zeros((3, 5, 2), np.float32)
        volume[2, 4, 1] = 100
        volume[0, 0, 0] = 1
        assert display_range(volume)[1, 2, 4] == 1

    @pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
    def test_a_volume_of_one_value_stays_finite(self, value):
        """Constant and empty volumes give numbers between 0 and 1, no division by zero."""
        shown = display_range(np.full((4, 4, 3), value, np.float32))
        assert shown.isfinite().all()
        assert (shown >= 0).all()
        assert (shown <= 1).all()

    def test_scanner_gain_does_not_matter(self):
        """Twice the signal looks the same."""
        volume = np.random.default_rng(0).gamma(2.0, 50.0, (8, 8, 3)).astype(np.float32)
        torch.testing.assert_close(display_range(volume), display_range(2 * volume))


class TestNeighbours:
    """Channels are z-1, z and z+1."""

    def test_ends_repeat_themselves(self):
        """The first slice has no slice before it, the last none after it."""
        slices = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 2, 3)
        around = with_neighbours(slices, torch.tensor([0, 2, 3]))
        assert around.shape == (3, 3, 2, 3)
        assert around[:, :, 0, 0].tolist() == [[0, 0, 1], [1, 2, 3], [2, 3, 3]]

    def test_each_sequence_keeps_its_three_together(self):
        """z-1, z, z+1 of the first sequence, then of the second."""
        slices = torch.arange(8.0).view(4, 2, 1, 1)
        around = with_neighbours(slices, torch.tensor([1]))
        assert around.flatten().tolist() == [0, 2, 4, 1, 3, 5]

    def test_a_single_slice_is_its_own_neighbour(self):
        """A volume of one slice works."""
        assert with_neighbours(torch.ones(1, 1, 2, 2), torch.tensor([0])).shape == (1, 3, 2, 2)


def waves(height, width):
    """A smooth image, so that resampling costs little."""
    y = torch.linspace(0, 3, height)[:, None]
    x = torch.linspace(0, 3, width)[None]
    return torch.sin(y) * torch.cos(x)


class TestLetterbox:
    """Slices fit into a square and come back."""

    @pytest.mark.parametrize(
        ("height", "width", "size"),
        [(64, 64, 64), (40, 40, 128), (96, 64, 128), (50, 128, 64), (33, 57, 128), (200, 90, 64)],
    )
    def test_there_and_back(self, height, width, size):
        """Inverting what was applied gives the slice again, in place and in value."""
        image = waves(height, width)
        box = Letterbox(height, width, size)
        square = box.apply(image[None, None])
        assert square.shape == (1, 1, size, size)
        back = box.invert(square[:, 0])[0]
        assert back.shape == (height, width)
        tolerance = 0 if (height, width) == (size, size) else 3.0 / min(height, width, size)
        assert (back - image).abs().max() <= tolerance

    def test_padding_is_empty_and_at_the_end(self):
        """The longer side fills the square; below or to the right of the slice is zero."""
        square = Letterbox(32, 64, 128).apply(torch.ones(1, 1, 32, 64))[0, 0]
        assert torch.equal(square[:64], torch.ones(64, 128))
        assert torch.equal(square[64:], torch.zeros(64, 128))

    @settings(max_examples=30)
    @given(
        height=st.integers(20, 160),
        width=st.integers(20, 160),
        size=st.sampled_from([64, 128, 192]),
        shrink=st.sampled_from([1, 2, 4]),
    )
    def test_coarser_grids_lie_over_the_same_square(self, height, width, size, shrink):
        """A decoder's grid covers the square whatever its step: here x + y, in slice pixels.

        The oracle is the plane itself, evaluated at the centres of the slice's pixels.
        """
        box = Letterbox(height, width, size)
        centres = (torch.arange(size // shrink) + 0.5) * shrink / box.scale
        back = box.invert((centres[:, None] + centres[None])[None])[0]
        wanted = (torch.arange(height) + 0.5)[:, None] + (torch.arange(width) + 0.5)[None]
        # Half a cell of the grid is lost to rounding at each border, and to its clamping.
        assert (back - wanted).abs().max() <= 2 * shrink / box.scale + 1

    def test_boxes_move_with_the_pixels(self):
        """A box around a bright patch is around it in the square too."""
        image = torch.zeros(1, 1, 30, 60)
        image[..., 10:20, 30:50] = 1
        box = Letterbox(30, 60, 120)
        square = box.apply(image)[0, 0]
        x0, y0, x1, y1 = box.boxes(torch.tensor([[30.0, 10.0, 50.0, 20.0]]))[0].int().tolist()
        assert (x0, y0, x1, y1) == (60, 20, 100, 40)
        assert (square[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] == 1).all()
        outside = square.clone()
        outside[y0 - 1 : y1 + 1, x0 - 1 : x1 + 1] = 0
        assert (outside == 0).all()

    def test_slices_do_not_mix(self):
        """Each slice is resized alone."""
        images = torch.rand(3, 1, 20, 30, generator=torch.Generator().manual_seed(0))
        box = Letterbox(20, 30, 64)
        assert torch.equal(box.apply(images)[1], box.apply(images[1:2])[0])


def test_resampling_is_antialiased():
    """Halving a checkerboard gives grey, not one of its colours."""
    board = (torch.arange(64)[:, None] + torch.arange(64)[None]) % 2
    half = Letterbox(64, 64, 32).apply(board[None, None].float())[0, 0]
    assert (half[2:-2, 2:-2] - 0.5).abs().max() < 0.1
    assert F.interpolate(board[None, None].float(), (32, 32)).std() == 0  # what aliasing gives
