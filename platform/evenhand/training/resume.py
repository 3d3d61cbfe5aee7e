"""A long training that goes on after a stop from its last kept epoch, equal bit for bit.

Kept are the adapter, what the optimiser remembers, both generators of random numbers and the losses
so far. On a GPU the numbers of dropout are the device's own and are not kept: a training that was
stopped there ends as good, not equal.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn, optim

from evenhand.errors import AdapterError, DataError
from evenhand.model.adapted import AdaptedModel
from evenhand.training.moments import moments_of, read_moments, remember, write_moments

__all__ = ["KeptTraining"]

_ADAPTER, _MOMENTS = "adapter/", "moments/"
_ALWAYS = frozenset({"generator", "dropout", "losses"})


@dataclass
class KeptTraining:
    """Where one training is kept, and how often.

    Attributes:
        path: of the file, for this training alone; None: it is kept nowhere.
        every_s: least time between two epochs that are kept.
    """

    path: Path | None
    every_s: float = 10.0
    _latest: float = field(default_factory=time.monotonic)

    @property
    def steps(self) -> int:
        """Steps that are kept; 0 where there is nothing.

        Raises:
            DataError: the file is damaged.
        """
        kept = self._read()
        return len(kept["losses"]) if kept else 0

    def load(
        self,
        model: AdaptedModel,
        optimiser: optim.AdamW,
        named: Mapping[str, nn.Parameter],
        generator: torch.Generator,
    ) -> list[float]:
        """Go on from what was kept; returns the losses so far, none where nothing was.

        Raises:
            DataError: the file is damaged, or of another model.
        """
        kept = self._read()
        if kept is None:
            return []
        try:
            model.load_adapter(_part(kept, _ADAPTER))
            remember(optimiser, named, _part(kept, _MOMENTS))
        except (AdapterError, DataError):
            raise DataError(
                f"The training that is kept in '{self.path}' is of another model. Delete that file "
                "and run again: the training begins anew."
            ) from None
        generator.set_state(kept["generator"])
        torch.set_rng_state(kept["dropout"])
        return [float(loss) for loss in kept["losses"]]

    def keep(
        self,
        model: AdaptedModel,
        optimiser: optim.AdamW,
        named: Mapping[str, nn.Parameter],
        generator: torch.Generator,
        losses: list[float],
    ) -> None:
        """Keep the training after an epoch, if it is time.

        Raises:
            ResourceError: the disk is full.
        """
        if self.path is None or time.monotonic() - self._latest < self.every_s:
            return
        moments = moments_of(optimiser, named)
        write_moments(
            self.path,
            {
                **{f"{_ADAPTER}{name}": one for name, one in model.adapter_state().items()},
                **{f"{_MOMENTS}{name}": one for name, one in moments.items()},
                "generator": generator.get_state(),
                "dropout": torch.get_rng_state(),
                "losses": torch.tensor(losses, dtype=torch.float64),
            },
        )
        self._latest = time.monotonic()

    def _read(self) -> dict[str, Tensor] | None:
        kept = read_moments(self.path) if self.path is not None else None
        if kept is not None and not kept.keys() >= _ALWAYS:
            raise DataError(
                f"'{self.path}' is no training that was kept. Delete that file and run again: the "
                "training begins anew."
            )
        return kept


def _part(kept: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: one for name, one in kept.items() if name.startswith(prefix)}
