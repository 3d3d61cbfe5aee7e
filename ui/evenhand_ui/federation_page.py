"""The page of a coordinator: studies, rounds, who was missing, losses, epsilon, bytes, time left.

It reads what `evenhand federation status` reads, and changes nothing.
"""

import os
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from evenhand import plugins
from evenhand.experiment.federation_view import FederationView, RoundView, StudyView
from evenhand_ui.faults import told_plainly
from evenhand_ui.options import COORDINATOR_VARIABLE

__all__ = ["main", "show_federation"]

_REFRESH = "5s"
_BADGES = {"running": "blue", "waiting": "gray", "finished": "green", "failed": "red"}


def main() -> None:
    """Draw the page alone, as `evenhand watch` does."""
    st.set_page_config(page_title="Evenhand federation", layout="wide")
    show_federation()


@st.fragment(run_every=_REFRESH)
def show_federation() -> None:
    """Draw it; it refreshes by itself."""
    with told_plainly():
        folder = os.environ.get(COORDINATOR_VARIABLE)
        look = plugins.load("evenhand.views", "federation")
        view: FederationView = look(Path(folder) if folder else None)
        st.markdown("## Federation")
        for study in view.studies:
            _show_study(study)
        if not view.studies:
            st.info("No study was submitted yet: evenhand federation submit STUDY.toml")
        if view.damaged:
            st.warning(f"{len(view.damaged)} studies cannot be read: evenhand federation status")
        st.markdown("### Hospitals")
        rows = [(one.hospital, one.admitted_at, one.key) for one in view.members]
        st.table(pd.DataFrame(rows, columns=["hospital", "admitted", "key"]))


def _show_study(study: StudyView) -> None:
    colour = _BADGES.get(study.status, "orange")
    st.markdown(f"### {study.name} :{colour}-badge[{study.status}]")
    st.caption(f"Hash {study.digest[:16]}")
    done, sent, left, worst = st.columns(4)
    done.metric("Rounds", f"{study.done} of {study.rounds}")
    sent.metric("Sent by hospitals", _size(sum(one.bytes_sent for one in study.tried)))
    left.metric("Time left", _time(study.seconds_left))
    spent = [value for one in study.tried for value in one.epsilon.values()]
    worst.metric("Epsilon spent, most", f"{max(spent):.3g}" if spent else "none")
    st.progress(study.done / study.rounds)
    if study.reason:
        st.warning("The last try of a round failed: evenhand federation status says why.")
    if not study.tried:
        return
    losses = pd.DataFrame({one.number: dict(one.losses) for one in study.tried}).T
    if losses.notna().to_numpy().any():
        losses.index.name = "round"
        st.line_chart(losses, x_label="round", y_label="last loss")
    st.dataframe(pd.DataFrame([_row(one) for one in study.tried]), hide_index=True)


def _row(one: RoundView) -> dict[str, Any]:
    def listed(figures: Any) -> str:
        return ", ".join(f"{name} {value:.3g}" for name, value in figures.items()) or "not told"

    return {
        "round": one.number,
        "seconds": round(one.seconds),
        "answered": ", ".join(one.answered),
        "missing": ", ".join(one.missing) or "nobody",
        "last loss": listed(one.losses),
        "epsilon": listed(one.epsilon),
        "sent": _size(one.bytes_sent),
        "received": _size(one.bytes_received),
    }


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "not known"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
