"""Whose privacy a charge uses: cohorts of patients, as tags that tell nothing.

A charge applies to the patients in its cohort, so that two studies over the same patients
compose and studies over different ones do not. What a hospital has spent is what its worst
patient has. A patient is known by keyed hashes of the patient id and of every image: whoever
gets a new pseudonym with the same images, or new images under the same id, is the same
person here, and so is anybody whom a chain of such matches connects. A false match costs
budget, never privacy.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from evenhand.privacy.keys import HospitalKey

__all__ = ["Cohort", "heaviest"]

T = TypeVar("T")

Members = tuple[tuple[str, ...], ...]
"""Patients of a cohort, each as its tags; both sorted."""


@dataclass(frozen=True)
class Cohort:
    """A set of patients as the ledger knows it.

    Attributes:
        members: the tags of each patient.
    """

    members: Members

    @classmethod
    def of(cls, key: HospitalKey, patients: Mapping[str, Iterable[str]]) -> "Cohort":
        """The cohort of patients by id, each with the hashes of the images that are used."""
        rows = (
            sorted({key.tag("patient", name), *(key.tag("image", image) for image in images)})
            for name, images in patients.items()
        )
        return cls(tuple(sorted(tuple(row) for row in rows)))

    @property
    def digest(self) -> str:
        """The cohort's name in the ledger, 32 hex digits."""
        return hashlib.sha256(json.dumps(self.members).encode()).hexdigest()[:32]

    def __len__(self) -> int:
        return len(self.members)


class _Persons:
    """Tags that belong together, by union and find."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, tag: str) -> str:
        root = tag
        while (above := self._parent.setdefault(root, root)) != root:
            root = above
        while (above := self._parent[tag]) != root:
            self._parent[tag] = root
            tag = above
        return root

    def join(self, tags: Sequence[str]) -> None:
        first = self.find(tags[0])
        for tag in tags[1:]:
            self._parent[self.find(tag)] = first


def heaviest(
    cohorts: Mapping[str, Members], charges: Sequence[tuple[str | None, T]]
) -> list[list[T]]:
    """The charges of those patients of whom nobody else has all and more.

    Args:
        cohorts: members by digest.
        charges: cohort digest and whatever was charged; None where it is not known whose it
            is, which counts for everybody.

    Returns:
        One list of charges, in order, for each such patient; patients with the same charges
        are listed once. The dearest patient of all is among them.
    """
    used = {digest for digest, _ in charges if digest is not None}
    persons, seen_in = _Persons(), defaultdict(set)
    for digest in used:
        for tags in cohorts[digest]:
            persons.join(tags)
    for digest in used:
        for tags in cohorts[digest]:
            seen_in[persons.find(tags[0])].add(digest)
    kinds = {frozenset(digests) for digests in seen_in.values()} or {frozenset[str]()}
    largest = [kind for kind in kinds if not any(kind < other for other in kinds)]
    return [
        [what for digest, what in charges if digest is None or digest in kind]
        for kind in sorted(largest, key=sorted)
    ]
