"""A hospital's side of rounds in which only the sum is seen; imports no torch."""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from evenhand.artifacts import write_atomically
from evenhand.errors import FederationError
from evenhand_federated.masked_sum import Contributor

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["KEYS", "MASKED", "UNMASK", "SecureRound", "context_of"]

KEYS = "query.keys"
"""Type of the message of the first exchange."""

UNMASK = "query.unmask"
"""Type of the message of the third exchange; the second is the training message."""

MASKED = "masked"
"""Name of the tensor that holds what is masked."""


def context_of(study: str, number: int) -> str:
    """What the masks of a round depend on."""
    return f"{study} round {number}"


class SecureRound:
    """A hospital's part in one round, kept in a file between exchanges.

    Args:
        folder: of the hospital, for this study.
        hospital: its name.
        context: see `context_of`.
        minimum: contributors that it asks for.
    """

    def __init__(self, folder: Path, hospital: str, context: str, minimum: int) -> None:
        self._path = folder / "secure-sum.json"
        self._hospital = hospital
        self._context = context
        self._minimum = minimum

    def answer_keys(self, message: Message) -> Message:
        """Begin the round anew with fresh keys."""
        own = Contributor(self._hospital, self._context, self._minimum)
        with self._held():
            self._keep(own)
        content = RecordDict({"key": ConfigRecord({self._hospital: own.public()})})
        return Message(content, reply_to=message)

    def mask(
        self,
        content: RecordDict,
        before: Mapping[str, "Tensor"],
        after: Mapping[str, "Tensor"],
        patients: int,
    ) -> RecordDict:
        """What leaves in place of an adapter.

        Args:
            content: of the training message, with everybody's keys.
            before: the adapter that came.
            after: the one that was trained.
            patients: whom it was trained on.
        """
        parts = [(after[name] - before[name]).double().numpy().ravel() for name in sorted(before)]
        values = np.concatenate([*parts, [1.0]]) * patients
        keys = {name: bytes(key) for name, key in content["keys"].items()}
        with self._held():
            own = self._load()
            masked = own.mask(keys, values)
            self._keep(own)
        return RecordDict(
            {
                "arrays": ArrayRecord({MASKED: Array(masked.values)}),
                "shares": ConfigRecord(dict(masked.shares)),
            }
        )

    def answer_unmask(self, message: Message) -> Message:
        """Open the sum, once; then forget the round.

        Raises:
            FederationError: too few came, or the round is another or was opened already.
        """
        with self._held():
            own = self._load()
            came = {name: bytes(part) for name, part in message.content["shares"].items()}
            opened = own.unmask(came)
            self._path.unlink()
        content = RecordDict(
            {
                "shares": ConfigRecord(dict(opened.shares)),
                "pairs": ConfigRecord(dict(opened.pairs)),
            }
        )
        return Message(content, reply_to=message)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Alone with the file: two messages at once are two processes, and each is asked once."""
        with self._path.with_name(".secure-sum.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _load(self) -> Contributor:
        if not self._path.exists():
            raise FederationError("This round was not begun here, or was opened already; refused.")
        own = Contributor.from_json(self._path.read_text("utf-8"))
        if own.context != self._context:
            raise FederationError("Another round was begun here; refused.")
        return own

    def _keep(self, own: Contributor) -> None:
        write_atomically(self._path, own.to_json().encode())
