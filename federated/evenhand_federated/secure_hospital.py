"""A hospital's side of rounds in which only the sum is seen; imports no torch."""

import fcntl
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from evenhand.artifacts import write_atomically
from evenhand_federated.certificates import sign_as_node
from evenhand_federated.certified import Roll, key_statement, list_statement
from evenhand_federated.fixed_point import Ring
from evenhand_federated.masked_sum import Contributor, RefusedSumError
from evenhand_federated.message_log import weigh

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AGREE", "KEYS", "MASKED", "UNMASK", "SecureRound"]

KEYS = "query.keys"
"""Type of the message of the first exchange."""

AGREE = "query.agree"
"""Type of the message of the third exchange, where not all came; the second is that of training."""

UNMASK = "query.unmask"
"""Type of the message of the last exchange."""

MASKED = "masked"
"""Name of the tensor that holds what is masked."""


class SecureRound:
    """A hospital's part in one round, kept in a file between exchanges.

    Args:
        folder: of the hospital, for this study.
        hospital: its name.
        context: see `evenhand_federated.certified.context_of`.
        minimum: contributors that it asks for.
        number: of the round in the study, the same in every run.
        was_opened: whether the hospital's log says that shares of this round left before.
        roll: of the study.
        key_path: of its node's private key.
        ring: what numbers are summed in, as the study has it.
    """

    def __init__(
        self,
        folder: Path,
        hospital: str,
        context: str,
        minimum: int,
        *,
        number: int,
        roll: Roll,
        key_path: Path,
        was_opened: bool,
        ring: Ring,
    ) -> None:
        self._number = number
        self._was_opened = was_opened
        self._ring = ring
        self._roll, self._key_path = roll, key_path
        self._path = folder / "secure-sum.json"
        self._opened_path = folder / "secure-sums-opened.json"
        self._hospital = hospital
        self._context = context
        self._minimum = minimum

    def answer_keys(self, message: Message) -> Message:
        """Begin the round anew with fresh keys."""
        own = Contributor(self._hospital, self._context, self._minimum)
        with self._held():
            self._keep(own)
        key = own.public()
        statement = key_statement(self._context, self._hospital, key)
        content = RecordDict(
            {
                "key": ConfigRecord({self._hospital: key}),
                "signature": self._signed(statement),
            }
        )
        return Message(content, reply_to=message)

    def check_keys(self, content: RecordDict) -> dict[str, bytes]:
        """Everybody's keys in a training message; looked at before anything is trained or charged.

        Raises:
            RefusedSumError: one is of no hospital of the study, or its hospital has not signed it
                for this round, or this sum is not to be had.
        """
        keys, signatures = content.get("keys", {}), content.get("signatures", {})
        for name, key in keys.items():
            if name not in self._roll.keys:
                raise RefusedSumError(
                    f"A key came for '{name[:64]}', whom the study does not name. Nothing is sent."
                )
            statement = key_statement(self._context, name, key) if isinstance(key, bytes) else b""
            if not self._roll.is_signed(name, statement, signatures.get(name)):
                raise RefusedSumError(
                    f"The key that came for {name} is not one that {name} has signed for this "
                    "round: it is somebody else's, or an old one. Nothing is sent."
                )
        with self._held():
            self._load().check_keys(keys)
        return dict(keys)

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

        Raises:
            RefusedSumError: somebody's key is not certified, or this sum is not to be had.
            FederationError: a number is out of range.
        """
        parts = [(after[name] - before[name]).double().numpy().ravel() for name in sorted(before)]
        values = np.concatenate([*parts, [self._ring.one]]) * patients
        keys = self.check_keys(content)
        with self._held():
            own = self._load()
            # All that came goes into the masks. A coordinator that tells the others something that
            # teaches them nothing would have this one's update alone in the sum (Pasquini et al.
            # 2022).
            told = weigh(content).sha256
            masked = own.mask(keys, values, ring=self._ring, told=told)
            self._keep(own)
        return RecordDict(
            {
                "arrays": ArrayRecord({MASKED: Array(masked.values)}),
                "shares": ConfigRecord(dict(masked.shares)),
            }
        )

    def answer_agree(self, message: Message) -> Message:
        """Sign the list of those whose numbers came; this round is opened for no other.

        Raises:
            RefusedSumError: too few came, or another list was signed in this round.
        """
        came = [str(name) for name in message.content["came"]["names"]]
        with self._held():
            own = self._load()
            self._refuse_other(came)
            own.agree(came)
            self._keep(own)
        statement = list_statement(self._context, own.keys, came)
        content = RecordDict({"signature": self._signed(statement)})
        return Message(content, reply_to=message)

    def answer_unmask(self, message: Message) -> Message:
        """Open the sum, once; then forget the round.

        Raises:
            RefusedSumError: too few came, or too few have signed the list of those who did, or
                the round is another or was opened already.
        """
        with self._held():
            own = self._load()
            signatures = message.content.get("signatures", {})
            shares = message.content["shares"]
            if not all(isinstance(part, bytes) for part in shares.values()):
                raise RefusedSumError("What came as shares are none; refused.")
            came = dict(shares.items())
            self._refuse_other(came)
            statement = list_statement(self._context, own.keys, came)
            opened = own.unmask(came, self._roll.signers(statement, signatures))
            self._note_opened(came)
            self._path.unlink()
        content = RecordDict(
            {
                "shares": ConfigRecord(dict(opened.shares)),
                "pairs": ConfigRecord(dict(opened.pairs)),
            }
        )
        return Message(content, reply_to=message)

    def _refuse_other(self, came: Collection[str]) -> None:
        """Refuse a second sum of a round among others: the two would differ by one hospital.

        Whoever trains the same round again sends the same numbers again, also in another run.
        """
        before = self._opened().get(str(self._number))
        if before is None and self._was_opened:
            raise RefusedSumError(
                f"The message log says that round {self._number} was opened here, and "
                f"'{self._opened_path.name}', which says for whom, does not know it: it was put "
                "back to an older copy, or lost. Go on with a new study. Refused."
            )
        if before is not None and before != sorted(came):
            raise RefusedSumError(
                f"Round {self._number} was opened for {', '.join(before)}; it is opened for no "
                "others. The study goes on when these are there, or as a new one. Refused."
            )

    def _opened(self) -> dict[str, list[str]]:
        if not self._opened_path.exists():
            return {}
        found: dict[str, list[str]] = json.loads(self._opened_path.read_text("utf-8"))
        return found

    def _note_opened(self, came: Collection[str]) -> None:
        content = self._opened() | {str(self._number): sorted(came)}
        write_atomically(self._opened_path, json.dumps(content).encode())

    def _signed(self, statement: bytes) -> ConfigRecord:
        return ConfigRecord({self._hospital: sign_as_node(self._key_path, statement)})

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Alone with the file: two messages at once are two processes, and each is asked once."""
        with self._path.with_name(".secure-sum.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _load(self) -> Contributor:
        if not self._path.exists():
            raise RefusedSumError("This round was not begun here, or was opened already; refused.")
        own = Contributor.from_json(self._path.read_text("utf-8"))
        if own.context != self._context:
            raise RefusedSumError("Another round was begun here; refused.")
        return own

    def _keep(self, own: Contributor) -> None:
        write_atomically(self._path, own.to_json().encode())
