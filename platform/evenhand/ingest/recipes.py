"""What every kind of source becomes: recipes, each of which can make one case.

A recipe is small and can be sent to another process; voxels are read when the
case is made. Its `label` is a number, because names of files and folders at a
hospital hold names of people.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from evenhand.cases.records import Patient
from evenhand.errors import DataError
from evenhand.geometry import Affine

__all__ = ["Content", "Finding", "Recipe", "SourcePlan", "sort_out"]


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a recipe makes: float32 images and a uint8 mask (i, j, k) on one grid.

    `labels` names the values 1, 2, ... of a mask with several; empty: it holds 0 and 1.

    `acquisition` and `evidence` go into the store with the case; neither holds
    an identifier.
    """

    affine: Affine
    images: Mapping[str, NDArray[np.float32]]
    mask: NDArray[np.uint8] | None
    acquisition: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    evidence: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    labels: tuple[str, ...] = ()


class Recipe(Protocol):
    """One case that can be made."""

    @property
    def label(self) -> str:
        """What reports call the case, such as "case 3"."""
        ...

    @property
    def case_id(self) -> str:
        """Its name in the store."""
        ...

    @property
    def patient(self) -> Patient:
        """Whose it is."""
        ...

    @property
    def has_mask(self) -> bool:
        """Whether a reference mask comes with it."""
        ...

    def fingerprint(self) -> str:
        """Say what the case is made from: equal only if it would be stored equal.

        Raises:
            DataError: a file is missing.
        """
        ...

    def read(self) -> Content:
        """Read and check the voxels.

        Raises:
            DataError: something is not what it should be; names no file.
        """
        ...


@dataclass(frozen=True)
class Finding:
    """Something that was judged: `what` (numbered), whether it is `taken`, and why."""

    what: str
    taken: bool
    why: str


@dataclass(frozen=True, kw_only=True)
class SourcePlan:
    """What an ingest would do: the recipes, and everything that was judged on the way.

    `kind` names the source for people; `notes` hold for all cases together.
    `names` maps numbered labels to what they stand for. It holds identifiers:
    it is written only where the user asks for it.
    """

    kind: str
    recipes: tuple[Recipe, ...]
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


Entry = TypeVar("Entry")


def sort_out(
    entries: Iterable[tuple[str, Entry]], make: Callable[[str, Entry], Recipe]
) -> tuple[tuple[Recipe, ...], tuple[Finding, ...]]:
    """Make a recipe of each labelled entry; where that raises DataError, a finding."""
    recipes, findings = [], []
    for label, entry in entries:
        try:
            recipes.append(make(label, entry))
        except DataError as error:
            findings.append(Finding(label, taken=False, why=str(error)))
    return tuple(recipes), tuple(findings)
