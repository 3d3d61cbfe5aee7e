"""The hospital's secret: one small file, made once, that never leaves the hospital.

Whoever has it can tell which pseudonym belongs to which patient identifier, and
can undo a date's shift. Whoever loses it cannot add a patient's later studies
to that patient's earlier ones. So: readable by its owner only, kept apart from
what it protects, and backed up where patient data may lie.
"""

import hmac
import os
import secrets
import stat
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from evenhand.errors import ResourceError, UsageError

__all__ = ["HospitalKey"]

_HEADER = "evenhand-deid-key 1"
_KEY_BYTES = 32
_FINGERPRINT_HEX = 16


@dataclass(frozen=True)
class HospitalKey:
    """256 secret bits. Not shown by `repr`, so that no log can hold them by accident."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse a key of another length."""
        if len(self.secret) != _KEY_BYTES:
            raise UsageError(f"A key has {_KEY_BYTES} bytes; this one has {len(self.secret)}.")

    @classmethod
    def generate(cls) -> "HospitalKey":
        """Draw a key from the operating system's randomness."""
        return cls(secrets.token_bytes(_KEY_BYTES))

    @classmethod
    def create(cls, path: Path) -> "HospitalKey":
        """Draw a key and write it to a new file of mode 0600.

        Raises:
            UsageError: the file is there already; a key is never overwritten.
            ResourceError: the file cannot be written.
        """
        key = cls.generate()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"{_HEADER}\n{key.secret.hex()}\n")
                file.flush()
                os.fsync(descriptor)
        except FileExistsError:
            raise UsageError(
                f"'{path}' is there already, and a key is never overwritten: without it patients "
                "could not be recognised again. Use it with --key, or name another file."
            ) from None
        except OSError as error:
            raise ResourceError(f"Could not write '{path}': {error.strerror}.") from None
        return key

    @classmethod
    def read(cls, path: Path) -> "HospitalKey":
        """Read a key file.

        Raises:
            UsageError: no such file, not a key, or readable by others than its owner.
        """
        try:
            mode = path.stat().st_mode
            text = path.read_text(encoding="ascii")
        except FileNotFoundError:
            raise UsageError(
                f"There is no key file '{path}'. Make one, once for the hospital, with "
                "`evenhand deidentify --new-key FILE`."
            ) from None
        except (OSError, UnicodeDecodeError):
            raise UsageError(f"'{path}' cannot be read as a key file.") from None
        if stat.S_IMODE(mode) & 0o077:
            raise UsageError(
                f"'{path}' can be read by others than its owner, so it is no secret; "
                f"run `chmod 600 '{path}'` and ask yourself who has read it."
            )
        header, _, rest = text.partition("\n")
        try:
            secret = bytes.fromhex(rest.strip())
        except ValueError:
            secret = b""
        if header != _HEADER or len(secret) != _KEY_BYTES:
            raise UsageError(
                f"'{path}' is not a key file of this version of Evenhand "
                f"('{_HEADER}', then 64 hexadecimal digits); restore it from its backup."
            )
        return cls(secret)

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
