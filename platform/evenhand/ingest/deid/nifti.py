"""NIfTI without what people write into its header: voxels and geometry stay to the bit.

Cleared are the free texts (`descrip`, `aux_file`, `intent_name`, and in
NIfTI-1 `db_name` and `data_type`), all header extensions (which may hold a whole
DICOM header), whatever follows the voxels, and the file name and time that gzip
keeps.
"""

import gzip
import math
import struct
import zlib

from evenhand.errors import DataError

__all__ = ["clean_nifti"]

_ONE, _TWO = 348, 540
_FREE_TEXT = {
    _ONE: ((4, 32), (148, 252), (328, 344)),
    _TWO: ((240, 344), (508, 524), (525, 540)),
}
"""Byte ranges of the free texts, by header size (nifti1.h, nifti2.h)."""
_MAGIC = {_ONE: (344, b"n+1\0"), _TWO: (4, b"n+2\0\r\n\x1a\n")}
_EXTENSION_FLAG_BYTES = 4


def clean_nifti(content: bytes) -> bytes:
    """The same volume without free text; gzipped if it came gzipped.

    Raises:
        DataError: not a whole, single-file NIfTI volume.
    """
    packed = content[:2] == b"\x1f\x8b"
    if packed:
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            raise DataError("It is a damaged gzip file.") from None
    cleaned = _clean(content)
    return gzip.compress(cleaned, compresslevel=1, mtime=0) if packed else cleaned


def _clean(content: bytes) -> bytes:
    size, order = _header_size(content)
    at, magic = _MAGIC[size]
    if content[at : at + len(magic)] != magic:
        raise DataError("It is not a NIfTI volume in a single file (.nii or .nii.gz).")
    header = bytearray(content[:size])
    for start, stop in _FREE_TEXT[size]:
        header[start:stop] = bytes(stop - start)
    offset, voxel_bytes = _data_place(header, size, order)
    voxels = content[offset : offset + voxel_bytes]
    if offset < size or len(voxels) != voxel_bytes:
        raise DataError("It ends before its last voxel.")
    new_offset = size + _EXTENSION_FLAG_BYTES
    if size == _ONE:
        struct.pack_into(order + "f", header, 108, float(new_offset))
    else:
        struct.pack_into(order + "q", header, 168, new_offset)
    return bytes(header) + bytes(_EXTENSION_FLAG_BYTES) + voxels


def _header_size(content: bytes) -> tuple[int, str]:
    for order in "<>":
        if len(content) >= _ONE and struct.unpack_from(order + "i", content)[0] in _MAGIC:
            size = int(struct.unpack_from(order + "i", content)[0])
            if len(content) > size:
                return size, order
    raise DataError("It is not NIfTI, or ends within its header.")


def _data_place(header: bytearray, size: int, order: str) -> tuple[int, int]:
    """Where voxels begin, and how many bytes they take."""
    if size == _ONE:
        dim = struct.unpack_from(order + "8h", header, 40)
        bits = struct.unpack_from(order + "h", header, 72)[0]
        start = struct.unpack_from(order + "f", header, 108)[0]
    else:
        dim = struct.unpack_from(order + "8q", header, 16)
        bits = struct.unpack_from(order + "h", header, 14)[0]
        start = struct.unpack_from(order + "q", header, 168)[0]
    rank = dim[0]
    if not 1 <= rank <= 7 or min(dim[1 : rank + 1]) < 1 or bits < 1 or not math.isfinite(start):
        raise DataError("Its header names an impossible size.")
    return int(start), (math.prod(dim[1 : rank + 1]) * bits + 7) // 8
