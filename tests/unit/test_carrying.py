"""A mask carried on to neighbouring slices: how far, in which order, and when it ends."""

import types

import numpy as np
import pytest
import torch

from evenhand import carrying
from evenhand.carrying import carry_on
from evenhand.model.preprocessing import Letterbox
from evenhand.predict import OpenCase

SIDE, DEPTH = 32, 12


def ball(slices=range(3, 9)):
    """A block (i, j, k) that is widest in its middle, on some slices."""
    mask = np.zeros((SIDE, SIDE, DEPTH), dtype=np.uint8)
    middle = (slices[0] + slices[-1]) / 2
    for k in slices:
        half = round(7 - abs(k - middle))
        mask[16 - half : 16 + half, 12 - half : 12 + half, k] = 1
    return mask


def case_of(image):
    """A case whose head's square is the slice itself; image (i, j, k) in shares of the range."""
    slices = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[:, None])).float()
    return OpenCase(slices, np.zeros((DEPTH, 4, 8, 8), np.float16), Letterbox(SIDE, SIDE, SIDE))


@pytest.fixture
def asked(monkeypatch):
    """A decoder that answers with what is in the box it is given; boxes are noted by slice."""
    noted = {}

    def answer(_model, _case, prompt):
        x0, y0, x1, y1 = prompt.box
        found = np.zeros((SIDE, SIDE), dtype=np.uint8)
        found[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = 1
        noted[prompt.index] = prompt.box
        truth = noted.get("truth")
        return found if truth is None else found & truth[:, :, prompt.index]

    monkeypatch.setattr(carrying, "predict_prompt", answer)
    return noted


def test_follows_a_lesion_to_its_ends(asked):
    """Nearest first, up and down in turns; past the last slice of the lesion nothing is said."""
    truth = asked["truth"] = ball()
    found = dict(carry_on(None, case_of(truth * 0.5), truth[:, :, 5], 5))
    assert list(found) == [6, 4, 7, 3, 8]
    for k, mask in found.items():
        assert np.array_equal(mask, truth[:, :, k]), k


def test_ends_where_the_picture_ends(asked):
    """A decoder that finds something in any box is not believed where nothing stands out there."""
    truth = asked["truth"] = np.repeat(ball()[:, :, 5:6], DEPTH, axis=2)
    image = np.full(truth.shape, 0.4)
    image[:, :, 4:8] += 0.3 * truth[:, :, 4:8]
    assert sorted(dict(carry_on(None, case_of(image), truth[:, :, 5], 5))) == [4, 6, 7]
    # A dark lesion likewise.
    assert sorted(dict(carry_on(None, case_of(1 - image), truth[:, :, 5], 5))) == [4, 6, 7]
    assert 10 not in asked


def test_without_contrast_shape_decides(asked):
    """Where the first mask does not stand out, the picture says nothing: the volume's ends do."""
    even = np.full((SIDE, SIDE, DEPTH), 0.5, dtype=np.float32)
    found = dict(carry_on(None, case_of(even), ball()[:, :, 5], 5))
    assert sorted(found) == [k for k in range(DEPTH) if k != 5]


@pytest.mark.parametrize("change", ["elsewhere", "larger", "smaller"])
def test_ends_where_something_else_is_found(asked, change):
    """Another place, much more or much less is another thing."""
    truth = ball()
    other = np.zeros_like(truth)
    for k in range(DEPTH):
        grown = {"elsewhere": (0, 3, 0, 32), "larger": (0, 32, 0, 32), "smaller": (15, 17, 11, 13)}
        i0, i1, j0, j1 = grown[change]
        other[i0:i1, j0:j1, k] = 1
    other[:, :, 6] = truth[:, :, 6]
    asked["truth"] = other
    even = case_of(np.full((SIDE, SIDE, DEPTH), 0.5, dtype=np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carrying, "_GROWTH", 3.0)  # so that the box does not hide it
        assert list(dict(carry_on(None, even, truth[:, :, 5], 5))) == [6]


def test_parts_beside_it_are_left_out(asked):
    """What the decoder finds in a corner of the box, apart from the lesion, is not carried on."""
    truth = ball()
    crumbs = truth.copy()
    crumbs[8, 10:14, 6] = 1
    asked["truth"] = crumbs
    found = dict(carry_on(None, case_of(truth * 0.5), truth[:, :, 5], 5))
    assert np.array_equal(found[6], truth[:, :, 6])


def test_two_lesions_of_a_slice_go_their_own_ways(asked):
    """Each has its own box and its own end."""
    short, long = np.zeros((2, SIDE, SIDE, DEPTH), dtype=np.uint8)
    short[2:8, 2:8, 4:7] = 1
    long[20:28, 20:28, 2:9] = 1
    truth = asked["truth"] = short + long
    found = {}
    for k, mask in carry_on(None, case_of(truth * 0.5), truth[:, :, 5], 5):
        found[k] = found.get(k, 0) + mask
    assert sorted(found) == [2, 3, 4, 6, 7, 8]
    for k, mask in found.items():
        assert np.array_equal(mask, truth[:, :, k]), k


def test_box_lies_around_the_mask_and_in_the_slice(asked):
    """The box is a tenth of its sides larger on each, in x y order, and ends with the slice."""
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[0:10, 8:28] = 1
    next(carry_on(None, case_of(np.zeros((SIDE, SIDE, DEPTH))), mask, 5))
    assert asked[6] == (6, 0, 30, 11)


def test_only_what_is_asked_for_is_worked_out(asked):
    """Who stops asking stops the model."""
    further = carry_on(None, case_of(np.zeros((SIDE, SIDE, DEPTH))), ball()[:, :, 5], 5)
    next(further)
    assert set(asked) == {6}


def test_a_head_with_hints_is_told_the_mask_before():
    """The hint is the mask of the slice before, in the head's square; nothing found is the end."""
    told = []

    def propose(slices, _hidden, hints):
        told.append((float(slices[0, 1, 0, 0]), hints[0, 1].numpy().copy()))
        carried = hints[:, 1].clone()
        carried[:, :, 12:] = 0
        rows = torch.nonzero(carried[0].any(dim=1))
        carried[0, rows[0] if len(rows) else 0] = 0  # one row less each time
        return carried * 20 - 10

    model = types.SimpleNamespace(propose=propose, temperature=1.0)
    image = np.broadcast_to(np.arange(DEPTH, dtype=np.float32), (SIDE, SIDE, DEPTH))
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[10:13, 8:16] = 1
    found = carry_on(model, case_of(image), mask, 5, by_head=True)
    assert [(k, int(one.sum())) for k, one in found] == [(6, 8), (4, 8), (7, 4), (3, 4)]
    assert told[0][0] == 6
    assert np.array_equal(told[0][1], mask)
