"""Files that hold one secret of 256 bits: a header that says what it is for, then 64 hex digits."""

import errno
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

    The file appears whole or not at all: what is there but empty would block for good.

    Raises:
        FileExistsError: there is a file already.
        OSError: the file cannot be written.
    """
    secret = secrets.token_bytes(SECRET_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{header}\n{secret.hex()}\n")
            file.flush()
            os.fsync(descriptor)
        os.link(draft, path)  # unlike a rename it replaces nothing
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return secret


def _sync_folder(folder: Path) -> None:
    """Let a new name outlast a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
