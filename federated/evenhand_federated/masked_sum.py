"""Sums that a coordinator sees without seeing what is summed (after Bonawitz et al. 2017).

Each hospital adds to its numbers a mask of its own and one for every other hospital; masks between
two hospitals cancel in the sum, and the own ones are taken off afterwards with shares that the
others hold. Three exchanges a round, and a fourth where somebody dropped out in the second:

1. keys: every hospital sends a fresh public key.
2. masked: it gets all keys, and sends its masked numbers and, encrypted for each of the others,
   a share of its own mask's seed.
3. agree, only where not all came: it is told whose numbers did, and signs that list and no other.
4. unmask: it is told whose numbers came. Of those it gives its shares; of the others the seed of
   the mask that it shares with them. It answers this once, only when enough came, and where not
   all did only for the list that it signed and that enough others have signed too.

Whoever drops out before 2 is left out; before 4, the others' shares do. If one drops out before 2
and another before 4, the round cannot be opened. Keys and lists are signed by hospitals that the
study names (`evenhand_federated.certified`), so a coordinator can neither answer for one nor
tell two lists of the same sum. A share is encrypted for one way alone, from whom and for whom, so a
hospital that opens gives one share of each mask, and never those that it has made itself. The mask
of two hospitals depends on what they were told to train from: where they were told different
adapters it does not cancel, and nothing comes to light. Why the fourth exchange is needed only
then, and what holds where hospitals work with the coordinator:
docs/decisions/0012-certified-keys.md. With two contributors, each can work out the other's numbers
from the sum.

From Flower 1.41 come the shares (Shamir), the key agreement and the encryption. Not its masks:
these have a seed of 32 bits, which can be tried out. Here they are AES-256 in counter mode. Nor
its quantisation, which clips: see `evenhand_federated.fixed_point`.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import (
    decrypt,
    encrypt,
    generate_shared_key,
)
from numpy.typing import NDArray

from evenhand.errors import FederationError
from evenhand_federated.fixed_point import NARROW, WIDE, Ring, Whole

__all__ = [
    "CHECKS",
    "Contributor",
    "Masked",
    "RefusedSumError",
    "Unmasking",
    "UnopenedSumError",
    "is_key",
    "open_sum",
    "threshold_of",
]

CHECKS = 2
"""Zeros behind a hospital's numbers: where a mask is left in a sum they are not zero any more."""


class RefusedSumError(FederationError):
    """What a hospital was told does not hold, so it takes no part; names no patient."""


class UnopenedSumError(FederationError):
    """What hospitals have trained, and perhaps paid for, came to no sum."""


def is_key(content: bytes) -> bool:
    """Whether bytes are a public key that masks can be agreed on with."""
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), content)
    except ValueError:
        return False
    return True


def threshold_of(hospitals: int, minimum: int) -> int:
    """How many shares open an own mask, and how many have to be on a list and to sign it.

    Two lists of one sum that both have so many signatures share more than `minimum` - 1 signers,
    and an honest one signs only one: twice this is at least `hospitals` + `minimum`.

    Args:
        hospitals: who began the sum.
        minimum: a sum of fewer must not be seen.
    """
    return (hospitals + max(minimum, 2) + 1) // 2


@dataclass(frozen=True)
class Masked:
    """What a hospital sends in the second exchange."""

    values: Whole
    """Its numbers, and `CHECKS` more."""
    shares: Mapping[str, bytes]
    """Of its own mask's seed, encrypted, by who is to hold it."""


@dataclass(frozen=True)
class Unmasking:
    """What a hospital sends in the last exchange."""

    shares: Mapping[str, bytes]
    """Of the own masks of those whose numbers came."""
    pairs: Mapping[str, bytes]
    """Seeds of the masks that it shares with those whose numbers did not come."""


