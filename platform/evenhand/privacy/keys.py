"""A hospital's own key: it signs the ledger and hides who is in a cohort.

Ed25519 (RFC 8032) through `cryptography`. The private key lies with the hospital, readable
by its owner only. Whoever can read it can write a ledger that verifies: keep it on the
machine that trains, and out of the backups that the ledger goes to.
"""

import hashlib
import hmac
import os
import stat
import tempfile
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from evenhand.errors import LedgerError

__all__ = ["KEY_FILE", "HospitalKey", "fingerprint_of", "is_signed"]

KEY_FILE = "signing.key"
"""Name of the private key in a hospital's own place."""

_TAG_BYTES = 16


def fingerprint_of(public: str) -> str:
    """A short name of a public key (hex), to be read out over the telephone: 8 groups of 4.

    What is no hex names no key, and says so.
    """
    try:
        raw = bytes.fromhex(public)
    except (ValueError, TypeError):
        return "none that can be read"
    digest = hashlib.sha256(raw).hexdigest()[:32]
    return " ".join(digest[start : start + 4] for start in range(0, len(digest), 4))


def is_signed(public: str, message: bytes, signature: str) -> bool:
    """Whether a signature (hex) of a message is that of a public key (hex).

    A file that was tampered with may hold anything in their places: that is no signature.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


class HospitalKey:
    """The private key of one hospital.

    Args:
        private: an Ed25519 key; see `open` for the one on disk.
    """

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        raw = private.public_key().public_bytes_raw()
        self.public = raw.hex()
        derived = HKDF(hashes.SHA256(), 32, salt=None, info=b"evenhand cohort tags")
        self._tag_key = derived.derive(private.private_bytes_raw())

    @classmethod
    def open(cls, folder: Path, *, make: bool = True) -> "HospitalKey":
        """The key in a folder; made there if there is none and `make` allows it.

        Raises:
            LedgerError: the file is missing or not a key, or others may read it.
        """
        path = folder / KEY_FILE
        if not path.exists():
            if not make:
                raise LedgerError(
                    f"The key '{path}' of the ledger beside it is missing. Restore it from "
                    "where you keep it; a new key cannot go on with an old ledger."
                )
            _make(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise LedgerError(
                f"The key '{path}' can be read by others on this machine. "
                f"Make it yours alone: chmod 600 '{path}'."
            )
        try:
            private = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError):
            private = None
        if not isinstance(private, Ed25519PrivateKey):
            raise LedgerError(
                f"'{path}' is not an Ed25519 private key. Restore it from where you keep it; "
                "a new key cannot go on with an old ledger."
            )
        return cls(private)

    def sign(self, message: bytes) -> str:
        """Signature in hex."""
        return self._private.sign(message).hex()

    def tag(self, kind: str, name: str) -> str:
        """What stands for a name in the ledger: a keyed hash, 32 hex digits.

        Without the key it cannot be tried out which name it belongs to.
        """
        message = f"{kind}\0{name}".encode()
        return hmac.new(self._tag_key, message, hashlib.sha256).digest()[:_TAG_BYTES].hex()


def _make(path: Path) -> None:
    content = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".key-")  # mode 0600
    scratch = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(scratch)  # of two processes that make one, the first one's stays
        except FileExistsError:
            return
    finally:
        scratch.unlink()
