"""How updates are put together, by name (`federation.strategy`).

| name | what | source |
|---|---|---|
| fedavg | mean, weighted by patients | McMahan 2017 |
| fedprox | the same; hospitals are held to the common adapter while they train | Li 2020 |
| fedadam, fedyogi | the mean as a gradient for an optimiser at the coordinator | Reddi 2021 |
| scaffold | the mean; each hospital steers against its own drift | Mishchenko 2022 (Scaffnew) |
| trimmed-mean | for each number the mean without its lowest and highest | Yin 2018 |
| krum | mean of the updates that lie closest together | Blanchard 2017 |
| qfedavg | hospitals with a larger loss weigh more: loss to the power of q | Li 2020 (q-FFL) |
| tilted | the same: e to the power of t x loss; the larger t, the nearer to minimax | Li 2021 |

Each is Flower's own class (flwr 1.41), given the answers that were checked, in the order of
hospital names, with their tensors in the order of the common adapter: some of Flower's classes
go by order and not by name. What an optimiser remembers is written beside the checkpoint, so a
run that was stopped goes on bit for bit.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import (
    FedAdam,
    FedAvg,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    MultiKrum,
    QFedAvg,
)
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from evenhand.config import FederationConfig
from evenhand.errors import FederationError, ResourceError

__all__ = ["Combiner", "combiner_of"]

_WEIGHT = "patients"
_LOSS = "first_loss"
"""Of the common adapter on a hospital's patients, before it trained: what fair weights go by."""

_FULL_STEP = 1e6
"""q-FedAvg's 1 / L. The paper bounds the step by L and the squared norm of an update, which it
takes for a gradient. An update of AdamW is none, and its norm of several would shrink the step to
a few percent. With a small L updates are weighed by loss to the power of q, and nothing else."""

_KEPT = ("m_t", "v_t")
"""What Flower's adaptive strategies remember from round to round."""


class Combiner:
    """One way of putting updates together, and what it remembers.

    Args:
        strategy: Flower's class, made.
        figures: of a hospital's answer, that the strategy reads; all have to be there.
        poisoned: hospitals whose updates may be anything.
        tilt: patients weigh times e to the power of this and their hospital's loss; 0: alike.
    """

    def __init__(
        self,
        strategy: Any,
        figures: Sequence[str] = (_WEIGHT,),
        *,
        poisoned: int = 0,
        tilt: float = 0.0,
    ) -> None:
        self._strategy = strategy
        self._tilt = tilt
        self._figures = tuple(figures)
        self._poisoned = poisoned

    def combine(
        self, number: int, before: ArrayRecord, answers: Sequence[Message]
    ) -> ArrayRecord | None:
        """The common adapter after round `number`.

        Args:
            number: of the round in the whole run, from 1.
            before: the adapter that was sent out.
            answers: checked ones, in the order of hospital names.

        Raises:
            FederationError: a figure that the strategy needs did not come.
        """
        for answer in answers:
            figures = answer.content["metrics"]
            lacking = [name for name in self._figures if name not in figures]
            if lacking:
                raise FederationError(
                    f"This strategy needs the figure {lacking[0]} of every hospital, and one did "
                    "not send it. Its site policy may keep it back (leaves.figures); choose "
                    "another federation.strategy."
                )
            answer.content["metrics"] = MetricRecord(
                {name: figures[name] for name in self._figures}
            )
            answer.content["arrays"] = ArrayRecord(
                {name: answer.content["arrays"][name] for name in before}
            )
        if self._tilt:
            _weigh_tilted(answers, self._tilt)
        self._prepare(before, len(answers))
        arrays, _ = self._strategy.aggregate_train(number, list(answers))
        return None if arrays is None else _typed_as(arrays, before)

    def _prepare(self, before: ArrayRecord, answers: int) -> None:
        """Tell Flower's class what it would learn from messages that it sends by itself."""
        if self._poisoned >= answers / 2:
            raise FederationError(
                f"{answers} hospitals answered, and federation.poisoned is {self._poisoned}: what "
                "half of them say cannot be outvoted. Lower it, or raise "
                "federation.minimum_hospitals."
            )
        if isinstance(self._strategy, FedTrimmedAvg):
            self._strategy.beta = (self._poisoned + 1e-9) / answers
        elif isinstance(self._strategy, MultiKrum):
            self._strategy.num_nodes_to_select = answers - self._poisoned
        elif isinstance(self._strategy, QFedAvg):
            self._strategy.current_arrays = before.copy()
        elif hasattr(self._strategy, "current_arrays"):
            self._strategy.current_arrays = {name: one.numpy() for name, one in before.items()}

    def save(self, folder: Path, number: int) -> None:
        """Write what is remembered after round `number`; before the checkpoint of that round.

        Raises:
            ResourceError: the disk is full; what was remembered before stays.
        """
        memory = {
            f"{part}/{name}": np.ascontiguousarray(values)
            for part in _KEPT
            for name, values in (getattr(self._strategy, part, None) or {}).items()
        }
        if memory:
            path = folder / f"server-{number}.safetensors"
            draft = path.with_suffix(".tmp")
            try:
                save_file(memory, draft, metadata={"round": json.dumps(number)})
                draft.replace(path)
            except (OSError, SafetensorError) as error:
                raise ResourceError(
                    f"Could not write what the coordinator's optimiser remembers, '{path}': "
                    f"{error}. Free some disk space and run again."
                ) from None
            finally:
                draft.unlink(missing_ok=True)
            for old in folder.glob("server-*.safetensors"):
                if int(old.stem.partition("-")[2]) < number - 1:
                    old.unlink()

    def load(self, folder: Path, number: int) -> None:
        """Remember again what was saved after round `number`.

        Raises:
            FederationError: it is missing.
        """
        if number == 0 or not hasattr(self._strategy, "m_t"):
            return
        path = folder / f"server-{number}.safetensors"
        if not path.exists():
            raise FederationError(
                f"'{path}' is missing: what the strategy remembers of round {number}. Put it back, "
                "or delete the checkpoint beside it to start this arm anew."
            )
        memory = load_file(path)
        for part in _KEPT:
            own = {
                name.removeprefix(f"{part}/"): values
                for name, values in memory.items()
                if name.startswith(f"{part}/")
            }
            setattr(self._strategy, part, own)


