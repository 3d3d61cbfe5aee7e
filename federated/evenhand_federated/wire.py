"""How an adapter's numbers travel, both ways (`federation.precision`); imports no torch.

In float32 they travel as they are. In float16 half as many bytes do:

- To hospitals goes the common adapter, rounded. All of them start from the same numbers; the
  coordinator keeps its own in float32, so what a round changes by less than the rounding adds up.
- Back comes what training has changed, rounded, and the coordinator adds it to its own. A change
  is small beside the number that it changes, so little is lost.

Each tensor is first divided by the power of two that brings its largest number to 2^14..2^15; the
powers travel beside the tensors. So nothing overflows, and no tensor is too small: a number x of a
tensor whose largest is m comes back within |x| 2^-11 + m 2^-39 (float16 has 11 bits; the second
term is where it runs out of exponents). What is not finite is refused, never clipped.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from evenhand.config import Precision
from evenhand.errors import FederationError
from evenhand_federated.answers import tensor_fault

__all__ = [
    "answer_fault",
    "answered",
    "bytes_of",
    "common",
    "halved",
    "received",
    "restored",
    "update",
]

Numbers = NDArray[Any]

_POWERS = "powers"
"""Record and entry with the power of two of each tensor, in the order of sorted names."""

_LARGEST_POWER = 2**10
"""More than float64 has; what a stranger sends is looked at before it is used."""


def halved(values: Numbers) -> tuple[NDArray[np.float16], int]:
    """Numbers in half precision, and the power of two that they are to be multiplied by.

    Raises:
        FederationError: one is not finite.
    """
    exact = np.asarray(values, np.float64)
    largest = float(np.abs(exact).max(initial=0.0))
    if not np.isfinite(largest):
        raise FederationError(
            "A number of the adapter is not finite. Nothing is sent. Train with a smaller "
            "learning rate or fewer local epochs."
        )
    power = int(np.frexp(largest)[1]) - 15 if largest else 0
    return np.ldexp(exact, -power).astype(np.float16), power


def restored(half: NDArray[np.float16], power: int) -> NDArray[np.float64]:
    """What `halved` gave, as numbers."""
    return np.ldexp(half.astype(np.float64), power)


def common(arrays: ArrayRecord, precision: Precision) -> dict[str, ArrayRecord | ConfigRecord]:
    """What of a message takes the common adapter to hospitals.

    Raises:
        FederationError: a number is not finite.
    """
    if precision == "float32":
        return {"arrays": arrays}
    return _records({name: one.numpy() for name, one in arrays.items()})


def received(content: RecordDict, precision: Precision) -> ArrayRecord:
    """The common adapter that came, in float32.

    Raises:
        FederationError: it came in another form than was agreed on.
    """
    arrays: ArrayRecord = content["arrays"]
    if precision == "float32":
        return arrays
    shapes = {name: tuple(one.shape) for name, one in arrays.items()}
    if (fault := _half_fault(content, shapes)) is not None:
        raise FederationError(f"The common adapter came as {fault}; float16 was agreed on.")
    with np.errstate(over="ignore"):  # looked for below
        whole = {name: one.astype(np.float32) for name, one in _restored(content).items()}
    if not all(np.isfinite(one).all() for one in whole.values()):
        raise FederationError("The common adapter came with numbers beyond float32.")
    return ArrayRecord({name: Array(one) for name, one in whole.items()})


def update(
    before: ArrayRecord, after: ArrayRecord, precision: Precision
) -> dict[str, ArrayRecord | ConfigRecord]:
    """What of an answer takes a hospital's adapter back.

    Args:
        before: the common adapter as `received` gave it.
        after: what was trained from it and may leave.
        precision: agreed on.

    Raises:
        FederationError: a number is not finite, and float16 was agreed on.
    """
    if precision == "float32":
        return {"arrays": after}
    return _records(
        {name: _change(before[name].numpy(), one.numpy()) for name, one in after.items()}
    )


def answer_fault(content: RecordDict, wanted: ArrayRecord, precision: Precision) -> str | None:
    """Why the tensors of a hospital's answer cannot be used; None where they can.

    Args:
        content: of the answer; its record `arrays` is there.
        wanted: the common adapter, as the coordinator has it.
        precision: agreed on.
    """
    arrays: ArrayRecord = content["arrays"]
    if arrays.keys() != wanted.keys():
        return "tensors of other names"
    if precision == "float32":
        return _whole_fault(arrays, wanted)
    if (fault := _half_fault(content, {n: tuple(o.shape) for n, o in wanted.items()})) is not None:
        return fault
    return _whole_fault(answered(content, wanted, precision), wanted)


def answered(content: RecordDict, before: ArrayRecord, precision: Precision) -> ArrayRecord:
    """A hospital's adapter, of an answer without fault.

    Args:
        content: of the answer.
        before: the common adapter that the round began with, as the coordinator has it.
        precision: agreed on.
    """
    if precision == "float32":
        whole: ArrayRecord = content["arrays"]
        return whole
    with np.errstate(over="ignore"):  # `answer_fault` looks for what is not finite
        return ArrayRecord(
            {
                name: Array((before[name].numpy() + change).astype(before[name].dtype))
                for name, change in _restored(content).items()
            }
        )


def bytes_of(content: Mapping[str, Any]) -> int:
    """Bytes of the tensors in a message, with the powers beside them."""
    powers = content[_POWERS].count_bytes() if _POWERS in content else 0
    return int(content["arrays"].count_bytes() + powers)


def _change(before: Numbers, after: Numbers) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # inf - inf is refused where it is halved
        return after.astype(np.float64) - before.astype(np.float64)


def _records(tensors: Mapping[str, Numbers]) -> dict[str, ArrayRecord | ConfigRecord]:
    halves = {name: halved(one) for name, one in tensors.items()}
    return {
        "arrays": ArrayRecord({name: Array(half) for name, (half, _) in halves.items()}),
        _POWERS: ConfigRecord({_POWERS: [halves[name][1] for name in sorted(halves)]}),
    }


def _whole_fault(arrays: ArrayRecord, wanted: ArrayRecord) -> str | None:
    """Why an adapter that came in float32 cannot be used; None where it can."""
    faults = (
        tensor_fault(arrays[name], tuple(one.shape), one.dtype) for name, one in wanted.items()
    )
    return next((fault for fault in faults if fault is not None), None)


def _half_fault(content: RecordDict, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Why tensors in half precision cannot be read; None where they can."""
    powers = content.config_records.get(_POWERS, {}).get(_POWERS)
    if not isinstance(powers, list) or len(powers) != len(shapes):
        return "tensors without a power of two for each"
    if not all(type(one) is int and abs(one) <= _LARGEST_POWER for one in powers):
        return "tensors with a power of two that is none"
    faults = (tensor_fault(content["arrays"][n], shape, "float16") for n, shape in shapes.items())
    return next((fault for fault in faults if fault is not None), None)


def _restored(content: RecordDict) -> dict[str, NDArray[np.float64]]:
    powers = dict(zip(sorted(content["arrays"]), content[_POWERS][_POWERS], strict=True))
    return {name: restored(one.numpy(), powers[name]) for name, one in content["arrays"].items()}
