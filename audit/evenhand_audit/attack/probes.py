"""What is observed of a private step from outside: who was drawn, and what was released.

The probes know the step by its interface alone, so they see a wrong one as they see ours.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evenhand.privacy.step import PrivateStep

__all__ = ["SHAPES", "Person", "Probe", "draws", "equal_seeds"]

SHAPES = ((24, 12), (12,), (12, 1), (1,), (3, 3, 3))
"""Tensors of the probed model: matrices, a bias, one single number, a kernel."""


@dataclass(frozen=True, eq=False)
class Person:
    """A probe's patient: each slice pulls the model along a direction of its own.

    Attributes:
        pulls: (slices, numbers of the model); the gradient of a slice's loss.
    """

    pulls: Tensor

    def __len__(self) -> int:
        """Slices."""
        return len(self.pulls)


class Probe:
    """A step on a small model, watched.

    Args:
        step_type: the step under test, a `PrivateStep` or what claims to be one.
        noise_multiplier: of the step; 0: none, so that sums are seen exactly.
        clip_norm: of the step.
    """

    def __init__(
        self, step_type: type[PrivateStep], *, noise_multiplier: float, clip_norm: float = 1.0
    ) -> None:
        self._tensors = [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in SHAPES]
        self._step = step_type(
            self._tensors,
            torch.optim.SGD(self._tensors, lr=1.0),
            noise_multiplier=noise_multiplier,
            clip_norm=clip_norm,
            expected_patients=1.0,
        )
        self.slices_at_most = 8

    @staticmethod
    def size() -> int:
        """Numbers of the model."""
        return sum(math.prod(shape) for shape in SHAPES)

    @staticmethod
    def parts() -> list[slice]:
        """Where each tensor lies among the numbers of the model."""
        sizes = [math.prod(shape) for shape in SHAPES]
        return [slice(sum(sizes[:n]), sum(sizes[: n + 1])) for n in range(len(sizes))]

    def release(self, people: Sequence[Person], *, rate: float = 1.0) -> Tensor:
        """What one step lets out, (numbers of the model,): the noised sum."""
        self.drawn(people, rate=rate)
        moved = -torch.cat([each.detach().reshape(-1) for each in self._tensors]).clone()
        with torch.no_grad():
            for each in self._tensors:
                each.zero_()
        return moved

    def drawn(self, people: Sequence[Person], *, rate: float) -> list[int]:
        """Step once; return the places in `people` of those whose slices were used."""
        seen: set[int] = set()
        place = {id(person): number for number, person in enumerate(people)}

        def draw(person: Person, _: int) -> list[Tensor]:
            seen.add(place[id(person)])
            return list(person.pulls)

        self._step.sampled(
            people, rate=rate, slices_at_most=self.slices_at_most, draw=draw, loss=self._loss
        )
        return sorted(seen)

    def _loss(self, slices: Sequence[Tensor]) -> Tensor:
        numbers = torch.cat([each.reshape(-1) for each in self._tensors])
        return torch.stack([pull @ numbers for pull in slices]).mean()


def draws(
    step_type: type[PrivateStep], *, patients: int, rate: float, steps: int
) -> NDArray[np.bool_]:
    """Who was drawn, (steps, patients)."""
    people = [Person(torch.ones(1, Probe.size(), dtype=torch.float64)) for _ in range(patients)]
    probe = Probe(step_type, noise_multiplier=1.0)
    table = np.zeros((steps, patients), dtype=np.bool_)
    for row in table:
        row[probe.drawn(people, rate=rate)] = True
    return table


@contextmanager
def equal_seeds() -> Iterator[Callable[[], None]]:
    """Give a function that sets every seed there is to one value; leave all as they were."""
    own, old = random.getstate(), np.random.get_state()  # noqa: NPY002 - the one that bugs use

    def seed() -> None:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)

    try:
        with torch.random.fork_rng(devices=[]):
            yield seed
    finally:
        random.setstate(own)
        np.random.set_state(old)  # noqa: NPY002
