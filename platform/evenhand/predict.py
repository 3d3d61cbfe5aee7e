"""Case and prompt in, mask and probability out.

A case is opened once (`OpenCase`) and then asked: without a prompt, with a box on each slice, or
with a box on one slice from which the mask is carried on.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from evenhand.cases.records import Case
from evenhand.cases.store import CaseStore
from evenhand.errors import DataError
from evenhand.metrics.calibration import calibration_window
from evenhand.metrics.surfaces import crop_to_masks
from evenhand.model.adapted import AdaptedModel
from evenhand.model.embeddings import EmbeddingCache, FrozenEncoder
from evenhand.model.growing import GrowingSlices
from evenhand.model.head import HINTS, box_hints
from evenhand.model.preprocessing import Letterbox, display_slices, with_neighbours
from evenhand.model.prompts import jittered, tight_boxes
from evenhand.model.sealed_slices import SealedSlices

__all__ = [
    "OpenCase",
    "Prediction",
    "SlicePrompt",
    "boxes_from_reference",
    "predict_automatic",
    "predict_boxes",
    "predict_from_slice",
    "predict_hinted_boxes",
    "predict_hinted_slice",
    "predict_labels",
    "predict_prompt",
    "together",
    "without_specks",
]

Hidden = NDArray[np.float16] | SealedSlices | GrowingSlices
"""Frozen activations (k, channels, grid, grid), read some slices at a time."""
NOTHING = -torch.inf
"""Logit where nobody was asked: no temperature makes a tumour likely there."""

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

    @property
    def uncertainty(self) -> float:
        """1 - the Dice that the probabilities promise, 0 to 1.

        If each voxel is tumour with its own probability, then 2 sum(p m) / (sum(p) + sum(m))
        is about the Dice to expect of the mask m. Sums are over the voxels around the mask that
        probabilities are calibrated on (`evenhand.metrics.calibration`): far from it a
        million voxels of next to no probability would add up to a second tumour. It orders a
        reader's list; how well it predicts the true Dice is measured (docs/results/model.md).
        One voxel is added above and below the line, so that nothing found where nothing is
        likely is certain; there the whole volume counts.
        """
        probability, mask = self.probability.astype(np.float32), self.mask == 1
        if mask.any():
            near = calibration_window(crop_to_masks(mask))
            probability, mask = probability[near], mask[near]
        agreed = float(probability[mask].sum())
        return 1 - (2 * agreed + 1) / (float(probability.sum()) + int(mask.sum()) + 1)

    @classmethod
    def from_logits(
        cls, logits: Tensor, *, threshold: float, temperature: float = 1.0
    ) -> "Prediction":
        """From (k, i, j) logits; a voxel belongs to the mask above `threshold` probability."""
        probability = (logits / temperature).sigmoid()
        inside = _above(logits, threshold=threshold, temperature=temperature)
        return cls(
            inside.permute(1, 2, 0).numpy().astype(np.uint8),
            probability.permute(1, 2, 0).numpy().astype(np.float16),
        )


def _above(logits: Tensor, *, threshold: float, temperature: float) -> Tensor:
    """Where the probability is above `threshold`; at 0.5 the same under every temperature."""
    return logits > temperature * math.log(threshold / (1 - threshold))


@dataclass(frozen=True, eq=False)
class OpenCase:
    """What a model sees of a case, ready to be asked many times.

    Attributes:
        slices: (k, sequences, s, s) in the head's square, fractions of the display range.
        hidden: (k, channels, grid, grid) frozen activations; may be memory-mapped, sealed, or
            computed when they are asked for.
        square: how a slice lies in the head's square.
    """

    slices: Tensor
    hidden: Hidden
    square: Letterbox

    @classmethod
    def of(
        cls, model: AdaptedModel, store: CaseStore, cache: EmbeddingCache, case: Case
    ) -> "OpenCase":
        """Open a case of a store whose embedding is in the cache."""
        present = tuple(name for name in model.sequences if name in case.sequences)
        images = store.volumes(case, present, mask=False).images
        return cls._with(model, display_slices(images, model.sequences), cache.read(case))

    @classmethod
    def growing(
        cls, model: AdaptedModel, store: CaseStore, encoder: FrozenEncoder, case: Case
    ) -> tuple["OpenCase", GrowingSlices]:
        """Open a case of a store that has no embedding yet: slices are computed as they are needed.

        Returns:
            The case, and its activations, whose other slices can be computed meanwhile.
        """
        present = tuple(name for name in model.sequences if name in case.sequences)
        slices = display_slices(store.volumes(case, present, mask=False).images, model.sequences)
        hidden = GrowingSlices(encoder, slices[:, 0].clone())  # holds no other sequence
        return cls._with(model, slices, hidden), hidden

    @classmethod
    def from_images(
        cls,
        model: AdaptedModel,
        images: Mapping[str, NDArray[np.float32]],
        *,
        encoder: FrozenEncoder | None = None,
    ) -> "OpenCase":
        """Open images that are in no store, and compute their embedding.

        Args:
            model: what will be asked.
            images: (i, j, k) by sequence, on one grid; the model's first sequence among them.
            encoder: computes the embedding; None: the model's own, which takes a moment to make.
        """
        slices = display_slices(images, model.sequences)
        if encoder is None:
            encoder = FrozenEncoder(model.backbone, model.tail_blocks, model.precision)
        return cls._with(model, slices, encoder(slices[:, 0]))

    @classmethod
    def _with(cls, model: AdaptedModel, slices: Tensor, hidden: Hidden) -> "OpenCase":
        square = Letterbox(slices.shape[-2], slices.shape[-1], model.config.head_size)
        return cls(square.apply(slices), hidden, square)

    @property
    def depth(self) -> int:
        """Slices."""
        return len(self.slices)

    def nothing(self) -> Tensor:
        """(k, i, j) logits of a volume of which nothing was asked."""
        return torch.full((self.depth, self.square.height, self.square.width), NOTHING)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Numbers and activations of a few slices at a time."""
        for index in torch.split(torch.arange(self.depth), _BATCH):
            yield index, torch.tensor(self.hidden[index[0] : index[-1] + 1]).float()