def combiner_of(config: FederationConfig) -> Combiner:
    """The way of putting updates together that a config names."""
    common = {"fraction_evaluate": 0.0, "weighted_by_key": _WEIGHT}
    adaptive = {"eta": config.server_rate, "tau": config.server_tau}
    made: dict[str, Callable[[], Combiner]] = {
        "fedavg": lambda: Combiner(FedAvg(**common)),
        "fedprox": lambda: Combiner(FedProx(proximal_mu=config.proximal, **common)),
        "fedadam": lambda: Combiner(FedAdam(**adaptive, **common)),
        "fedyogi": lambda: Combiner(FedYogi(**adaptive, **common)),
        # What differs is at the hospitals: `evenhand.training.drift`.
        "scaffold": lambda: Combiner(FedAvg(**common)),
        "trimmed-mean": lambda: Combiner(FedTrimmedAvg(**common), poisoned=config.poisoned),
        "krum": lambda: Combiner(
            MultiKrum(num_malicious_nodes=config.poisoned, **common), poisoned=config.poisoned
        ),
        "qfedavg": lambda: Combiner(
            QFedAvg(
                client_learning_rate=_FULL_STEP,
                q=config.fairness,
                train_loss_key=_LOSS,
                **common,
            ),
            (_WEIGHT, _LOSS),
        ),
        "tilted": lambda: Combiner(FedAvg(**common), (_WEIGHT, _LOSS), tilt=config.fairness),
    }
    return made[config.strategy]()


def _weigh_tilted(answers: Sequence[Message], tilt: float) -> None:
    """Give patients the weight of their hospital's loss (tilted risk, Li 2021, equation 6)."""
    losses = [float(answer.content["metrics"][_LOSS]) for answer in answers]
    for answer, loss in zip(answers, losses, strict=True):
        figures = answer.content["metrics"]
        # Less the largest, which changes no share: an exponent above 0 could run over.
        figures[_WEIGHT] = float(figures[_WEIGHT]) * math.exp(tilt * (loss - max(losses)))


def _typed_as(arrays: ArrayRecord, before: ArrayRecord) -> ArrayRecord:
    """The same numbers in the types that the adapter has."""
    return ArrayRecord(
        {
            name: Array(np.asarray(arrays[name].numpy(), dtype=one.dtype))
            for name, one in before.items()
        }
    )
