"""Encryption at rest: files that only the hospital's key opens (AES-256-GCM, by `cryptography`).

    SEALED = "EVHSEAL1", 12 bytes of nonce, the encrypted content with its tag

The key lies apart from what it opens, in `HOME/hospitals/HOSPITAL/store.key` (mode 0600), and is
made once. Without it nothing sealed can be read again: back it up. What a piece is (whose, which
file) is authenticated with it, so a piece that was changed, cut or put into another's place does
not open. Nonces are drawn at random, so equal content gives other bytes each time.
"""

import hmac
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from evenhand.errors import ResourceError, StoreError
from evenhand.home import evenhand_home
from evenhand.key_file import new_secret, read_secret

__all__ = ["OVERHEAD_BYTES", "StoreKey"]

_MAGIC = b"EVHSEAL1"
_HEADER = "evenhand-store-key 1"
_NONCE_BYTES = 12
_TAG_BYTES = 16
_FINGERPRINT_HEX = 16

OVERHEAD_BYTES = len(_MAGIC) + _NONCE_BYTES + _TAG_BYTES
"""What sealing adds to a content."""


@dataclass(frozen=True)
class StoreKey:
    """The key of a hospital's sealed stores. Not shown by `repr`."""

    secret: bytes = field(repr=False)

    @classmethod
    def path(cls, hospital: str) -> Path:
        """Where the key of a hospital lies."""
        return evenhand_home() / "hospitals" / hospital / "store.key"

    @classmethod
    def make(cls, hospital: str) -> "StoreKey":
        """The hospital's key; drawn and written if there is none yet.

        Raises:
            UsageError: its file is no key, or others can read it.
            ResourceError: it cannot be written.
        """
        path = cls.path(hospital)
        try:
            return cls(new_secret(path, _HEADER))
        except FileExistsError:
            return cls(read_secret(path, _HEADER))
        except OSError as error:
            raise ResourceError(f"Could not write '{path}': {error.strerror}.") from None

    @classmethod
    def open(cls, hospital: str, fingerprint: str) -> "StoreKey":
        """The key with which a store of the hospital was sealed.

        Raises:
            StoreError: it is missing here, or another one is here.
            UsageError: its file is no key, or others can read it.
        """
        path = cls.path(hospital)
        try:
            key = cls(read_secret(path, _HEADER))
        except FileNotFoundError:
            raise StoreError(
                f"The store of {hospital} is encrypted, and its key '{path}' is missing. Restore "
                "it from its backup, or name its home with EVENHAND_HOME."
            ) from None
        if key.fingerprint != fingerprint:
            raise StoreError(
                f"The store of {hospital} is encrypted with the key {fingerprint}; '{path}' is "
                f"another ({key.fingerprint}). Restore the right one from its backup."
            )
        return key

    @property
    def fingerprint(self) -> str:
        """Names the key without revealing it; 16 hex digits."""
        return hmac.digest(self.secret, b"fingerprint", sha256).hex()[:_FINGERPRINT_HEX]

    def seal(self, content: bytes, what: str) -> bytes:
        """Encrypt a content; `what` says what it is, and must be said again to open it."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _MAGIC + nonce + AESGCM(self.secret).encrypt(nonce, content, what.encode())

    def unseal(self, sealed: bytes, what: str) -> bytes:
        """Decrypt what `seal` made.

        Raises:
            StoreError: it was changed, cut, is something else, or sealed with another key.
        """
        start = len(_MAGIC) + _NONCE_BYTES
        if sealed[: len(_MAGIC)] == _MAGIC:
            nonce = sealed[len(_MAGIC) : start]
            with suppress(InvalidTag, ValueError):
                return AESGCM(self.secret).decrypt(nonce, sealed[start:], what.encode())
        raise StoreError(
            "An encrypted file does not open: it is damaged, or was changed or exchanged. "
            "Restore it, or ingest the source again."
        )
