"""The coordinator's page: how far the review is, how readers decide, how well they agree."""

import pandas as pd
import streamlit as st

from evenhand.review import (
    Agreement,
    State,
    Verdict,
    agreement_by_month,
    agreement_of,
    reader_figures,
)
from evenhand_ui.office import Office
from evenhand_ui.who import Who
from evenhand_ui.wording import state_text

__all__ = ["show_readers"]

_VERDICTS = (Verdict.ACCEPT, Verdict.CORRECT, Verdict.REJECT, Verdict.CANNOT_JUDGE)


def show_readers(office: Office, _: Who) -> None:
    """Draw progress, readers' figures, and agreement of first and second readings."""
    reviews = office.reviews()
    standings = [review.standing for review in reviews.values()]
    entries = office.store.entries(arm=office.run.arm)
    st.markdown("### Readers")
    states = [standing.state for standing in standings]
    for column, state in zip(st.columns(len(State)), State, strict=True):
        column.metric(state_text(state), states.count(state))
    figures = reader_figures(entries)
    if not figures:
        st.info("Nothing was decided yet.")
        return
    table = pd.DataFrame(
        {
            "Reader": one.reader,
            "Decisions": one.decisions,
            **{verdict.value: one.verdicts.get(verdict, 0) for verdict in _VERDICTS},
            "Median seconds": round(one.median_seconds, 1),
            "Median Dice to proposal": one.median_dice,
        }
        for one in figures
    )
    st.dataframe(table, hide_index=True)
    st.bar_chart(
        table.set_index("Reader")[[verdict.value for verdict in _VERDICTS]],
        horizontal=True,
        height=80 + 40 * len(table),
    )
    st.markdown("#### Second readings")
    whole = agreement_of(standings)
    if not whole.cases:
        st.info("No case has two readings yet.")
        return
    st.caption(
        f"Two masks agree from Dice {office.rules.agreement_dice:g} on. Kappa compares accept, "
        "correct, reject and cannot judge; it is not defined where all say the same."
    )
    rows = {"All": whole, **agreement_by_month(standings)}
    st.dataframe(
        pd.DataFrame(_row(name, agreement) for name, agreement in rows.items()), hide_index=True
    )


def _row(name: str, agreement: Agreement) -> dict[str, object]:
    dice = pd.Series(agreement.dice, dtype=float)
    return {
        "Month": name,
        "Cases": agreement.cases,
        "Agreed": agreement.agreed,
        "Median Dice": None if dice.empty else round(float(dice.median()), 3),
        "Lowest Dice": None if dice.empty else round(float(dice.min()), 3),
        "Kappa": None if agreement.kappa is None else round(agreement.kappa, 3),
    }
