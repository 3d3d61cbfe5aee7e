"""What the head is told while it learns: shares, boxes around the mask, bent neighbours."""

import pytest
import torch
from torch.nn import functional as F

from evenhand.config import TrainingConfig
from evenhand.training.hints import draw_hints, with_bent_outline

SIDE = 48


def masks_of(count):
    """Discs of different sizes, off the centre."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    radii = 5 + torch.arange(count) % 9
    discs = (y - 20) ** 2 + (x - 27) ** 2 < radii[:, None, None] ** 2
    return discs.float()


def hints_for(masks, beside, jitter=0, **shares):
    """One draw."""
    config = TrainingConfig(**shares)
    generator = torch.Generator().manual_seed(3)
    return draw_hints(masks, beside, config, generator, jitter=jitter)


def test_shares_are_kept_and_no_slice_gets_both():
    """A third each: a box, a mask, nothing."""
    masks = masks_of(900)
    hints = hints_for(masks, masks[:, None], box_hints=1 / 3, mask_hints=1 / 3)
    boxed, carried = hints.flatten(2).any(2).T
    assert not (boxed & carried).any()
    for share in (boxed, carried, ~boxed & ~carried):
        assert share.float().mean() == pytest.approx(1 / 3, abs=0.06)


def test_a_box_holds_its_mask():
    """Tight without jitter: the mask touches all four sides."""
    masks = masks_of(20)
    hints = hints_for(masks, masks[:, None], box_hints=1, mask_hints=0)[:, 0]
    assert (hints >= masks).all()
    for axis in (1, 2):
        assert torch.equal(hints.amax(axis), masks.amax(axis))


def test_a_jittered_box_stays_near():
    """No side is further from the mask's than the jitter."""
    masks = masks_of(60)
    grown = F.max_pool2d(masks[:, None], 7, stride=1, padding=3)[:, 0]
    hints = hints_for(masks, masks[:, None], jitter=3, box_hints=1, mask_hints=0)[:, 0]
    for axis in (1, 2):
        assert (hints.amax(axis) <= grown.amax(axis)).all()
    assert len({int(one.sum()) for one in hints}) > 9


def test_where_there_is_no_tumour_there_is_no_box():
    """A slice without tumour is told its neighbour's mask or nothing."""
    empty = torch.zeros(30, SIDE, SIDE)
    hints = hints_for(empty, masks_of(30)[:, None], box_hints=0.5, mask_hints=0.5)
    assert not hints[:, 0].any()
    assert hints[:, 1].any()


def test_an_outline_is_bent_and_not_torn():
    """It differs at the border alone, grows here and shrinks there; nothing comes from nothing."""
    masks = masks_of(80)[:, None]
    bent = with_bent_outline(masks, torch.Generator().manual_seed(0))
    assert set(bent.unique().tolist()) == {0, 1}
    inner = 1 - F.max_pool2d(1 - masks, 9, stride=1, padding=4)
    outer = F.max_pool2d(masks, 9, stride=1, padding=4)
    assert (bent >= inner).float().mean() > 0.999
    assert (bent <= outer).float().mean() > 0.999
    assert ((bent > masks).any() and (bent < masks).any()).item()
    assert not with_bent_outline(torch.zeros(3, 1, SIDE, SIDE), torch.Generator()).any()
