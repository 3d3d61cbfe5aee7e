"""What a coordinator has of a hidden sum while it is opened, on disk: a restart finishes the round.

A hospital opens a round for one list of hospitals and no other. If a coordinator is lost after
hospitals have opened a round and before the sum is written down, and one of them is gone for good,
nobody could open that round again. So what came is written before anybody is asked to open it, and
every answer as it comes. All of it together is worth the sum and no more. It goes with the round,
or when the study is stopped; when it is given up, unless what came still opens the sum.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from evenhand.artifacts import write_atomically
from evenhand.errors import ResourceError
from evenhand_federated.fixed_point import Whole
from evenhand_federated.masked_sum import Unmasking, UnopenedSumError, open_sum

__all__ = ["KeptOpening", "Opening"]


@dataclass(frozen=True)
class Opening:
    """A sum that is being opened.

    Attributes:
        number: of the round.
        context: as the contributors have it.
        minimum: as the contributors have it.
        began: who gave a key.
        masked: what came of whom.
        opened: what came of whom to open it.
    """

    number: int
    context: str
    minimum: int
    began: tuple[str, ...]
    masked: Mapping[str, Whole]
    opened: dict[str, Unmasking] = field(default_factory=dict)

    def total(self) -> NDArray[np.float64]:
        """The sum.

        Raises:
            UnopenedSumError: it cannot be opened with what came.
        """
        return open_sum(
            self.masked, self.opened, began=self.began, context=self.context, minimum=self.minimum
        )


@dataclass(frozen=True)
class KeptOpening:
    """Where it is kept: two files in the arm's folder, readable by their owner only."""

    folder: Path

    @property
    def _sum_path(self) -> Path:
        return self.folder / "opening.safetensors"

    @property
    def _answers_path(self) -> Path:
        return self.folder / "opening.jsonl"

    def begin(self, opening: Opening) -> None:
        """Keep what is to be opened; it is on disk when this returns.

        Raises:
            ResourceError: it cannot be written; nobody may be asked then.
        """
        self.end()
        about = {"number": opening.number, "context": opening.context, "minimum": opening.minimum}
        meta = {"about": json.dumps(about | {"began": list(opening.began)})}
        write_atomically(self._answers_path, b"")
        write_atomically(self._sum_path, save(dict(opening.masked), metadata=meta))

    def add(self, hospital: str, answer: Unmasking) -> None:
        """Keep what a hospital sent to open it, if the disk takes it.

        A disk that does not is no reason to end a round that can be opened without it.
        """
        parts = {
            "shares": {name: part.hex() for name, part in answer.shares.items()},
            "pairs": {name: part.hex() for name, part in answer.pairs.items()},
        }
        with suppress(OSError), self._answers_path.open("ab") as file:
            # Behind what a full disk may have left of the answer before: on a line of its own.
            file.write(b"\n" + json.dumps([hospital, parts]).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> Opening | None:
        """What was kept; None where there is nothing, or nothing that can be read."""
        if not self._sum_path.exists():
            return None
        try:
            with safe_open(self._sum_path, framework="np") as file:
                about = json.loads(file.metadata()["about"])
                masked = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            began = tuple(about.pop("began"))
            return Opening(**about, began=began, masked=masked, opened=self._answers())
        except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError):
            return None

    def sum_of(self, number: int) -> NDArray[np.float64] | None:
        """The sum of a round; None where too little of it was kept to open it."""
        kept = self.read()
        if kept is None or kept.number != number:
            return None
        try:
            return kept.total()
        except UnopenedSumError:
            return None

    def end(self) -> None:
        """Forget it: the round is written down, or cannot be.

        Raises:
            ResourceError: the folder cannot be written.
        """
        try:
            self._sum_path.unlink(missing_ok=True)
            self._answers_path.unlink(missing_ok=True)
        except OSError as error:
            raise ResourceError(
                f"'{self.folder}' cannot be written: {error.strerror}. What is kept there of a "
                "hidden sum was to be deleted."
            ) from None

    def _answers(self) -> dict[str, Unmasking]:
        found = {}
        content = self._answers_path.read_bytes() if self._answers_path.exists() else b""
        for line in content.split(b"\n"):
            # One that was cut off or damaged is passed over: those that are left may be enough.
            with suppress(AttributeError, KeyError, TypeError, ValueError):
                hospital, parts = json.loads(line)
                shares, pairs = (
                    {name: bytes.fromhex(part) for name, part in parts[kind].items()}
                    for kind in ("shares", "pairs")
                )
                found[hospital] = Unmasking(shares, pairs)
        return found
