"""Files that hold one secret of 256 bits: a header that says what it is for, then 64 hex digits."""

import os
import secrets
import stat
from pathlib import Path

from evenhand.errors import UsageError

__all__ = ["SECRET_BYTES", "new_secret", "read_secret"]

SECRET_BYTES = 32
"""Of each secret."""


def new_secret(path: Path, header: str) -> bytes:
    """Draw a secret and write it to a new file of mode 0600; none is ever overwritten.

    Raises:
        FileExistsError: there is a file already.
        OSError: the file cannot be written.
    """
    secret = secrets.token_bytes(SECRET_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{header}\n{secret.hex()}\n")
        file.flush()
        os.fsync(descriptor)
    return secret


def read_secret(path: Path, header: str) -> bytes:
    """Read a secret.

    Raises:
        FileNotFoundError: there is no such file.
        UsageError: it is no such key, or others than its owner can read it.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"'{path}' cannot be read as a key file.") from None
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(
            f"'{path}' can be read by others than its owner, so it is no secret; "
            f"run `chmod 600 '{path}'` and ask yourself who has read it."
        )
    found, _, rest = text.partition("\n")
    try:
        secret = bytes.fromhex(rest.strip())
    except ValueError:
        secret = b""
    if found != header or len(secret) != SECRET_BYTES:
        raise UsageError(
            f"'{path}' is not a key file of this version of Evenhand "
            f"('{header}', then 64 hexadecimal digits); restore it from its backup."
        )
    return secret
