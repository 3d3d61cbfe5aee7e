"""Volumes as NIfTI files: written the same bytes each time, read whole or refused by name.

nibabel is imported where a volume is read or written: with pydicom, which comes with it, it takes
a third of a second, and most commands and most messages of a federation touch no volume.
"""

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evenhand.errors import DataError, ResourceError
from evenhand.geometry import Affine

if TYPE_CHECKING:
    import nibabel as nib

__all__ = [
    "nifti_members",
    "parse_nifti",
    "read_channels",
    "read_nifti",
    "write_nifti",
    "write_nifti_whole",
]

_NIFTI2_HEADER_BYTES = 540
_SLACK_BYTES = 2**20
"""What a file may hold beside header and voxels: extensions, padding."""
_LARGEST_BYTES = 2**33
"""Voxels of one volume; a header that promises more is damaged."""
_BLOCK_BYTES = 2**22
"""Voxels are compressed in blocks of this size, each a gzip member of its own."""


def read_nifti(path: Path, *, name: str) -> tuple[NDArray[Any], Affine]:
    """Read a 3-D volume (i, j, k) as it is, and its affine.

    The whole file is read, so that a gzip stream that ends early or whose
    checksum is wrong is found, which reading through nibabel alone does not do.
    It is never inflated further than its header promises.

    Args:
        path: `.nii` or `.nii.gz`.
        name: what an error calls the file.

    Raises:
        DataError: missing, truncated or damaged, not 3-D, not numbers, or an
            affine that cannot be inverted.
    """
    return parse_nifti(_content(path, name), name=name)


def parse_nifti(content: bytes, *, name: str) -> tuple[NDArray[Any], Affine]:
    """Read a volume from the content of a file, as `read_nifti` does.

    Raises:
        DataError: as `read_nifti`.
    """
    voxels, matrix = _parsed(content, name, dimensions=(3,))
    return voxels, _affine(matrix, name)


def read_channels(path: Path, *, name: str) -> tuple[NDArray[Any], Affine]:
    """Read a volume with channels (i, j, k, channel), as `read_nifti` does; 3-D: one channel.

    Raises:
        DataError: as `read_nifti`.
    """
    voxels, matrix = _parsed(_content(path, name), name, dimensions=(3, 4))
    return voxels[..., None] if voxels.ndim == 3 else voxels, _affine(matrix, name)


def _content(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"'{name}' is missing; a NIfTI volume was wanted. Restore it.") from None
    except OSError:
        raise _damaged(name) from None


def _damaged(name: str) -> DataError:
    return DataError(
        f"'{name}' is truncated, damaged or not NIfTI: it could not be read to its end. "
        "Copy it again from where it came from."
    )


def _parsed(
    content: bytes, name: str, *, dimensions: tuple[int, ...]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    try:
        if content[:2] == b"\x1f\x8b":
            content = _inflated(content)
        image = _kind(content).from_bytes(content)
        voxels: NDArray[Any] = np.asarray(image.dataobj)
    except _read_errors():
        raise _damaged(name) from None
    if voxels.ndim not in dimensions or voxels.dtype.kind not in "biuf":
        raise DataError(
            f"'{name}' must hold a 3-D volume of numbers; it has shape {voxels.shape} and type "
            f"{voxels.dtype}. Split or convert it into one 3-D volume a file."
        )
    return voxels, image.affine


def _read_errors() -> tuple[type[Exception], ...]:
    """What a damaged file can raise."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    own = (ImageFileError, HeaderDataError, WrapStructError)
    return (OSError, EOFError, ValueError, MemoryError, zlib.error, *own)


def _affine(matrix: NDArray[np.float64], name: str) -> Affine:
    try:
        return Affine(matrix)
    except DataError:
        raise DataError(
            f"'{name}' has an affine that cannot be inverted, so its voxels have no place in "
            "space; write a valid sform or qform."
        ) from None


def write_nifti(path: Path, voxels: NDArray[Any], affine: Affine) -> None:
    """Write a volume (i, j, k) as gzipped NIfTI-1; equal input gives equal bytes.

    Args:
        path: ends in `.nii.gz`.
        voxels: stored in their own type.
        affine: of the volume.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        file.writelines(nifti_members(voxels, affine))


def nifti_members(voxels: NDArray[Any], affine: Affine) -> Iterator[bytes]:
    """Yield the pieces of a gzipped NIfTI-1 file of a volume, as `write_nifti` writes them."""
    import nibabel as nib

    image = nib.Nifti1Image(voxels, affine.ras_from_voxel, dtype=voxels.dtype)
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    blocks = [content[at : at + _BLOCK_BYTES] for at in range(0, len(content), _BLOCK_BYTES)]
    del content
    yield from _each(_compressed, blocks)


def write_nifti_whole(path: Path, voxels: NDArray[Any], affine: Affine) -> None:
    """Write as `write_nifti` does, into a folder that is made if need be: whole or not at all.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    draft = path.with_name(f".{path.name.removesuffix('.nii.gz')}.{os.getpid()}.nii.gz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(draft, voxels, affine)
        draft.replace(path)
    except OSError as error:
        raise ResourceError(
            f"'{path}' could not be written: {error.strerror}. Free space or name another folder."
        ) from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _compressed(block: bytes) -> bytes:
    # Speed matters more than the last percent of size: level 1 writes 4 times faster than 9.
    return gzip.compress(block, compresslevel=1, mtime=0)


def _each(function: Callable[[bytes], bytes], blocks: list[bytes]) -> Iterable[bytes]:
    """Apply `function` to each block, in order, on all cores: zlib lets go of Python's lock.

    Where blocks begin depends on the content alone, so equal input gives equal
    bytes on any number of cores.
    """
    if len(blocks) == 1:
        yield function(blocks[0])
        return
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        yield from threads.map(function, blocks)


def _kind(content: bytes) -> "type[nib.Nifti1Image]":
    import nibabel as nib

    second = int.from_bytes(content[:4], "little") == _NIFTI2_HEADER_BYTES
    kind: type[nib.Nifti1Image] = nib.Nifti2Image if second else nib.Nifti1Image
    return kind


def _inflated(content: bytes) -> bytes:
    """Inflate a gzipped NIfTI file, to what its header promises and no further.

    Raises:
        ValueError: the header promises too much, or the stream holds more.
        OSError, EOFError, zlib.error: the stream is damaged or ends early.
    """
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
        start = stream.read(_NIFTI2_HEADER_BYTES)
        header = _kind(start).header_class(start[: _kind(start).header_class.sizeof_hdr])
        size = header.get_data_dtype().itemsize
        for length in header.get_data_shape():
            size *= max(int(length), 0)
        if size > _LARGEST_BYTES:
            raise ValueError("more voxels than any scanner makes")
        whole = start + stream.read(size + _SLACK_BYTES)
        if stream.read(1):  # also makes the end of the stream checked
            raise ValueError("more content than the header promises")
        return whole
