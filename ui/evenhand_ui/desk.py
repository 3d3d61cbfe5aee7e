"""One case as it lies on a reader's desk: its volumes, and what the reader has seen of it."""

import time
from dataclasses import dataclass

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from evenhand.cases.records import Case
from evenhand.review import ReviewStore, State
from evenhand_ui.masks import read_mask
from evenhand_ui.picture import CaseView, Window, default_window
from evenhand_ui.runs import ReviewRun
from evenhand_ui.sitting import Sitting
from evenhand_ui.worklist import WorkItem

__all__ = ["Desk", "leave_desk", "sit_down", "widget_key"]


@dataclass(frozen=True, kw_only=True)
class Desk:
    """All that one case needs on the page.

    `index` is the displayed slice, from 0; `hidden`: it is drawn without masks.
    """

    run: ReviewRun
    store: ReviewStore
    item: WorkItem
    case: Case
    view: CaseView
    window: Window
    proposed: NDArray[np.uint8]
    areas: NDArray[np.intp]
    sitting: Sitting
    index: int
    hidden: bool
    reader: str
    following: str | None

    def key(self, name: str) -> str:
        """Key of a widget that belongs to this case and this proposed mask."""
        return widget_key(name, self.item)

    def corrected(self) -> NDArray[np.uint8] | None:
        """Return the corrected mask that was just uploaded, or else the one that was recorded."""
        if self.sitting.correction is not None:
            return self.sitting.correction[1]
        latest = self.item.latest
        if self.item.state is State.CORRECTED and latest and latest.decision.corrected_path:
            return read_mask(self.run.database.parent / latest.decision.corrected_path, self.case)
        return None


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where a case's voxels are read, and the hashes of what will be read there."""

    run: ReviewRun
    case: Case
    sequence: str
    mask_sha256: str

    def image_key(self) -> bytes:
        """Content of the image and its geometry."""
        return self.case.sequences[self.sequence].encode() + self._affine_bytes()

    def mask_key(self) -> bytes:
        """Content of the mask and its geometry."""
        return self.mask_sha256.encode() + self._affine_bytes()

    def _affine_bytes(self) -> bytes:
        return self.case.affine.ras_from_voxel.tobytes()


def sit_down(
    run: ReviewRun, store: ReviewStore, item: WorkItem, reader: str, following: str | None
) -> Desk:
    """Read a case, note that its slice is seen now, and return all of it.

    Raises:
        EvenhandError: a volume or the mask is missing, damaged or does not fit.
    """
    case = run.case(item.case_id)
    sequences = list(case.sequences)
    sequence = sequences[0]
    if len(sequences) > 1:
        sequence = st.segmented_control(
            "Sequence", sequences, default=sequence, required=True, key=widget_key("sequence", item)
        )
    source = _Source(run=run, case=case, sequence=sequence, mask_sha256=item.proposal.sha256)
    view, window = _load_view(source)
    proposed = _load_proposed(source)
    areas = view.areas(proposed)
    sittings: dict[str, Sitting] = st.session_state.setdefault("sittings", {})
    sitting = sittings.setdefault(widget_key("sitting", item), Sitting.at(areas))
    first = int(areas.argmax()) if areas.any() else len(view) // 2
    index = int(st.session_state.setdefault(widget_key("slice", item), first + 1)) - 1
    hidden = bool(st.session_state.get(widget_key("hidden", item), False))
    sitting.look(index, time.monotonic(), mask_shown=not hidden)
    return Desk(
        run=run,
        store=store,
        item=item,
        case=case,
        view=view,
        window=window,
        proposed=proposed,
        areas=areas,
        sitting=sitting,
        index=index,
        hidden=hidden,
        reader=reader,
        following=following,
    )


# These caches are shared by all readers of this server: their keys are hashes of content, never of
# a session, and what they hold cannot be written.
@st.cache_resource(
    max_entries=8, show_spinner="Reading the case", hash_funcs={_Source: _Source.image_key}
)
def _load_view(source: _Source) -> tuple[CaseView, Window]:
    store = source.run.stores[source.case.patient.hospital]
    image = store.volumes(source.case, (source.sequence,)).images[source.sequence]
    image.setflags(write=False)
    return CaseView(image, source.case.affine), default_window(image)


@st.cache_resource(max_entries=32, show_spinner=False, hash_funcs={_Source: _Source.mask_key})
def _load_proposed(source: _Source) -> NDArray[np.uint8]:
    mask = read_mask(source.run.mask_path(source.case.case_id), source.case)
    mask.setflags(write=False)
    return mask


def leave_desk(item: WorkItem, *, done: bool = False) -> None:
    """Stop the clock of a case; `done`: whoever comes back to it looks at it anew."""
    sittings: dict[str, Sitting] = st.session_state.get("sittings", {})
    key = widget_key("sitting", item)
    if done:
        sittings.pop(key, None)
    elif key in sittings:
        sittings[key].leave()


def widget_key(name: str, item: WorkItem) -> str:
    """Return the key of a widget that belongs to one case and one proposed mask."""
    return f"{name}-{item.case_id}-{item.proposal.sha256[:12]}"
