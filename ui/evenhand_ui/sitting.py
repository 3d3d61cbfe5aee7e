"""What one reader has looked at in one case: slices seen, and the time it took."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["HEAD_START", "PAUSE_LIMIT_S", "QUICKEST_S", "Sitting"]

PAUSE_LIMIT_S = 120.0
"""A pause between two reports counts at most this long: nobody reads a slice through lunch."""

QUICKEST_S = 0.04
"""Nobody sees slices quicker than one in this time, whatever a browser reports."""

HEAD_START = 3
"""Slices that may be reported beyond that, as the three planes come up together."""


@dataclass
class Sitting:
    """One reader at one case, from opening it to the decision. Slices in viewer order.

    Accepting unseen what a model proposes is the danger of review (automation
    bias), so `missing` must be empty before a mask can be accepted. Reports come
    from the browser and are judged here.
    """

    must_see: frozenset[int]
    depth: int
    seen: set[int] = field(default_factory=set)
    seconds: float = 0.0
    _last_s: float | None = None

    @classmethod
    def at(
        cls, areas: NDArray[np.intp], *, seen: Iterable[int] = (), seconds: float = 0.0
    ) -> "Sitting":
        """Sit down at a case whose proposed mask has these voxels in each slice.

        All slices with proposed tumour must be seen; where none is proposed, all
        slices, because a tumour may have been missed in any. `seen` and `seconds`
        are those of an earlier sitting that goes on.
        """
        indices = np.flatnonzero(areas) if areas.any() else np.arange(len(areas))
        must_see = frozenset(int(index) for index in indices)
        return cls(must_see=must_see, depth=len(areas), seen=set(seen), seconds=seconds)

    @property
    def missing(self) -> list[int]:
        """Slices that must still be seen before the mask can be accepted."""
        return sorted(self.must_see - self.seen)

    def report(self, shown: Iterable[int], now_s: float) -> None:
        """Note which slices were shown with the mask on them, up to a time of a monotonic clock.

        Slices that are not there do not count, nor more of them than can have
        been looked at since the report before; the rest may be reported again.
        """
        elapsed = 0.0 if self._last_s is None else min(now_s - self._last_s, PAUSE_LIMIT_S)
        self.seconds += elapsed
        self._last_s = now_s
        new = [index for index in dict.fromkeys(shown) if index not in self.seen]
        possible = HEAD_START + int(elapsed / QUICKEST_S)
        self.seen.update([index for index in new if 0 <= index < self.depth][:possible])

    def leave(self) -> None:
        """Stop the clock until the case is looked at again."""
        self._last_s = None
