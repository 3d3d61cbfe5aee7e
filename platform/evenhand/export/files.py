"""DICOM objects as files: whole or not at all."""

import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from evenhand.errors import ResourceError

__all__ = ["save_whole"]


def save_whole(dataset: Any, path: Path) -> None:
    """Write a DICOM object into a folder that is made if need be.

    Args:
        dataset: a pydicom dataset with its file meta information.
        path: the file; one that is there is replaced.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(draft)
        draft.replace(path)
    except OSError as error:
        raise ResourceError(f"'{path}' cannot be written: {error.strerror}.") from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