@torch.inference_mode()
def predict_automatic(model: AdaptedModel, case: OpenCase, *, threshold: float = 0.5) -> Prediction:
    """Segment a whole volume without a prompt, every slice."""
    parts = []
    for index, hidden in case.batches():
        logits = model.propose(with_neighbours(case.slices, index), hidden).cpu()
        parts.append(case.square.invert(logits))
    return _cleaned(model, _prediction(model, torch.cat(parts), threshold))


@torch.inference_mode()
def predict_labels(model: AdaptedModel, case: OpenCase) -> dict[str, Prediction]:
    """Segment a whole volume without a prompt, each label of a model that finds several.

    Masks do not overlap: where several labels are likely, the likeliest has the voxel.

    Returns:
        What is found of each label, in the model's order.
    """
    parts = []
    for index, hidden in case.batches():
        logits = model.propose_labels(with_neighbours(case.slices, index), hidden).cpu()
        each = case.square.invert(logits.flatten(0, 1))
        parts.append(each.view(*logits.shape[:2], *each.shape[1:]))  # (batch, labels, i, j)
    logits = torch.cat(parts)
    likeliest = logits.argmax(1).permute(1, 2, 0).numpy()
    found = {}
    for number, name in enumerate(model.labels):
        own = _prediction(model, logits[:, number], 0.5)
        mask = (own.mask * (likeliest == number)).astype(np.uint8)
        found[name] = _cleaned(model, Prediction(mask, own.probability))
    return found


def together(found: Mapping[str, Prediction]) -> Prediction:
    """Put labels into one: the mask holds their numbers from 1, the probability is the largest."""
    numbers = [n * one.mask for n, one in enumerate(found.values(), start=1)]
    largest = np.max([one.probability for one in found.values()], axis=0)
    return Prediction(np.max(numbers, axis=0).astype(np.uint8), largest)


def _cleaned(model: AdaptedModel, found: Prediction) -> Prediction:
    mask = without_specks(found.mask, model.config.smallest_component)
    return Prediction(mask, found.probability)


def _prediction(model: AdaptedModel, logits: Tensor, threshold: float) -> Prediction:
    return Prediction.from_logits(logits, threshold=threshold, temperature=model.temperature)


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
    case: OpenCase,
    boxes: Tensor,
    *,
    threshold: float = 0.5,
) -> Prediction:
    """Let the mask decoder segment the slices that have a box; the others stay empty.

    Args:
        model: with or without a trained adapter.
        case: what is segmented.
        boxes: (k, 4), x0 y0 x1 y1 in pixels of the slice; NaN where there is none.
        threshold: probability above which a voxel belongs to the mask.
    """
    box = Letterbox(case.square.height, case.square.width, model.config.image_size)
    logits = case.nothing()
    for index, hidden in case.batches():
        given = ~boxes[index, 0].isnan()
        if given.any():
            answer = model.answer_boxes(hidden[given], box.boxes(boxes[index[given]])).cpu()
            logits[index[given]] = box.invert(answer)
    return _prediction(model, logits, threshold)


@torch.inference_mode()
def predict_hinted_boxes(
    model: AdaptedModel,
    case: OpenCase,
    boxes: Tensor,
    *,
    threshold: float = 0.5,
) -> Prediction:
    """Let the prompt head segment the slices that have a box; the others stay empty.

    Args:
        model: its head takes hints (model.head_hints).
        case: what is segmented.
        boxes: (k, 4), x0 y0 x1 y1 in pixels of the slice; NaN where there is none.
        threshold: probability above which a voxel belongs to the mask.
    """
    square, logits = case.square, case.nothing()
    for index, hidden in case.batches():
        given = ~boxes[index, 0].isnan()
        if given.any():
            told = index[given]
            hints = box_hints(square.boxes(boxes[told]), square.size)
            answer = model.propose(with_neighbours(case.slices, told), hidden[given], hints)
            logits[told] = square.invert(answer.cpu())
    return _prediction(model, logits, threshold)


