"""What training sees of a patient: cached activations, slices and masks, drawn by patient."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evenhand.cases.records import Case
from evenhand.cases.store import CaseStore
from evenhand.config import TrainingConfig
from evenhand.errors import DataError
from evenhand.model.adapted import AdaptedModel
from evenhand.model.embeddings import EmbeddingCache
from evenhand.model.preprocessing import Letterbox, display_slices, with_neighbours
from evenhand.model.prompts import jittered, tight_boxes
from evenhand.model.sealed_slices import SealedSlices
from evenhand.training.augment import moved, other_scanner, random_moves, without_some_sequences
from evenhand.training.hints import draw_hints

__all__ = [
    "Batch",
    "TrainingCase",
    "TrainingPatient",
    "draw",
    "load_patients",
    "refuse_other_labels",
]


@dataclass(frozen=True, eq=False)
class TrainingCase:
    """One case, ready for training.

    Attributes:
        hidden: (k, channels, grid, grid) frozen activations, read slice by slice from the cache.
        slices: (k, sequences, s, s) float16, fractions of the display range.
        masks: (k, s, s) uint8, 0 or the number of a label.
        pixel: size of a pixel of the original slice in the backbone's square.
        head_pixel: the same in the head's square.
        labels: how many there are.
        mirror: axis (-1 or -2) along which a slice may be mirrored, left to right; None
            where slices do not run between the patient's sides.
    """

    hidden: NDArray[np.float16] | SealedSlices
    slices: Tensor
    masks: Tensor
    pixel: float
    mirror: int | None
    head_pixel: float = 1.0
    labels: int = 1


@dataclass(frozen=True, eq=False)
class TrainingPatient:
    """All cases of one patient: the unit that is drawn, clipped and accounted."""

    patient_id: str
    cases: tuple[TrainingCase, ...]


@dataclass(frozen=True, eq=False)
class Batch:
    """Slices of one or several patients.

    Attributes:
        hidden: (batch, channels, grid, grid).
        slices: (batch, 3 sequences, s, s).
        masks: (batch, s, s), 0 or the number of a label.
        hints: (batch, 2, s, s), what the head is told of them; None for a head that takes none.
        boxed: (m,) positions in the batch of the slices that also get a box.
        boxes: (m, 4) jittered boxes in pixels of the backbone's square.
    """

    hidden: Tensor
    slices: Tensor
    masks: Tensor
    boxed: Tensor
    boxes: Tensor
    hints: Tensor | None = None

    @staticmethod
    def join(parts: Sequence["Batch"]) -> "Batch":
        """Put several batches into one."""
        hints = [part.hints for part in parts if part.hints is not None]
        starts = np.cumsum([0, *(len(part.masks) for part in parts[:-1])])
        return Batch(
            hidden=torch.cat([part.hidden for part in parts]),
            slices=torch.cat([part.slices for part in parts]),
            masks=torch.cat([part.masks for part in parts]),
            boxed=torch.cat([p.boxed + int(s) for p, s in zip(parts, starts, strict=True)]),
            boxes=torch.cat([part.boxes for part in parts]),
            hints=torch.cat(hints) if hints else None,
        )


def load_patients(
    store: CaseStore, cache: EmbeddingCache, patient_ids: Iterable[str], model: AdaptedModel
) -> list[TrainingPatient]:
    """Read the cases of the named patients, ordered by id.

    Raises:
        DataError: a case has no reference mask, or other labels than the model.
    """
    wanted = set(patient_ids)
    by_patient: dict[str, list[TrainingCase]] = {}
    for case in store:
        if case.patient.patient_id in wanted:
            ready = _load_case(store, cache, case, model)
            by_patient.setdefault(case.patient.patient_id, []).append(ready)
    return [TrainingPatient(name, tuple(by_patient[name])) for name in sorted(by_patient)]


def refuse_other_labels(store: CaseStore, cases: Iterable[Case], labels: Sequence[str]) -> None:
    """Refuse cases whose masks have other labels than are to be found.

    Raises:
        DataError: names what the masks have and what was asked for.
    """
    for case in cases:
        if case.labels != tuple(labels):
            raise DataError(
                f"Masks of hospital {store.hospital} have {', '.join(case.labels) or 'one label'}; "
                f"data.labels asks for {', '.join(labels) or 'one'}. Set data.labels to what the "
                "masks have, or ingest again (--label keeps labels apart, --tumour merges them)."
            )


def _by_label(masks: Tensor, labels: int, move: Callable[[Tensor], Tensor]) -> Tensor:
    """Move the mask of each label as a picture, and cut it at one half again.

    Args:
        masks: (batch, h, w), 0 or the number of a label.
        labels: how many.
        move: of (batch, labels, h, w); what it gives of a place adds up to 1 at most, so that no
            place gets two labels.

    Returns:
        (batch, ...) float, numbers again.
    """
    numbers = torch.arange(1, labels + 1)[:, None, None]
    kept = move((masks[:, None] == numbers).float()) > 0.5
    return (kept * numbers).amax(1).float()


def _load_case(
    store: CaseStore, cache: EmbeddingCache, case: Case, model: AdaptedModel
) -> TrainingCase:
    refuse_other_labels(store, [case], model.labels)
    present = tuple(name for name in model.sequences if name in case.sequences)
    volumes = store.volumes(case, present)
    if volumes.mask is None:
        raise DataError(
            f"A case of hospital {store.hospital} has no reference mask; training needs one. "
            "Add the mask and ingest again, or leave the patient out."
        )
    slices = display_slices(volumes.images, model.sequences)
    masks = torch.from_numpy(np.ascontiguousarray(volumes.mask.transpose(2, 0, 1)))
    head_box = Letterbox(slices.shape[-2], slices.shape[-1], model.config.head_size)
    labels = max(1, len(model.labels))
    image_box = Letterbox(slices.shape[-2], slices.shape[-1], model.config.image_size)
    return TrainingCase(
        hidden=cache.read(case),
        slices=head_box.apply(slices).half(),
        masks=_by_label(masks, labels, head_box.apply).to(torch.uint8),
        labels=labels,
        pixel=image_box.scale,
        head_pixel=head_box.scale,
        mirror={0: -2, 1: -1, 2: None}[case.affine.left_right_axis],
    )


def draw(
    patient: TrainingPatient,
    config: TrainingConfig,
    generator: torch.Generator,
    *,
    image_size: int,
    hints: bool = False,
    slices_at_most: int | None = None,
) -> Batch:
    """Draw slices of one patient: some with tumour, some without, each moved at random.

    Args:
        patient: whose slices are drawn, over all cases.
        config: how many of each kind, how slices are moved and how boxes are jittered.
        generator: of the draw.
        image_size: side of the backbone's square, pixels.
        hints: whether the head is told something of some slices.
        slices_at_most: contribution bound of a private step, half of each kind. One
            patient's gradient is all that such a step learns of this patient, so it takes
            as many slices as it may. None: as many as the config says.
    """
    with_tumour = [
        (case, z)
        for case in patient.cases
        for z in torch.nonzero(case.masks.flatten(1).any(1))[:, 0].tolist()
    ]
    taken = set(with_tumour)
    without = [
        (case, z)
        for case in patient.cases
        for z in range(len(case.masks))
        if (case, z) not in taken
    ]
    if slices_at_most is None:
        tumour, other = config.tumour_slices, config.other_slices
    else:
        tumour, other = slices_at_most - slices_at_most // 2, slices_at_most // 2
    chosen = _pick(with_tumour, tumour, generator) + _pick(without, other, generator)
    # Who has no slice of the wanted kind gives one of the other: nobody gives none.
    chosen = chosen or _pick(without, 1, generator)
    parts = [
        _one_case(
            case,
            [z for c, z in chosen if c is case],
            config,
            generator,
            image_size,
            hints=hints,
        )
        for case in patient.cases
        if any(c is case for c, _ in chosen)
    ]
    batch = Batch.join(parts)
    asked = torch.rand((), generator=generator) < config.box_share
    boxed = slice(config.box_slices if asked else 0)  # of a patient, however many cases
    return replace(batch, boxed=batch.boxed[boxed], boxes=batch.boxes[boxed])


def _pick(
    pool: list[tuple[TrainingCase, int]], count: int, generator: torch.Generator
) -> list[tuple[TrainingCase, int]]:
    order = torch.randperm(len(pool), generator=generator)[:count]
    return [pool[i] for i in order.tolist()]


def _one_case(
    case: TrainingCase,
    chosen: list[int],
    config: TrainingConfig,
    generator: torch.Generator,
    image_size: int,
    *,
    hints: bool,
) -> Batch:
    index = torch.tensor(chosen)
    moves = random_moves(len(chosen), config, case.mirror, generator)
    hidden = moved(torch.from_numpy(np.stack([case.hidden[z] for z in chosen])).float(), moves)
    slices = moved(with_neighbours(case.slices, index).float(), moves)
    slices = other_scanner(slices, config.intensity_jitter, generator)
    slices = without_some_sequences(slices, config.sequence_dropout, generator)
    masks = _by_label(case.masks[index], case.labels, lambda each: moved(each, moves))
    boxes = tight_boxes(masks) * (image_size / masks.shape[-1])
    boxed = torch.nonzero(~boxes[:, 0].isnan())[:, 0][: config.box_slices]
    by = config.box_jitter * case.pixel
    boxes = jittered(boxes[boxed], by=by, limit=image_size, generator=generator)
    told = None
    if hints:
        step = 2 * torch.randint(0, 2, index.shape, generator=generator) - 1
        beside = case.masks[(index + step).clamp(0, len(case.masks) - 1), None].float()
        by = round(config.box_jitter * case.head_pixel)
        told = draw_hints(masks, moved(beside, moves), config, generator, jitter=by)
    return Batch(hidden, slices, masks, boxed, boxes, told)