@dataclass
class Contributor:
    """One hospital in one round; what it has to remember between exchanges.

    Attributes:
        name: of the hospital.
        context: of the study and the round, which all masks depend on.
        minimum: with fewer contributors it neither sends nor opens anything (`threshold_of`).
    """

    name: str
    context: str
    minimum: int
    private: bytes = field(default_factory=lambda: _private_bytes(_new_key()))
    seed: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    keys: dict[str, bytes] = field(default_factory=dict)
    agreed: tuple[str, ...] = ()
    """The list of those whose numbers came that this hospital signed."""
    has_opened: bool = False
    told: str = ""
    """Hash of all that came with the message that its numbers were made for."""

    def public(self) -> bytes:
        """What the others need to share a mask with it."""
        return (
            self._key()
            .public_key()
            .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
        )

    def check_keys(self, keys: Mapping[str, bytes]) -> None:
        """Refuse keys that numbers would not be masked with, before anybody trains for it.

        Raises:
            RefusedSumError: see `mask`.
        """
        if self.keys:
            raise RefusedSumError("Numbers were masked in this round already; they are sent once.")
        if len(keys) < max(self.minimum, 2) or len(set(keys.values())) < len(keys):
            raise RefusedSumError(
                f"{len(set(keys.values()))} hospitals would take part in this sum; this hospital "
                f"asks for {max(self.minimum, 2)}. Nothing is sent."
            )
        if keys.get(self.name) != self.public():
            raise RefusedSumError("This hospital's own key is not in the list. Nothing is sent.")
        if not all(map(is_key, keys.values())):
            raise RefusedSumError("A key is no key at all. Nothing is sent.")

    def mask(
        self,
        keys: Mapping[str, bytes],
        values: NDArray[np.float64],
        *,
        ring: Ring,
        told: str,
    ) -> Masked:
        """Mask numbers for a sum among the owners of `keys`.

        Args:
            keys: of all, this hospital's own too.
            values: its numbers.
            ring: what all of them sum in.
            told: hash of what they were made from; masks cancel among those who were told the same.

        Raises:
            RefusedSumError: too few, or this hospital's key is not among them, or it has masked
                in this round before.
            FederationError: a number is out of range.
        """
        self.check_keys(keys)
        self.told = told
        total = ring.encode(np.concatenate([values, np.zeros(CHECKS)]), len(keys))
        total = total + _stream(self._own_seed(), total)
        others = [name for name in keys if name != self.name]
        for name in others:
            total = _with_pair(total, self.name, name, self._pair_seed(keys[name]), 1)
        names = sorted(keys)
        threshold = threshold_of(len(names), self.minimum)
        parts = create_shares(self.seed, threshold, len(names))
        self.keys = dict(keys)
        return Masked(
            values=total,
            shares={
                name: encrypt(self._share_key(keys[name], self.name, name), part)
                for name, part in zip(names, parts, strict=True)
            },
        )

    def agree(self, came: Collection[str]) -> None:
        """Be bound to a list of those whose numbers came, which is then signed.

        Raises:
            RefusedSumError: as `unmask`, or another list was agreed on.
        """
        self._check_list(came)
        self.agreed = tuple(sorted(set(came)))

    def check_opening(self, came: Collection[str], signed_by: Collection[str]) -> None:
        """Refuse to open a sum of those whose numbers came.

        Args:
            came: who, by what is told now.
            signed_by: whose signatures of this list were found right; nobody's are needed where
                all came who began.

        Raises:
            RefusedSumError: too few, somebody unknown, a list that was not agreed on, or it has
                opened this round before.
        """
        self._check_list(came)
        fewest, signed = threshold_of(len(self.keys), self.minimum), set(signed_by) & set(came)
        if len(came) < len(self.keys) and (not self.agreed or len(signed) < fewest):
            raise RefusedSumError(
                f"{len(signed)} hospitals have signed this list of those whose numbers came; this "
                f"hospital asks for {fewest}, and for its own. Others may have been told another "
                "list. Refused."
            )

    def unmask(self, came: Mapping[str, bytes], signed_by: Collection[str] = ()) -> Unmasking:
        """Open the sum of those whose numbers came, once.

        Args:
            came: the share that each of them has encrypted for this hospital, its own too.
            signed_by: see `check_opening`.

        Raises:
            RefusedSumError: see `check_opening`; or a share is not for this hospital.
        """
        self.check_opening(came, signed_by)
        self.has_opened = True
        try:
            shares = {
                name: decrypt(self._share_key(self.keys[name], name, self.name), part)
                for name, part in came.items()
            }
        except InvalidToken:
            raise RefusedSumError("A share was not meant for this hospital; refused.") from None
        gone = set(self.keys) - set(came)
        pairs = {name: self._pair_seed(self.keys[name]) for name in sorted(gone)}
        return Unmasking(shares, pairs)

    def _check_list(self, came: Collection[str]) -> None:
        if not self.keys or self.has_opened:
            raise RefusedSumError("This sum was opened already, or never begun; refused.")
        fewest = threshold_of(len(self.keys), self.minimum)
        if len(set(came)) < fewest or not set(came) <= set(self.keys):
            raise RefusedSumError(
                f"A sum of {len(came)} hospitals was to be opened; this hospital asks for "
                f"{fewest} of the {len(self.keys)} that began it. Refused."
            )
        if self.name not in came:
            raise RefusedSumError("This hospital is not on the list of those who sent; refused.")
        if self.agreed and self.agreed != tuple(sorted(set(came))):
            raise RefusedSumError(
                f"This hospital has signed that numbers of {', '.join(self.agreed)} came; now it "
                f"is told {', '.join(sorted(came))}. Refused."
            )

    def to_json(self) -> str:
        """All of it, secrets too: a file with it must be the owner's alone, and be deleted."""
        content = {
            "name": self.name,
            "context": self.context,
            "minimum": self.minimum,
            "private": self.private.hex(),
            "seed": self.seed.hex(),
            "keys": {name: key.hex() for name, key in self.keys.items()},
            "agreed": self.agreed,
            "has_opened": self.has_opened,
            "told": self.told,
        }
        return json.dumps(content)

    @classmethod
    def from_json(cls, text: str) -> "Contributor":
        """What `to_json` wrote."""
        raw: dict[str, Any] = json.loads(text)
        raw["private"], raw["seed"] = bytes.fromhex(raw["private"]), bytes.fromhex(raw["seed"])
        raw["keys"] = {name: bytes.fromhex(key) for name, key in raw["keys"].items()}
        raw["agreed"] = tuple(raw["agreed"])
        return cls(**raw)

    def _key(self) -> ec.EllipticCurvePrivateKey:
        return ec.derive_private_key(int.from_bytes(self.private, "big"), ec.SECP384R1())

    def _pair_key(self, public: bytes) -> bytes:
        other = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), public)
        return bytes(generate_shared_key(self._key(), other))

    def _pair_seed(self, public: bytes) -> bytes:
        return _derived(self._pair_key(public), f"mask {self.told} {self.context}")

    def _share_key(self, public: bytes, giver: str, holder: str) -> bytes:
        """Of one way between two: with one key for both, a hospital would open its own shares."""
        secret = _derived(self._pair_key(public), f"share of {giver} for {holder} {self.context}")
        return base64.urlsafe_b64encode(secret)  # as Fernet wants it

    def _own_seed(self) -> bytes:
        return _derived(self.seed, f"own {self.context}")


