"""Frozen activations of a case, encrypted slice by slice: what is drawn is decrypted, no more.

    FILE = 4 bytes of length, sealed header (JSON: shape), then one sealed slice after the other

A memory map cannot decrypt, so this takes its place where the store is sealed. Each slice is sealed
with the file's name and its number: none can be put into another's place.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evenhand.cases.sealing import OVERHEAD_BYTES, StoreKey
from evenhand.errors import DataError

__all__ = ["SealedSlices", "sealed_pieces"]

_LENGTH_BYTES = 4
_LONGEST_HEADER = 4096
_DTYPE = np.dtype(np.float16)


def sealed_pieces(values: NDArray[np.float16], name: str, key: StoreKey) -> Iterator[bytes]:
    """Yield the pieces of a file of activations (k, channels, grid, grid)."""
    header = key.seal(json.dumps(values.shape).encode(), f"{name}/header")
    yield len(header).to_bytes(_LENGTH_BYTES, "little") + header
    for number, plane in enumerate(values):
        yield key.seal(np.ascontiguousarray(plane).tobytes(), f"{name}/{number}")


class SealedSlices:
    """Activations in a sealed file, read like an array (k, channels, grid, grid) by its first axis.

    Args:
        path: the file.
        key: that sealed it.

    Raises:
        FileNotFoundError: there is no such file.
        StoreError: it was sealed with another key, or was changed.
        DataError: it is cut off or no such file.
    """

    def __init__(self, path: Path, key: StoreKey) -> None:
        self._path, self._key = path, key
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if length > _LONGEST_HEADER:
                raise DataError("no file of sealed activations")
            header = json.loads(key.unseal(file.read(length), f"{path.name}/header"))
        self.shape: tuple[int, ...] = tuple(header)
        self._start = _LENGTH_BYTES + length
        self._step = int(np.prod(self.shape[1:])) * _DTYPE.itemsize + OVERHEAD_BYTES
        if path.stat().st_size != self._start + len(self) * self._step:
            raise DataError("sealed activations that are cut off")

    def __len__(self) -> int:
        """How many slices there are."""
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> NDArray[np.float16]:
        """Decrypt one slice (channels, grid, grid), or several (n, channels, grid, grid)."""
        if isinstance(index, slice):
            picked = [self[number] for number in range(*index.indices(len(self)))]
            return np.stack(picked) if picked else np.empty((0, *self.shape[1:]), _DTYPE)
        number = range(len(self))[index]
        with self._path.open("rb") as file:
            file.seek(self._start + number * self._step)
            sealed = file.read(self._step)
        content = self._key.unseal(sealed, f"{self._path.name}/{number}")
        return np.frombuffer(content, _DTYPE).reshape(self.shape[1:])
