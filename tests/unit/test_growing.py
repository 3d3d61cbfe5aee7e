"""Activations that grow: the right numbers, in the order in which somebody waits for them."""

import threading

import numpy as np
import torch

from evenhand.model.growing import GrowingSlices

PATIENCE_S = 120
"""A thread may have to wait for its turn on a crowded machine."""


class Encoder:
    """Ten times the number of the slice; notes what was asked, and can be held up."""

    def __init__(self):
        self.asked = []
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()

    def __call__(self, slices, index):
        """Answer for one slice."""
        (number,) = index.tolist()
        self.asked.append(number)
        self.begun.set()
        assert self.go.wait(PATIENCE_S)
        return np.full((1, 2, 3, 3), 10 * float(slices[number, 0, 0]), dtype=np.float16)


def growing(depth=5, **more):
    """Slices whose pixels are their numbers."""
    encoder = Encoder()
    slices = torch.arange(depth)[:, None, None].expand(depth, 4, 4).float()
    return GrowingSlices(encoder, slices, **more), encoder


def test_each_slice_once_nearest_first():
    """From the slice on the screen outwards; what is there is not computed again."""
    slices, encoder = growing(near=3)
    while not slices.whole:
        slices.grow()
    assert encoder.asked == [3, 2, 4, 1, 0]
    assert slices[1:3][:, 0, 0, 0].tolist() == [10, 20]
    assert slices[:].shape == (5, 2, 3, 3)
    slices.grow()
    assert len(encoder.asked) == 5


def test_who_reads_goes_first():
    """A prompt waits for the slice that is being computed, and for no other."""
    slices, encoder = growing(depth=40)
    encoder.go.clear()

    def fill():
        while not slices.whole:
            slices.grow()

    filler = threading.Thread(target=fill)
    filler.start()
    assert encoder.begun.wait(PATIENCE_S)
    read = []
    reader = threading.Thread(target=lambda: read.append(slices[30:31]))
    reader.start()
    while not slices._waiting:
        assert reader.is_alive()
    encoder.go.set()
    reader.join(PATIENCE_S)
    filler.join(PATIENCE_S)
    assert encoder.asked[:2] == [0, 30]
    assert sorted(encoder.asked) == list(range(40))
    assert read[0][0, 0, 0, 0] == 300
