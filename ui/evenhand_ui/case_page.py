"""One case on the page: its slices with the proposed mask, and the decision about it.

Picture and decision are one Streamlit fragment, so that a step through the
slices redraws this case alone, and so that Accept opens in the very step in
which the last slice with tumour came up. Widget keys carry the case and the
hash of its mask: under a fixed key a widget keeps the state of the case before.
"""

from dataclasses import dataclass
from typing import Literal

import streamlit as st

from evenhand.review import ReviewStore
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


@dataclass(frozen=True, kw_only=True)
class _Display:
    """How a slice is drawn."""

    style: Literal["outline", "fill"]
    opacity: float
    window: Window


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
        # The panel first: what is drawn depends on its controls and on an uploaded correction.
        with panel:
            show_decision_panel(desk)
            display = _display_controls(desk)
        with picture:
            _steps(desk)
            _picture(desk, display)


def _steps(desk: Desk) -> None:
    """Draw the ways through the slices, and the switch that hides the mask."""
    count = len(desk.view)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if count > 1:
            _step_button("Previous", desk, desk.index - 1, shortcut="PageUp")
            _step_button("Next", desk, desk.index + 1, shortcut="PageDown")
        unseen = _next_after(desk.sitting.missing, desk.index)
        _step_button("Next unseen", desk, unseen, shortcut="N")
        st.button(
            "Show mask" if desk.hidden else "Hide mask",
            key=desk.key("hide"),
            shortcut="H",
            on_click=_set_hidden,
            args=(desk.key("hidden"), not desk.hidden),
        )
    if count > 1:
        st.slider(
            f"Slice ({desk.view.plane})",
            1,
            count,
            key=desk.key("slice"),
            format=f"%d of {count}",
            label_visibility="collapsed",
        )


def _picture(desk: Desk, display: _Display) -> None:
    overlays = [] if desk.hidden else _overlays(desk, display)
    tumour = "tumour proposed" if desk.areas[desk.index] else "no tumour proposed"
    place = f"Slice {desk.index + 1} of {len(desk.view)}"
    st.image(
        render_slice(desk.view, desk.index, display.window, overlays),
        output_format="PNG",
        alt=f"{place}, {desk.view.plane}, {tumour}; "
        f"{desk.view.letters.left} of the patient is on the left",
    )
    colours = ("orange: proposed", "blue: corrected")[: len(overlays)]
    st.caption(f"{place}, {desk.view.plane}: {tumour} ({', '.join(colours) or 'mask hidden'})")


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


def _display_controls(desk: Desk) -> _Display:
    """Draw how the mask and the grey scale are set. What is set stays for the session."""
    with st.container(border=True):
        style = st.segmented_control(
            "Mask",
            ("outline", "fill"),
            default="outline",
            required=True,
            format_func=str.capitalize,
            key="style",
            persist_state="session",
        )
        # An outline covers nothing and may be strong; a fill must let the anatomy through.
        percent = st.slider(
            "Mask opacity",
            10,
            100,
            90 if style == "outline" else 35,
            format="%d %%",
            key=f"opacity-{style}",
            persist_state="session",
        )
        return _Display(
            style="outline" if style == "outline" else "fill",
            opacity=percent / 100,
            window=_window_controls(desk),
        )


def _window_controls(desk: Desk) -> Window:
    normal = desk.window
    reach, step = normal.width * 2, normal.width / 100
    # The normal window is part of the keys: another sequence starts with its own.
    level = st.slider(
        "Window level",
        normal.level - reach,
        normal.level + reach,
        normal.level,
        step,
        key=desk.key(f"level-{normal}"),
        persist_state="session",
    )
    width = st.slider(
        "Window width",
        step,
        reach * 2,
        normal.width,
        step,
        key=desk.key(f"width-{normal}"),
        persist_state="session",
    )
    return Window(level=level, width=width)


def _overlays(desk: Desk, display: _Display) -> list[Overlay]:
    proposed = Overlay(
        mask=desk.proposed,
        colour=PROPOSED_COLOUR,
        style=display.style,
        opacity=display.opacity,
    )
    corrected = desk.corrected()
    if corrected is None:
        return [proposed]
    # Always an outline: two fills over each other would hide where they differ.
    return [
        proposed,
        Overlay(mask=corrected, colour=CORRECTED_COLOUR, style="outline", opacity=1.0),
    ]


def _turn_to(item: WorkItem, case_id: str | None) -> None:
    """Leave a case for another, or (None) for the worklist; its clock stops."""
    leave_desk(item)
    st.session_state["open_case"] = case_id


def _go(slice_key: str, target: int) -> None:
    st.session_state[slice_key] = target + 1


def _set_hidden(hidden_key: str, hidden: bool) -> None:
    st.session_state[hidden_key] = hidden


def _next_after(indices: list[int], index: int) -> int | None:
    """Return the first of these slices after `index`, going round; None: there are none."""
    return next((i for i in indices if i > index), indices[0] if indices else None)
