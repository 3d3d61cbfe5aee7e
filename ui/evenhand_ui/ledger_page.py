"""The privacy ledgers of a run's hospitals: what was spent of what was granted, and for what."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from evenhand.errors import EvenhandError
from evenhand.experiment.layout import RunFolder
from evenhand.privacy.ledger_check import LedgerCopy
from evenhand.privacy.ledger_plot import spent_now
from evenhand.privacy.ledger_state import Charge
from evenhand_ui.office import Office
from evenhand_ui.who import Who

__all__ = ["show_ledger"]


def show_ledger(office: Office, _: Who) -> None:
    """Draw what each hospital's patients have spent of their privacy, and for what."""
    st.markdown("### Privacy ledger")
    st.caption(
        "What was spent on the patient who was used most, against what the hospital has granted "
        "to each. All studies over the same patients count together."
    )
    run = RunFolder(office.run.folder)
    for name in office.run.stores:
        try:
            copy = LedgerCopy.read(run.hospital(name).site().ledger_path)
            state = copy.state()
        except EvenhandError:
            st.text(
                f"{name}: no ledger that can be read here; nothing was spent, or it lies elsewhere."
            )
            continue
        grant = state.grant
        if grant is None:
            st.text(f"{name}: nothing was granted.")
            continue
        spent = spent_now(state)
        with st.container(border=True):
            left, right = st.columns([1, 2])
            left.metric(f"{name}: epsilon spent", f"{spent:.2f} of {grant.epsilon:g}")
            left.caption(f"delta {grant.delta:g}; granted by {grant.by or 'the config of a run'}")
            share = min(1.0, spent / grant.epsilon) if grant.epsilon else 1.0
            right.progress(share, text=f"{len(state.charges)} charges")
            if copy.faults(copy.public_key, [], []):
                right.error("This ledger is not what was written: `evenhand ledger verify`.")
            right.dataframe(_studies(state.charges), hide_index=True)


def _studies(charges: Sequence[Charge]) -> pd.DataFrame:
    rows = [{"study": one.study or one.purpose, "day": str(one.at)[:10]} for one in charges]
    if not rows:
        return pd.DataFrame(columns=["study", "first", "last", "charges"])
    days = pd.DataFrame(rows).groupby("study")["day"]
    return days.agg(first="min", last="max", charges="count").reset_index()
