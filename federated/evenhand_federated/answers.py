"""What all sides agree on about answers: of an error only its kind leaves; what makes one bad."""

import math
from contextlib import suppress
from datetime import UTC, datetime

import numpy as np
from flwr.app import Array, Error, Message, MetricRecord

from evenhand.errors import BudgetError
from evenhand.experiment.layout import HospitalHome
from evenhand_federated.orders import BUDGET_REFUSED, FAILED

__all__ = ["figures_fault", "note", "refusal", "tensor_fault"]


def refusal(error: Exception, message: Message) -> Message:
    """The answer in place of an error: its kind and a code, and not a word of its text."""
    code = BUDGET_REFUSED if isinstance(error, BudgetError) else FAILED
    return Message(Error(code, type(error).__name__), reply_to=message)


def note(home: HospitalHome, text: str) -> None:
    """Write into the hospital's own log, if that can be written."""
    # A full disk must not turn into an error that names the log's path and leaves.
    with suppress(OSError), home.log_path.open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")


def figures_fault(figures: MetricRecord) -> str | None:
    """Why a hospital's figures cannot be used; None where they can."""
    if not all(isinstance(one, int | float) and math.isfinite(one) for one in figures.values()):
        return "a figure that is not a finite number"
    return None


def tensor_fault(came: Array, shape: tuple[int, ...], dtype: str) -> str | None:
    """Why a tensor cannot be used; None where it can."""
    try:
        values = came.numpy()
    except Exception:  # noqa: BLE001 - a stranger's bytes: NumPy's reader fails in many ways
        return "a tensor that cannot be read"
    if values.shape != shape or str(values.dtype) != dtype:
        return "a tensor of another shape or type"
    return None if np.isfinite(values).all() else "a value that is not finite"
