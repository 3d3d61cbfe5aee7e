"""The auditor's page: what the audit found, and from a group down to its cases."""

import json
from typing import Any

import pandas as pd
import streamlit as st

from evenhand.experiment.layout import RunFolder
from evenhand_ui.office import Office
from evenhand_ui.who import Who

__all__ = ["show_audit"]

_ATTRIBUTES = ("hospital", "sex", "age", "race", "ethnicity")
_SHOWN = ("case", "dice", "hd95", "nsd", "volume_reference", "volume_predicted")


def show_audit(office: Office, _: Who) -> None:
    """Draw the findings, and the cases of a group with the way to each."""
    st.markdown("### Audit report")
    run = RunFolder(office.run.folder)
    record = _record(run)
    if record is None:
        st.info("This run has no report yet; `evenhand run` writes it at its end.")
        return
    for finding in record.get("findings", []):
        with st.container(border=True):
            st.markdown(f"**{finding['headline']}**")
            st.caption(f"{finding['arm']}, by {finding['attribute']}")
            st.text(finding["sentence"])
            st.text(finding["sureness"])
    st.caption(f"The whole report: {run.report_folder.name}/index.html in the run's folder.")
    table = _table(run, record)
    if table is not None:
        _drill_down(office, table)


def _record(run: RunFolder) -> dict[str, Any] | None:
    try:
        content = json.loads((run.report_folder / "audit.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _table(run: RunFolder, record: dict[str, Any]) -> pd.DataFrame | None:
    try:
        table = pd.read_csv(run.predictions_path, dtype={"case": str, "patient": str})
    except (OSError, ValueError):
        return None
    edges = record.get("audit", {}).get("age_edges", [])
    if "age_years" in table:
        bins = [-1, *edges, 200]
        names = [
            f"{low} to {high}" for low, high in zip([0, *edges], [*edges, "more"], strict=True)
        ]
        ages = pd.cut(table["age_years"], bins, right=False, labels=names)
        table["age"] = ages.astype(object).fillna("unknown")
    return table


def _drill_down(office: Office, table: pd.DataFrame) -> None:
    st.markdown("#### From a group to its cases")
    arms = sorted(
        {f"{arm} · {prompt}" for arm, prompt in zip(table.arm, table.prompt, strict=True)}
    )
    present = [name for name in _ATTRIBUTES if name in table and len(set(table[name])) > 1]
    if not present:
        st.info("All cases are in one group.")
        return
    first, second, third = st.columns(3)
    arm = first.selectbox("Model and prompt", arms, key="audit_arm")
    attribute = second.selectbox("Attribute", present, key="audit_attribute")
    name, _, prompt = arm.partition(" · ")
    own = table[(table.arm == name) & (table.prompt == prompt)]
    groups = sorted(own[attribute].astype(str).unique())
    group = third.selectbox("Group", groups, key=f"audit_group_{attribute}")
    st.scatter_chart(own.assign(group=own[attribute].astype(str)), x="group", y="dice", height=260)
    cases = own[own[attribute].astype(str) == group].sort_values("dice")
    worst = f"{len(cases)} cases, the worst Dice first. Mean {cases['dice'].mean():.3f}."
    st.caption(worst)
    key = f"{attribute}_{group}"
    chosen = st.dataframe(
        cases[[c for c in _SHOWN if c in cases]],
        hide_index=True,
        key=f"audit_cases_{arm}_{key}",
        on_select="rerun",
        selection_mode="single-row",
    )
    reviewable = [case for case in cases["case"] if case in office.run.hospital_of]
    for row in chosen.selection.rows:
        if cases["case"].iloc[row] in reviewable:
            _look_at(str(cases["case"].iloc[row]))
        st.info("There is no proposed mask of this case to look at.")
    st.caption("Choose a row to look at its case, or choose the case here.")
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    case = left.selectbox("Case", reviewable, key=f"audit_case_{key}")
    if right.button("Look at the case", disabled=case is None, key="audit_open"):
        _look_at(case)


def _look_at(case_id: str) -> None:
    """Turn to the review page, where an auditor may look and change nothing."""
    st.session_state["open_case"] = case_id
    st.switch_page(st.session_state["review_page"])
