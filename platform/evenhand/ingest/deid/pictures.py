"""PNG and JPEG without what stands beside the picture; pixels stay to the bit.

Kept is only what is needed to show the picture: a list of what may stay, not
one of what must go.
"""

import struct
import zlib

from evenhand.errors import DataError

__all__ = ["clean_jpeg", "clean_png"]

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"sRGB", b"pHYs"})
"""Texts (tEXt, zTXt, iTXt), EXIF, times, colour profiles and unknown chunks go."""

_JPEG_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_KEPT = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, *range(0xC0, 0xD0)})
_JFIF_BYTES = 14
_APP0, _APP14, _SOS, _EOI = 0xE0, 0xEE, 0xDA, 0xD9


def clean_png(content: bytes) -> bytes:
    """The same picture with only the chunks that show it; what follows its end goes.

    Raises:
        DataError: not a PNG, or damaged.
    """
    if content[:8] != _PNG:
        raise DataError("It is not a PNG picture.")
    parts, at = [_PNG], 8
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        kind, end = content[at + 4 : at + 8], at + 12 + length
        chunk = content[at:end]
        if len(chunk) != length + 12 or zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]):
            raise DataError("It is a damaged PNG picture.")
        if kind in _PNG_KEPT:
            parts.append(chunk)
        if kind == b"IEND":
            return b"".join(parts)
        at = end
    raise DataError("It is a PNG picture that ends too early.")


def clean_jpeg(content: bytes) -> bytes:
    """The same picture without EXIF, comments, thumbnails and whatever follows its end.

    Raises:
        DataError: not a JPEG, or damaged.
    """
    if content[:2] != b"\xff\xd8":
        raise DataError("It is not a JPEG picture.")
    parts, at = [b"\xff\xd8"], 2
    while at + 4 <= len(content):
        if content[at] != 0xFF:
            raise DataError("It is a damaged JPEG picture.")
        marker = content[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == _EOI:
            return b"".join((*parts, b"\xff\xd9"))
        if marker in _JPEG_STANDALONE:
            parts.append(content[at : at + 2])
            at += 2
            continue
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4])
        if end > len(content):
            break
        parts.append(_jpeg_segment(marker, content[at:end]))
        at = end
        if marker == _SOS:
            scan_end = _end_of_scan(content, at)
            parts.append(content[at:scan_end])
            at = scan_end
    if content[at : at + 2] == b"\xff\xd9":
        return b"".join((*parts, b"\xff\xd9"))
    raise DataError("It is a JPEG picture that ends too early.")


def _jpeg_segment(marker: int, segment: bytes) -> bytes:
    if marker in _JPEG_KEPT or marker == _SOS:
        return segment
    if marker == _APP14 and segment[4:9] == b"Adobe":
        return segment[:2] + (14).to_bytes(2) + segment[4:16]
    if marker == _APP0 and segment[4:9] == b"JFIF\0":  # the thumbnail that may follow goes
        body = segment[4 : 4 + _JFIF_BYTES - 2] + b"\0\0"
        return segment[:2] + (len(body) + 2).to_bytes(2) + body
    return b""


def _end_of_scan(content: bytes, at: int) -> int:
    """Where the next marker stands that is neither data nor a restart."""
    while (found := content.find(b"\xff", at)) >= 0 and found + 1 < len(content):
        following = content[found + 1]
        if following and following != 0xFF and not 0xD0 <= following <= 0xD7:
            return found
        at = found + 2 if following != 0xFF else found + 1
    return len(content)
