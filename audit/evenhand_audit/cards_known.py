"""What an audit knows, in sentences, each figure with a mark that leads to its hashes."""

from collections.abc import Mapping
from typing import Any

from evenhand.metrics import DEFINITIONS
from evenhand_audit.records import number
from evenhand_audit.words import attribute_name

__all__ = ["MARK", "known_text", "metric_names", "table_of"]

MARK = "[A]"
"""Stands behind every figure; the documents end with what it means."""

Record = Mapping[str, Any]


def known_text(record: Record, arm: Record, facts: Mapping[str, str]) -> dict[str, str]:
    """Sentences by topic; a topic of which nothing is known is not there.

    Args:
        record: an audit.json.
        arm: the one of its arms that the documents are about.
        facts: what people said, by field; stands before what the audit knows.
    """
    known = _fixed(record) | _figures(record, arm) | _from_run(record, arm)
    for topic, text in facts.items():
        if text:
            known[topic] = f"{text} {known[topic]}" if topic in known else text
    return known


def _fixed(record: Record) -> dict[str, str]:
    audit, origin = record["audit"], record["origin"]
    unit = "mm" if audit["units"] == "mm" else "voxels"
    defined = (origin.get("meta") or {}).get("definitions") or {}
    if defined:
        metrics = "; ".join(f"{name}: {text}" for name, text in sorted(defined.items()))
    else:
        metrics = (
            "Dice, HD95 and NSD as they came in the table; their definitions are not on record. "
            f"(Evenhand's own: {DEFINITIONS['hd95']}.)"
        )
    return {
        "audit_goal": "Audit of a segmentation model by subgroups of patients.",
        "metrics": f"{metrics}. Distances in {unit}, NSD within {audit['nsd_tolerance']:g} {unit}.",
        "statistics": (
            f"95% intervals by bootstrap over patients ({audit['resamples']} resamples, cases of a "
            "patient kept together); correction for all comparisons made; smallest gap that the "
            f"sample could have found. {MARK}"
        ),
        "missing_data": (
            "Patients whose attribute is not known form a group of their own and are never left "
            "out."
        ),
        "software": ", ".join(f"{name} {text}" for name, text in origin["versions"].items())
        + f". {MARK}",
        "limitations": (
            "The audit describes these patients only. It names no causes. A group under "
            f"{audit['minimum_group']} patients is not shown alone. A gap that was not found may "
            "still be there: the report gives the smallest that could have been found."
        ),
        "documents": "Model card, datasheet, this table, and the audit report.",
        "drift": "Two versions or two months are compared by `evenhand audit compare`.",
        "standards": "Metrics as MONAI defines them; groups as fairlearn's MetricFrame.",
        "provenance": f"Hashes of table, config and code stand at the end of this document. {MARK}",
    }


def _figures(record: Record, arm: Record) -> dict[str, str]:
    overall = arm["overall"]
    found = [
        each["sentence"]
        for each in record.get("findings", ())
        if each["arm"] == f"{arm['arm']} · {arm['prompt']}"
    ]
    gaps = [f"{text} {MARK}" for text in (*found, *_gaps(arm))]
    empty = arm["empty_masks"]
    figures = {
        "cohort": f"{overall['patients']} patients, {overall['cases']} test cases. {MARK}",
        "performance": "; ".join(
            f"{metric_names(arm)[column]} {_estimate(each['mean'], column)}"
            for column, each in overall["metrics"].items()
        )
        + f" (means over {overall['patients']} patients, 95% intervals). {MARK}",
        "groups": "; ".join(_groups(each) for each in arm["attributes"]) + f". {MARK}",
        "performance_groups": "See the table by subgroup in the model card.",
        "failures": (
            f"Tumour missed altogether in {empty['prediction']} of {overall['cases']} cases; "
            f"something marked where there is none in {empty['reference']}. {MARK}"
        ),
    }
    if gaps:
        figures["fairness"] = " ".join(gaps)
    hospitals = [each for each in arm["attributes"] if each["attribute"] == "hospital"]
    if hospitals and len(hospitals[0]["by_group"]) > 1:
        figures["sites"] = f"By hospital: {_groups(hospitals[0])}. {MARK}"
    return figures


def _from_run(record: Record, arm: Record) -> dict[str, str]:
    """What `evenhand run` knows beyond the table."""
    facts: Record = record.get("facts") or {}
    told: Record = (facts.get("arms") or {}).get(arm["arm"]) or {}
    meta: Record = record["origin"].get("meta") or {}
    known = {}
    if told.get("train_patients"):
        known["training"] = f"{told['train_patients']} training patients. {MARK}"
        known["split_level"] = "Patients: none is in training and test."
    if told.get("epsilon"):
        spent = "; ".join(
            f"{hospital}: epsilon {each['epsilon']:.3g} at delta {each['delta']:.2g}, unit "
            f"{each['unit']}, trust model {each.get('trust', 'local')}"
            for hospital, each in told["epsilon"].items()
        )
        tried = told.get("attack") or "No attack has been made on this promise."
        known["privacy"] = f"Differential privacy: {spent}. {tried} {MARK}"
    if meta.get("weights_sha256"):
        known["backbone"] = (
            f"Backbone {meta.get('backbone', '')}, weights sha256 {meta['weights_sha256']}. {MARK}"
        )
    if facts.get("left_out"):
        left = ", ".join(f"{name} ({why})" for name, why in facts["left_out"].items())
        known["left_out"] = f"Left out: {left}."
    return known


def table_of(arm: Record) -> str:
    """Markdown table of every published group, with counts and mean Dice."""
    lines = ["| group | patients | mean Dice | 95% interval |", "|---|---|---|---|"]
    rows = [("everybody", arm["overall"])]
    for each in arm["attributes"]:
        name = attribute_name(each["attribute"])
        rows += [(f"{name}: {row['group']}", row) for row in each["by_group"]]
    for name, row in rows:
        dice = row["metrics"]["dice"]["mean"]
        safe = name.replace("|", "\\|")
        span = f"{_number(dice['low'])} to {_number(dice['high'])}"
        lines.append(f"| {safe} | {row['patients']} | {_number(dice['value'])} {MARK} | {span} |")
    return "\n".join(lines)


def metric_names(arm: Record) -> dict[str, str]:
    """Names of the arm's metrics by column."""
    return {each["column"]: each["name"] for each in arm["metrics"]}


def _gaps(arm: Record) -> list[str]:
    """The largest gap in Dice of each attribute, in plain figures."""
    found = []
    for each in arm["attributes"]:
        gap = (each.get("difference") or {}).get("dice")
        if gap is not None:
            found.append(
                f"By {attribute_name(each['attribute'])}: {gap['worst_group']} below "
                f"{gap['best_group']} by {_estimate(gap['gap'], 'dice')} in mean Dice."
            )
    return found


def _groups(attribute: Record) -> str:
    rows = ", ".join(f"{row['group']} {row['patients']}" for row in attribute["by_group"])
    return f"{attribute_name(attribute['attribute'])}: {rows}"


def _estimate(each: Record, column: str) -> str:
    low, high = _number(each["low"], column), _number(each["high"], column)
    return f"{_number(each['value'], column)} ({low} to {high})"


def _number(value: float | None, column: str = "dice") -> str:
    """As in the report; audit.json holds null for an unbounded end."""
    return "unbounded" if value is None else number(value, column)
