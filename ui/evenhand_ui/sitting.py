"""What one reader has looked at in one case: slices seen, and the time it took."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["PAUSE_LIMIT_S", "Sitting"]

PAUSE_LIMIT_S = 120.0
"""A pause between two actions counts at most this long: nobody reads a slice through lunch."""


@dataclass
class Sitting:
    """One reader at one case, from opening it to the decision. Slices in display order.

    Accepting unseen what a model proposes is the danger of review (automation
    bias), so `missing` must be empty before a mask can be accepted.
    """

    must_see: frozenset[int]
    seen: set[int] = field(default_factory=set)
    seconds: float = 0.0
    correction: tuple[str, NDArray[np.uint8]] | None = None
    """The uploaded mask that passed its checks, with the upload's id."""
    _last_s: float | None = None

    @classmethod
    def at(cls, areas: NDArray[np.intp]) -> "Sitting":
        """Sit down at a case whose proposed mask has these voxels in each slice.

        All slices with proposed tumour must be seen; where none is proposed, all
        slices, because a tumour may have been missed in any.
        """
        indices = np.flatnonzero(areas) if areas.any() else np.arange(len(areas))
        return cls(must_see=frozenset(int(index) for index in indices))

    @property
    def missing(self) -> list[int]:
        """Slices that must still be seen before the mask can be accepted."""
        return sorted(self.must_see - self.seen)

    def look(self, index: int, now_s: float, *, mask_shown: bool) -> None:
        """Note that slice `index` is shown at the time `now_s` of a monotonic clock.

        It counts as seen only with the mask on it: the mask is what is judged.
        """
        if self._last_s is not None:
            self.seconds += min(now_s - self._last_s, PAUSE_LIMIT_S)
        self._last_s = now_s
        if mask_shown:
            self.seen.add(index)

    def leave(self) -> None:
        """Stop the clock until the case is looked at again."""
        self._last_s = None
