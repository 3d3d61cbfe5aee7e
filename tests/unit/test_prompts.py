"""Boxes from reference masks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from evenhand.model.prompts import jittered, tight_boxes


def slow_box(mask):
    """Pixel by pixel."""
    inside = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    if not inside:
        return None
    xs, ys = zip(*inside, strict=True)
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


@given(
    arrays(
        np.uint8,
        array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7),
        elements=st.sampled_from([0, 0, 0, 0, 1, 2]),
    )
)
def test_tight_boxes_equal_a_slow_search(masks):
    """The smallest box of each slice, x along columns; NaN in all four where there is none."""
    boxes = tight_boxes(torch.from_numpy(masks))
    assert boxes.shape == (len(masks), 4)
    for mask, box in zip(masks, boxes, strict=True):
        wanted = slow_box(mask)
        if wanted is None:
            assert box.isnan().all()
        else:
            assert box.tolist() == wanted


@given(
    corners=st.lists(
        st.tuples(st.integers(0, 63), st.integers(0, 63), st.integers(1, 64), st.integers(1, 64)),
        max_size=8,
    ),
    by=st.floats(0, 40),
    seed=st.integers(0, 1000),
)
def test_jittered_boxes_are_boxes_within_limits(corners, by, seed):
    """However small the box and large the shift: inside the square, never empty or turned."""
    boxes = torch.tensor(
        [[x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)] for x0, y0, x1, y1 in corners]
    ).view(-1, 4)
    generator = torch.Generator().manual_seed(seed)
    moved = jittered(boxes.float(), by=by, limit=64, generator=generator)
    assert moved.shape == boxes.shape
    assert (moved >= 0).all()
    assert (moved <= 64).all()
    assert (moved[:, 2:] - moved[:, :2] >= 1).all()


def test_jitter_stays_within_its_distance_and_uses_all_of_it():
    """Each side moves by whole pixels, from -3 to 3, each about equally often."""
    boxes = torch.tensor([[20.0, 20.0, 40.0, 40.0]]).repeat(7000, 1)
    moved = jittered(boxes, by=3.9, limit=64, generator=torch.Generator().manual_seed(0)) - boxes
    for side in range(4):
        values, counts = moved[:, side].unique(return_counts=True)
        assert values.tolist() == [-3, -2, -1, 0, 1, 2, 3]
        assert counts.min() > 850
        assert counts.max() < 1150
    assert torch.corrcoef(moved.T).fill_diagonal_(0).abs().max() < 0.06  # sides move separately


def test_no_jitter_is_no_change():
    """By 0 pixels: the same boxes."""
    boxes = torch.tensor([[3.0, 4.0, 9.0, 20.0]])
    assert torch.equal(jittered(boxes, by=0, limit=32, generator=torch.Generator()), boxes)


@pytest.mark.parametrize("seed", [0, 1])
def test_jitter_repeats_with_its_seed(seed):
    """Evaluation draws the same boxes every time."""
    boxes = torch.full((5, 4), 30.0)
    first, second = (
        jittered(boxes, by=5, limit=64, generator=torch.Generator().manual_seed(seed))
        for _ in range(2)
    )
    assert torch.equal(first, second)
