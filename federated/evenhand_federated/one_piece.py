"""Tensors in one piece on their way: Flower hands on each by itself.

Flower 1.41 takes a message apart into objects, two for each tensor, and each object is a request
of its own between ServerApp, SuperLink, SuperNode and ClientApp: an adapter of 66 tensors makes
800 requests a hospital and round. In one piece it makes 30. The piece is what safetensors writes,
so a stranger's is read as numbers or not at all. Only real hospitals send so; in a simulation
nothing goes over a network.
"""

from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from safetensors.numpy import load, save

from evenhand.errors import FederationError

__all__ = ["is_in_one_piece", "joined", "taken_apart"]

_PIECE = "in one piece"


def joined(content: RecordDict) -> RecordDict:
    """The same content with the tensors of each record in one piece.

    Raises:
        FederationError: a tensor cannot be read.
    """
    return _changed(content, _join)


def taken_apart(content: RecordDict) -> RecordDict:
    """What was joined, as it was: names in their order, shapes, types, values.

    Raises:
        FederationError: a piece is damaged.
    """
    return _changed(content, _take_apart)


def is_in_one_piece(content: RecordDict) -> bool:
    """Whether content was joined."""
    records = content.array_records.values()
    return bool(records) and all(list(record) == [_PIECE] for record in records)


def _changed(content: RecordDict, change: Callable[[ArrayRecord], ArrayRecord]) -> RecordDict:
    try:
        return RecordDict(
            {
                name: change(one) if isinstance(one, ArrayRecord) else one
                for name, one in content.items()
            }
        )
    except Exception:  # noqa: BLE001 - a stranger's bytes: NumPy's reader fails in many ways
        raise FederationError("Tensors came in a form that cannot be read.") from None


def _join(record: ArrayRecord) -> ArrayRecord:
    # safetensors has an order of its own; numbers before the names keep ours.
    tensors = {
        f"{number:06d} {name}": np.asarray(one.numpy(), order="C")
        for number, (name, one) in enumerate(record.items())
    }
    return ArrayRecord({_PIECE: Array(np.frombuffer(save(tensors), np.uint8))})


def _take_apart(record: ArrayRecord) -> ArrayRecord:
    tensors = load(record[_PIECE].numpy().tobytes())
    return ArrayRecord({name[7:]: Array(tensors[name]) for name in sorted(tensors)})
