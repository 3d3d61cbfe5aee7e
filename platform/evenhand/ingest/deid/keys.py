"""The hospital's secret: one small file, made once, that never leaves the hospital.

Whoever has it can tell which pseudonym belongs to which patient identifier, and
can undo a date's shift. Whoever loses it cannot add a patient's later studies
to that patient's earlier ones. So: readable by its owner only, kept apart from
what it protects, and backed up where patient data may lie.
"""

import hmac
import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from evenhand.errors import ResourceError, UsageError
from evenhand.key_file import SECRET_BYTES, new_secret, read_secret

__all__ = ["HospitalKey"]

_HEADER = "evenhand-deid-key 1"
_FINGERPRINT_HEX = 16


@dataclass(frozen=True)
class HospitalKey:
    """256 secret bits. Not shown by `repr`, so that no log can hold them by accident."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse a key of another length."""
        if len(self.secret) != SECRET_BYTES:
            raise UsageError(f"A key has {SECRET_BYTES} bytes; this one has {len(self.secret)}.")

    @classmethod
    def generate(cls) -> "HospitalKey":
        """Draw a key from the operating system's randomness."""
        return cls(secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def create(cls, path: Path) -> "HospitalKey":
        """Draw a key and write it to a new file of mode 0600.

        Raises:
            UsageError: the file is there already; a key is never overwritten.
            ResourceError: the file cannot be written.
        """
        try:
            return cls(new_secret(path, _HEADER))
        except FileExistsError:
            raise UsageError(
                f"'{path}' is there already, and a key is never overwritten: without it patients "
                "could not be recognised again. Use it with --key, or name another file."
            ) from None
        except OSError as error:
            raise ResourceError(f"Could not write '{path}': {error.strerror}.") from None

    @classmethod
    def read(cls, path: Path) -> "HospitalKey":
        """Read a key file.

        Raises:
            UsageError: no such file, not a key, or readable by others than its owner.
        """
        try:
            return cls(read_secret(path, _HEADER))
        except FileNotFoundError:
            raise UsageError(
                f"There is no key file '{path}'. Make one, once for the hospital, with "
                "`evenhand deidentify --new-key FILE`."
            ) from None

    def digest(self, purpose: str, value: str) -> bytes:
        """HMAC-SHA256 of a value, for one purpose; 32 bytes.

        Digests for different purposes cannot be compared with each other, and
        none can be computed, or tested against a guess, without the key.
        """
        message = purpose.encode() + b"\0" + value.encode()
        return hmac.digest(self.secret, message, sha256)

    @property
    def fingerprint(self) -> str:
        """Names the key in a record of evidence without revealing it; 16 hex digits."""
        return self.digest("fingerprint", "").hex()[:_FINGERPRINT_HEX]
