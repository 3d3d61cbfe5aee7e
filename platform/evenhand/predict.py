"""Case and prompt in, mask and probability out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from evenhand.cases.records import Case
from evenhand.cases.store import CaseStore
from evenhand.errors import DataError
from evenhand.model.adapted import AdaptedModel
from evenhand.model.embeddings import EmbeddingCache
from evenhand.model.preprocessing import Letterbox, display_range, with_neighbours
from evenhand.model.prompts import jittered, tight_boxes

__all__ = [
    "Prediction",
    "SlicePrompt",
    "boxes_from_reference",
    "predict_automatic",
    "predict_boxes",
    "predict_prompt",
    "without_specks",
]

_BATCH = 8


@dataclass(frozen=True, eq=False)
class Prediction:
    """A proposed mask.

    Attributes:
        mask: (i, j, k) uint8, 0 and 1, on the case's own grid.
        probability: (i, j, k) float16.
    """

    mask: NDArray[np.uint8]
    probability: NDArray[np.float16]

    @classmethod
    def from_logits(cls, logits: Tensor, *, threshold: float) -> "Prediction":
        """From (k, i, j) logits; a voxel belongs to the mask above `threshold` probability."""
        probability = logits.sigmoid().permute(1, 2, 0).numpy()
        return cls((probability > threshold).astype(np.uint8), probability.astype(np.float16))


@torch.inference_mode()
def predict_automatic(
    model: AdaptedModel,
    store: CaseStore,
    cache: EmbeddingCache,
    case: Case,
    *,
    threshold: float = 0.5,
) -> Prediction:
    """Segment a whole volume without a prompt, every slice."""
    volume = store.volumes(case, (cache.sequence,)).images[cache.sequence]
    slices = display_range(volume)
    box = Letterbox(slices.shape[1], slices.shape[2], model.config.head_size)
    slices = box.apply(slices[:, None])[:, 0]
    parts = []
    for index, hidden in _batches(cache, case):
        parts.append(box.invert(model.propose(with_neighbours(slices, index), hidden)))
    proposed = Prediction.from_logits(torch.cat(parts), threshold=threshold)
    mask = without_specks(proposed.mask, model.config.smallest_component)
    return Prediction(mask, proposed.probability)


def without_specks(mask: NDArray[np.uint8], fraction: float) -> NDArray[np.uint8]:
    """Drop 6-connected parts of a mask (i, j, k) under `fraction` of its largest part."""
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept = sizes >= max(1.0, fraction * sizes.max())
    cleaned: NDArray[np.uint8] = kept[labels].astype(np.uint8)
    return cleaned


@torch.inference_mode()
def predict_boxes(
    model: AdaptedModel,
    cache: EmbeddingCache,
    case: Case,
    boxes: Tensor,
    *,
    threshold: float = 0.5,
) -> Prediction:
    """Segment the slices that have a box; the others stay empty.

    Args:
        model: with or without a trained adapter.
        cache: of the case's hospital.
        case: what is segmented.
        boxes: (k, 4), x0 y0 x1 y1 in pixels of the slice; NaN where there is none.
        threshold: probability above which a voxel belongs to the mask.
    """
    height, width, depth = case.shape
    box = Letterbox(height, width, model.config.image_size)
    logits = torch.full((depth, height, width), -20.0)
    for index, hidden in _batches(cache, case):
        given = ~boxes[index, 0].isnan()
        if given.any():
            answer = model.answer_boxes(hidden[given], box.boxes(boxes[index[given]]))
            logits[index[given]] = box.invert(answer)
    return Prediction.from_logits(logits, threshold=threshold)


@dataclass(frozen=True, kw_only=True)
class SlicePrompt:
    """What a reader points at on one slice, in its pixels: x along j, y along i, edges whole.

    Attributes:
        index: the slice, k.
        box: x0 y0 x1 y1; None: no box.
        points: x, y, and whether the place is inside; 0.5 is the middle of the first pixel.
    """

    index: int
    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float, bool], ...] = ()

    def __post_init__(self) -> None:
        """Refuse a prompt that points at nothing."""
        if self.box is None and not any(inside for *_, inside in self.points):
            raise DataError("The model needs a box, or a point inside; draw one.")


@torch.inference_mode()
def predict_prompt(
    model: AdaptedModel,
    cache: EmbeddingCache,
    case: Case,
    prompt: SlicePrompt,
    *,
    threshold: float = 0.5,
) -> NDArray[np.uint8]:
    """Segment one slice by what a reader points at: (i, j) of 0 and 1.

    Args:
        model: with or without a trained adapter.
        cache: of the case's hospital; the case must be in it.
        case: whose slice it is.
        prompt: box, points, or both.
        threshold: probability above which a pixel belongs to the mask.

    Raises:
        DataError: there is no such slice.
        ResourceError: the case is not in the cache.
    """
    height, width, depth = case.shape
    if not 0 <= prompt.index < depth:
        raise DataError(f"The case has slices 0 to {depth - 1}; a prompt names another.")
    fit = Letterbox(height, width, model.config.image_size)
    hidden = torch.tensor(cache.read(case)[prompt.index][None]).float()
    boxes = points = None
    if prompt.box is not None:
        boxes = fit.boxes(torch.tensor([prompt.box]))
    if prompt.points:
        places = torch.tensor([[[x, y] for x, y, _ in prompt.points]])
        labels = torch.tensor([[float(inside) for *_, inside in prompt.points]])
        points = fit.points(places), labels
    logits = fit.invert(model.answer_prompts(hidden, boxes=boxes, points=points))
    return (logits[0].sigmoid() > threshold).numpy().astype(np.uint8)


def boxes_from_reference(mask: NDArray[np.uint8], *, jitter: int, seed: int) -> Tensor:
    """Jittered boxes around each slice of a reference mask (i, j, k): prompts for evaluation."""
    boxes = tight_boxes(torch.from_numpy(np.ascontiguousarray(mask.transpose(2, 0, 1))))
    given = ~boxes[:, 0].isnan()
    generator = torch.Generator().manual_seed(seed)
    limit = float(max(mask.shape[:2]))
    boxes[given] = jittered(boxes[given], by=jitter, limit=limit, generator=generator)
    return boxes


def _batches(cache: EmbeddingCache, case: Case) -> Iterator[tuple[Tensor, Tensor]]:
    hidden = cache.read(case)
    for index in torch.split(torch.arange(case.shape[2]), _BATCH):
        yield index, torch.tensor(hidden[index[0] : index[-1] + 1]).float()
