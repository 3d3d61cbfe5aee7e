"""One case on the page: its slices with the proposed mask, and the decision about it.

Picture and decision are one Streamlit fragment, so that a step through the
slices redraws this case alone, and so that Accept opens in the very step in
which the last slice with tumour came up. Widget keys carry the case and the
hash of its mask: under a fixed key a widget keeps the state of the case before.
"""

from typing import Literal

import streamlit as st

from evenhand.review import ReviewStore, State
from evenhand_ui.decision_panel import show_decision_panel
from evenhand_ui.desk import Desk, leave_desk, sit_down
from evenhand_ui.faults import told_plainly
from evenhand_ui.picture import (
    CORRECTED_COLOUR,
    PROPOSED_COLOUR,
    Overlay,
    Window,
    render_slice,
)
from evenhand_ui.runs import ReviewRun
from evenhand_ui.wording import state_text
from evenhand_ui.worklist import WorkItem

__all__ = ["show_case"]


def show_case(
    run: ReviewRun, store: ReviewStore, item: WorkItem, *, reader: str, following: str | None
) -> None:
    """Draw one case.

    Args:
        run: the run under review.
        store: where the decision goes.
        item: the case.
        reader: who reads; empty: nobody has said so yet, and no decision is taken.
        following: the case that comes after the decision; None: this is the last.
    """
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Worklist", icon=":material/arrow_back:", on_click=_turn_to, args=(item, None))
        st.markdown(f"### {item.case_id}", width="content")
        st.text(f"{item.hospital} · {state_text(item.state)}", width="content")
        if following is not None:
            st.button(
                "Skip to the next open case",
                type="tertiary",
                on_click=_turn_to,
                args=(item, following),
            )
    _review(run, store, item, reader, following)


@st.fragment
def _review(
    run: ReviewRun, store: ReviewStore, item: WorkItem, reader: str, following: str | None
) -> None:
    with told_plainly():
        desk = sit_down(run, store, item, reader, following)
        picture, panel = st.columns((2.1, 1), gap="medium")
        # The panel first: an uploaded correction must be known before the slice is drawn.
        with panel:
            show_decision_panel(desk)
        with picture:
            _picture(desk)


def _picture(desk: Desk) -> None:
    hidden = bool(st.session_state.get("mask_hidden", False))
    count = len(desk.view)
    slice_key = desk.key("slice")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if count > 1:
            _step_button("Previous", desk, desk.index - 1, shortcut="PageUp")
            _step_button("Next", desk, desk.index + 1, shortcut="PageDown")
        unseen = _next_after(desk.sitting.missing, desk.index)
        _step_button("Next unseen", desk, unseen, shortcut="N")
        st.button(
            "Show mask" if hidden else "Hide mask",
            key="hide",
            shortcut="H",
            on_click=_set_hidden,
            args=(not hidden,),
        )
    if count > 1:
        st.slider(f"Slice ({desk.view.plane})", 1, count, key=slice_key, format=f"%d of {count}")
    drawing = st.container()
    style, opacity = _overlay_controls()
    window = _window_controls(desk)
    overlays = [] if hidden else _overlays(desk, style=style, opacity=opacity)
    tumour = "tumour proposed" if desk.areas[desk.index] else "no tumour proposed"
    drawing.image(
        render_slice(desk.view, desk.index, window, overlays),
        output_format="PNG",
        alt=f"Slice {desk.index + 1} of {count}, {desk.view.plane}, {tumour}; "
        f"{desk.view.letters.left} of the patient is on the left",
    )
    shown = "mask hidden" if hidden else "orange: proposed"
    if desk.sitting.correction is not None or desk.item.state is State.CORRECTED:
        shown += "" if hidden else ", blue: corrected"
    drawing.caption(f"Slice {desk.index + 1} of {count}: {tumour} ({shown})")


def _step_button(label: str, desk: Desk, target: int | None, *, shortcut: str) -> None:
    possible = target is not None and 0 <= target < len(desk.view)
    st.button(
        label,
        key=desk.key(label),
        shortcut=shortcut,
        disabled=not possible,
        on_click=_go,
        args=(desk.key("slice"), target),
    )


def _overlay_controls() -> tuple[Literal["outline", "fill"], float]:
    left, right = st.columns(2)
    style = left.segmented_control(
        "Mask as",
        ("outline", "fill"),
        default="outline",
        required=True,
        format_func=str.capitalize,
        key="style",
        persist_state="session",
    )
    percent = right.slider(
        "Mask opacity", 10, 100, 80, format="%d %%", key="opacity", persist_state="session"
    )
    return "fill" if style == "fill" else "outline", percent / 100


def _window_controls(desk: Desk) -> Window:
    normal = desk.window
    reach, step = normal.width * 2, normal.width / 100
    left, right = st.columns(2)
    level = left.slider(
        "Window level",
        normal.level - reach,
        normal.level + reach,
        normal.level,
        step,
        key=f"{desk.key('level')}-{normal}",
        persist_state="session",
    )
    width = right.slider(
        "Window width",
        step,
        reach * 2,
        normal.width,
        step,
        key=f"{desk.key('width')}-{normal}",
        persist_state="session",
    )
    return Window(level=level, width=width)


def _overlays(desk: Desk, *, style: Literal["outline", "fill"], opacity: float) -> list[Overlay]:
    drawn = [
        Overlay(mask=desk.proposed, colour=PROPOSED_COLOUR, style=style, opacity=opacity),
    ]
    corrected = desk.corrected()
    if corrected is not None:
        # Always an outline: two fills over each other would hide where they differ.
        drawn.append(
            Overlay(mask=corrected, colour=CORRECTED_COLOUR, style="outline", opacity=opacity)
        )
    return drawn


def _turn_to(item: WorkItem, case_id: str | None) -> None:
    """Leave a case for another, or (None) for the worklist; its clock stops."""
    leave_desk(item)
    st.session_state["open_case"] = case_id


def _go(slice_key: str, target: int) -> None:
    st.session_state[slice_key] = target + 1


def _set_hidden(hidden: bool) -> None:
    st.session_state["mask_hidden"] = hidden


def _next_after(indices: list[int], index: int) -> int | None:
    """Return the first of these slices after `index`, going round; None: there are none."""
    return next((i for i in indices if i > index), indices[0] if indices else None)
