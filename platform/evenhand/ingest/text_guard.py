"""The door for burned-in text, where somebody asks for it: what can be read is refused.

The OCR library looks at the first, the middle and the last slice of each sequence and at the
brightest value over all slices: burned-in text stands still. A region that may be text but could
not be read may be anatomy as well: it is noted in the evidence, and `evenhand quality` lists it for
a person to look at. The text itself is neither kept nor printed.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from evenhand.errors import DataError
from evenhand.ingest.deid.burned_in import CERTAIN, eight_bits, find_text
from evenhand.ingest.recipes import Content

__all__ = ["MARK", "TEXT", "free_of_text"]

MARK = ", text looked for"
"""What the source of a case says beside its fingerprint: without a look others are stored."""

TEXT = "burned-in text"
"""Where the evidence of a case has what was found."""


def free_of_text(content: Content) -> Content:
    """Return the content with evidence of where there may be text.

    Raises:
        DataError: there is text in a picture.
        ResourceError: the OCR library is not installed.
    """
    uncertain: dict[str, list[tuple[int, int, int, int]]] = {}
    for name, image in content.images.items():
        found = [(box, score) for view in _views(image) for box, score in find_text(view)]
        certain = {box for box, score in found if score >= CERTAIN}
        if certain:
            raise DataError(
                f"{name} shows text in {len(certain)} place(s). Clean the files with `evenhand "
                "deidentify --option clean-pixels` and take in what it wrote; if it is no text, "
                "take the case in without --look-for-text."
            )
        boxes = sorted({box for box, _ in found})
        if boxes:
            uncertain[name] = boxes
    record: Mapping[str, object] = {
        "looked at": "first, middle and last slice, brightest value over all",
        "perhaps": uncertain,
    }
    return replace(content, evidence={**content.evidence, TEXT: record})


def _views(image: NDArray[np.float32]) -> list[NDArray[np.uint8]]:
    """Pictures (rows, columns, 3) of a volume (columns, rows, slices)."""
    last = image.shape[2] - 1
    chosen = [image[:, :, index] for index in sorted({0, last // 2, last})]
    if last:
        chosen.append(image.max(axis=2))
    return [eight_bits(np.ascontiguousarray(each.T)) for each in chosen]