def open_sum(
    masked: Mapping[str, Whole],
    opened: Mapping[str, Unmasking],
    *,
    began: Iterable[str],
    context: str,
    minimum: int,
) -> NDArray[np.float64]:
    """The sum of what came.

    Args:
        masked: numbers that came in the second exchange, all of one ring.
        opened: what came in the last.
        began: who took part in the first.
        context: as the contributors have it.
        minimum: as the contributors have it.

    Raises:
        UnopenedSumError: too few have opened it, nobody knows a mask that is left, or what a
            hospital sent is no share or no seed, or not of these masks.
    """
    try:
        total = _open_sum(masked, opened, set(began), context, minimum)
    except (ValueError, TypeError, IndexError, OverflowError):
        raise UnopenedSumError(
            "The sum cannot be opened: a hospital sent something that is no share of a mask."
        ) from None
    if total[-CHECKS:].any():
        raise UnopenedSumError(
            "The sum makes no sense: a mask is left in it. A hospital sent a wrong share or seed, "
            "or hospitals were told different things. Nothing of it is used."
        )
    return total[:-CHECKS]


def _open_sum(
    masked: Mapping[str, Whole],
    opened: Mapping[str, Unmasking],
    began: set[str],
    context: str,
    minimum: int,
) -> NDArray[np.float64]:
    threshold = threshold_of(len(began), minimum)
    total = np.zeros_like(next(iter(masked.values())))
    for name, values in masked.items():
        parts = [one.shares[name] for one in opened.values() if name in one.shares]
        if len(parts) < threshold:
            raise UnopenedSumError(
                f"The sum cannot be opened: {len(parts)} hospitals gave a share, {threshold} are "
                "needed."
            )
        seed = _derived(combine_shares(parts[:threshold]), f"own {context}")
        total = total + values - _stream(seed, values)
    for gone in began - set(masked):
        for name in masked:
            if name not in opened or gone not in opened[name].pairs:
                raise UnopenedSumError(
                    "The sum cannot be opened: one hospital dropped out before it sent its numbers "
                    "and another before it opened them."
                )
            total = _with_pair(total, name, gone, opened[name].pairs[gone], -1)
    return (NARROW if total.dtype == NARROW.dtype else WIDE).decode(total)


def _with_pair(total: Whole, own: str, other: str, seed: bytes, sign: int) -> Whole:
    """Add (or take off) a pair's mask as hospital `own` does: the two of a pair with two signs."""
    stream = _stream(seed, total)
    return total + stream if (own < other) == (sign > 0) else total - stream


def _stream(seed: bytes, like: Whole) -> Whole:
    """As many numbers, random to whoever does not know the seed (AES-256 in counter mode)."""
    encryptor = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    drawn = np.frombuffer(encryptor.update(bytes(like.nbytes)), like.dtype.newbyteorder("<"))
    return drawn.astype(like.dtype)


def _derived(secret: bytes, use: str) -> bytes:
    return hashlib.sha256(b"evenhand sum\0" + secret + b"\0" + use.encode()).digest()


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _private_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_numbers().private_value.to_bytes(48, "big")