@torch.inference_mode()
def predict_from_slice(
    model: AdaptedModel,
    case: OpenCase,
    *,
    z: int,
    box: Tensor,
) -> Prediction:
    """Segment a tumour from a box on one slice, and carry the mask up and down the volume.

    Each next slice is told the mask of the one before, until nothing is found.

    Args:
        model: its head takes hints (model.head_hints).
        case: what is segmented.
        z: the slice that has the box.
        box: (4,), x0 y0 x1 y1 in pixels of that slice.
    """
    square, logits = case.square, case.nothing()

    def answer(at: int, hints: Tensor) -> Tensor:
        hidden = torch.tensor(case.hidden[at : at + 1]).float()
        slices = with_neighbours(case.slices, torch.tensor([at]))
        here = model.propose(slices, hidden, hints).cpu()
        logits[at] = square.invert(here)[0]
        carried = torch.zeros_like(hints)
        carried[:, 1] = here > 0
        return carried

    first = answer(z, box_hints(square.boxes(box[None]), square.size))
    for beyond in (range(z + 1, case.depth), range(z - 1, -1, -1)):
        carried = first
        for at in beyond:
            if not carried.any():
                break
            carried = answer(at, carried)
    return _prediction(model, logits, 0.5)


@torch.inference_mode()
def predict_hinted_slice(
    model: AdaptedModel, case: OpenCase, mask: NDArray[np.uint8], index: int
) -> NDArray[np.uint8]:
    """Segment slice k by the mask (i, j) of one beside it: (i, j) of 0 and 1.

    Args:
        model: its head takes hints (model.head_hints).
        case: whose slice it is.
        mask: of 0 and 1.
        index: the slice, k.
    """
    told = case.square.apply(torch.from_numpy(mask)[None, None].float()) >= 0.5
    hints = torch.zeros(1, HINTS, case.square.size, case.square.size)
    hints[:, 1] = told[:, 0]
    hidden = torch.tensor(case.hidden[index : index + 1]).float()
    slices = with_neighbours(case.slices, torch.tensor([index]))
    logits = case.square.invert(model.propose(slices, hidden, hints).cpu())
    inside = _above(logits[0], threshold=0.5, temperature=model.temperature)
    return inside.numpy().astype(np.uint8)


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
    case: OpenCase,
    prompt: SlicePrompt,
    *,
    by_head: bool = False,
    threshold: float = 0.5,
) -> NDArray[np.uint8]:
    """Segment one slice by what a reader points at: (i, j) of 0 and 1.

    Args:
        model: with or without a trained adapter.
        case: whose slice it is.
        prompt: box, points, or both.
        by_head: a box alone is answered by the prompt head, which takes hints; else, and where
            there are points, the mask decoder answers.
        threshold: probability above which a pixel belongs to the mask.

    Raises:
        DataError: there is no such slice.
    """
    if not 0 <= prompt.index < case.depth:
        raise DataError(f"The case has slices 0 to {case.depth - 1}; a prompt names another.")
    here = torch.tensor([prompt.index])
    hidden = torch.tensor(case.hidden[prompt.index : prompt.index + 1]).float()
    boxes = points = None
    if by_head and prompt.box is not None and not prompt.points:
        hints = box_hints(case.square.boxes(torch.tensor([prompt.box])), case.square.size)
        answer = model.propose(with_neighbours(case.slices, here), hidden, hints)
        logits = case.square.invert(answer.cpu())
    else:
        fit = Letterbox(case.square.height, case.square.width, model.config.image_size)
        if prompt.box is not None:
            boxes = fit.boxes(torch.tensor([prompt.box]))
        if prompt.points:
            places = torch.tensor([[[x, y] for x, y, _ in prompt.points]])
            labels = torch.tensor([[float(inside) for *_, inside in prompt.points]])
            points = fit.points(places), labels
        logits = fit.invert(model.answer_prompts(hidden, boxes=boxes, points=points).cpu())
    inside = _above(logits[0], threshold=threshold, temperature=model.temperature)
    return inside.numpy().astype(np.uint8)


def boxes_from_reference(mask: NDArray[np.uint8], *, jitter: int, seed: int) -> Tensor:
    """Jittered boxes around each slice of a reference mask (i, j, k): prompts for evaluation."""
    boxes = tight_boxes(torch.from_numpy(np.ascontiguousarray(mask.transpose(2, 0, 1))))
    given = ~boxes[:, 0].isnan()
    generator = torch.Generator().manual_seed(seed)
    limit = float(max(mask.shape[:2]))
    boxes[given] = jittered(boxes[given], by=jitter, limit=limit, generator=generator)
    return boxes
