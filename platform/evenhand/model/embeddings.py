"""The cache of everything frozen: one file a case, computed once, read slice by slice.

Cached activations are patient data: they lie with the hospital's store, in a folder
that only its owner reads, and are deleted with it. Where the store is sealed, they are sealed
with its key; else they are read by memory map. fp16 on disk: an embedding's
values are of order 1, and rounding changes logits by about 2e-4.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evenhand.cases.records import Case
from evenhand.cases.sealing import StoreKey
from evenhand.cases.store import CaseStore
from evenhand.errors import DataError, ResourceError, StoreError
from evenhand.model.adapted import AdaptedModel
from evenhand.model.backbones import Backbone, Encoder
from evenhand.model.preprocessing import Letterbox, display_range, with_neighbours
from evenhand.model.sealed_slices import SealedSlices, sealed_pieces

__all__ = ["EmbeddingCache", "FrozenEncoder"]

PREPROCESSING_VERSION = 1
"""Raised when pixels reach the encoder differently; older cache files are then not used."""

_BATCH = 4


class FrozenEncoder:
    """What of a backbone's encoder is not adapted, ready to be quick.

    Args:
        backbone: is not changed; the work is done where it lies.
        tail_blocks: encoder blocks that are adapted and so not computed.
        precision: of the arithmetic.
    """

    def __init__(self, backbone: Backbone, tail_blocks: int, precision: torch.dtype) -> None:
        self.backbone = backbone
        self.tail_blocks = tail_blocks
        self.precision = precision
        # A copy: casting the backbone itself down and up again would round its weights.
        # Channels last: its convolutions and its linear layers then see memory in one order.
        self._encoder = cast(
            Encoder,
            deepcopy(backbone.image_encoder).to(  # type: ignore[call-overload] # not in its stub
                precision, memory_format=torch.channels_last
            ),
        )

    @torch.inference_mode()
    def __call__(self, slices: Tensor, index: Tensor | None = None) -> NDArray[np.float16]:
        """(k, h, w) fractions of the display range -> (k, channels, grid, grid).

        With `index` (n,) of those slices only, in that order.
        """
        chosen = torch.arange(slices.shape[0]) if index is None else index
        box = Letterbox(slices.shape[1], slices.shape[2], self.backbone.image_size)
        parts = []
        for batch in torch.split(chosen, _BATCH):
            pixels = box.apply(with_neighbours(slices[:, None], batch))
            pixels = self.backbone.normalise(pixels).to(
                self.backbone.device, self.precision, memory_format=torch.channels_last
            )
            hidden = self._encoder.prefix(pixels, self.tail_blocks)
            parts.append(hidden.to(torch.float16).contiguous().cpu().numpy())
        return np.concatenate(parts)


class EmbeddingCache:
    """Frozen activations of the cases of one hospital.

    Args:
        folder: where files go; made on demand.
        backbone: whose prefix is computed.
        tail_blocks: encoder blocks that are adapted and so not cached.
        sequence: the image sequence that feeds the backbone.
        precision: of the frozen arithmetic.
        key: of the hospital's store; None: the store and this cache are plain files.
    """

    def __init__(
        self,
        folder: Path,
        backbone: Backbone,
        *,
        tail_blocks: int,
        sequence: str,
        precision: torch.dtype,
        key: StoreKey | None = None,
    ) -> None:
        self.folder = folder
        self.key = key
        self.backbone = backbone
        self.tail_blocks = tail_blocks
        self.sequence = sequence
        self.precision = precision

    @classmethod
    def of_model(
        cls, folder: Path, model: AdaptedModel, sequence: str, key: StoreKey | None = None
    ) -> "EmbeddingCache":
        """The cache that fits a model's backbone, adapted blocks and precision."""
        return cls(
            folder,
            model.backbone,
            tail_blocks=model.tail_blocks,
            sequence=sequence,
            precision=model.precision,
            key=key,
        )

    def path(self, case: Case) -> Path:
        """File of one case; its name depends on everything that its content depends on.

        Raises:
            DataError: the case lacks the sequence.
        """
        if self.sequence not in case.sequences:
            raise DataError(
                f"A case of hospital {case.patient.hospital} has no sequence '{self.sequence}' "
                f"(it has {', '.join(case.sequences)}); change data.sequences."
            )
        key = (
            self.backbone.weights_sha256,
            self.backbone.image_size,
            self.tail_blocks,
            str(self.precision),
            PREPROCESSING_VERSION,
            case.sequences[self.sequence],
        )
        digest = hashlib.sha256(repr(key).encode()).hexdigest()[:32]
        return self.folder / (f"{digest}.npy" if self.key is None else f"{digest}.sealed")

    def read(self, case: Case) -> NDArray[np.float16] | SealedSlices:
        """(k, channels, grid, grid) of a case that `fill` has computed, one slice at a time.

        Raises:
            ResourceError: the file is missing or damaged.
            StoreError: it was sealed with another key, or was changed.
        """
        path = self.path(case)
        try:
            if self.key is not None:
                return SealedSlices(path, self.key)
            mapped: NDArray[np.float16] = np.load(path, mmap_mode="r")
        except FileNotFoundError:
            raise ResourceError(
                "An embedding is missing from the cache; run the same command again to compute it."
            ) from None
        except StoreError:
            raise
        except (OSError, ValueError, EOFError, DataError):
            raise ResourceError(
                f"'{path}' in the embedding cache is damaged; delete it and run the "
                "same command again to compute it anew."
            ) from None
        return mapped

    def missing(self, cases: Iterable[Case]) -> list[Case]:
        """Cases that have no file yet."""
        return [case for case in cases if not self.path(case).exists()]

    def fill(self, store: CaseStore, cases: Iterable[Case], advance: Callable[[int], None]) -> None:
        """Compute what is missing, case by case; `advance` is told the slices done.

        Raises:
            ResourceError: the disk is full; nothing half-written stays.
        """
        missing = self.missing(cases)
        if not missing:
            return
        encoder = FrozenEncoder(self.backbone, self.tail_blocks, self.precision)
        for case in missing:
            volume = store.volumes(case, (self.sequence,)).images[self.sequence]
            self.write(case, encoder(display_range(volume)))
            advance(case.shape[2])

    def write(self, case: Case, values: NDArray[np.float16]) -> None:
        """Keep the (k, channels, grid, grid) of a case.

        Raises:
            ResourceError: the disk is full; nothing half-written stays.
        """
        path = self.path(case)
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with draft.open("wb") as file:
                if self.key is None:
                    np.save(file, values)
                else:
                    file.writelines(sealed_pieces(values, path.name, self.key))
            draft.replace(path)
            if self.key is not None:  # of the time before the store was sealed
                path.with_suffix(".npy").unlink(missing_ok=True)
        except OSError as error:
            raise ResourceError(
                f"Could not write the embedding cache into '{self.folder}': {error.strerror}. "
                "Free some disk space and run again; finished cases are kept."
            ) from None
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
