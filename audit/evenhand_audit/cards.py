"""What is handed over with a model: card, datasheet and checklists, filled with what is known.

Nothing is invented: a point of which neither the audit nor the facts file says anything reads "to
be filled in by ...". Every figure bears a mark that leads to the hashes of the table, the config
and the code that made it.
"""

import itertools
import json
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from operator import itemgetter
from pathlib import Path
from typing import Any

from evenhand.artifacts import file_sha256, write_atomically
from evenhand.config_files import load_section
from evenhand.errors import DataError, UsageError
from evenhand_audit.cards_config import CardFacts
from evenhand_audit.cards_known import MARK, known_text, metric_names, table_of
from evenhand_audit.report import REPORT_SCHEMA_VERSION

__all__ = ["CHECKLISTS", "DOCUMENTS", "write_cards"]

CHECKLISTS = {
    "DATASHEET.md": "datasheet.toml",
    "CLAIM-2024.md": "claim-2024.toml",
    "FUTURE-AI.md": "future-ai.toml",
    "ANNEX-IV.md": "annex-iv.toml",
}
"""Documents that answer a list of questions, and where the questions are."""

DOCUMENTS = ("README.md", *CHECKLISTS, "provenance.json")
"""Everything that is written; README.md is the model card, as Hugging Face wants it."""

LEADING = "federated"
"""Preferred where a report has several arms and none is named."""

Record = Mapping[str, Any]


def write_cards(
    report: Path, out: Path, *, facts: Path | None = None, arm: str = ""
) -> tuple[Path, ...]:
    """Write all documents about one arm of a report.

    Args:
        report: a folder with audit.json.
        out: made if need be; documents of these names are replaced.
        facts: a TOML file as `CardFacts`.
        arm: whose documents; empty: the leading one.

    Raises:
        DataError: no audit.json, or not one of this version.
        UsageError: no such arm, or a fact that is not known; nothing is written then.
    """
    path = report / "audit.json"
    record = _read(path)
    told = load_section(facts, CardFacts) if facts else CardFacts()
    chosen = _arm(record, arm)
    known = known_text(record, chosen, told.model_dump())
    known["identity"] = _identity(told, chosen)
    provenance = _provenance(record, path)
    foot = _foot(provenance)
    contents = {"README.md": _model_card(told, record, chosen, known) + foot}
    for name, source in CHECKLISTS.items():
        contents[name] = _checklist(source, known) + foot
    contents["provenance.json"] = json.dumps(provenance, indent=1) + "\n"
    for name, text in contents.items():
        write_atomically(out / name, text.encode())
    return tuple(out / name for name in contents)


def _read(path: Path) -> Record:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"There is no '{path}'. Name the folder of a report that `evenhand audit` made."
        ) from None
    except (OSError, ValueError):
        raise DataError(f"'{path}' is damaged; it is no JSON. Write the report again.") from None
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version != REPORT_SCHEMA_VERSION:
        raise DataError(
            f"'{path}' has report schema {version}; this version of Evenhand reads "
            f"{REPORT_SCHEMA_VERSION}. Write the report again with this version."
        )
    return dict(record)


def _arm(record: Record, wanted: str) -> Record:
    arms: list[Record] = record["audit"]["arms"]
    if wanted:
        named = [arm for arm in arms if arm["arm"] == wanted]
        if not named:
            known = ", ".join(dict.fromkeys(arm["arm"] for arm in arms))
            raise UsageError(f"The report has no arm '{wanted}'; it has: {known}.")
        return named[0]
    leading = [arm for arm in arms if arm["arm"] == LEADING and arm["prompt"] == "automatic"]
    return (leading or arms)[0]


def _provenance(record: Record, path: Path) -> dict[str, Any]:
    origin = record["origin"]
    return {
        "mark": MARK,
        "audit_json_sha256": file_sha256(path),
        "table": origin["table"],
        "table_sha256": origin["table_sha256"],
        "table_vouched_by_sidecar": origin["vouched_by_sidecar"],
        "config_sha256": origin["config_sha256"],
        "code_sha256": origin["code_sha256"],
        "versions": origin["versions"],
    }


def _foot(provenance: Record) -> str:
    return (
        f"\n## Where the figures come from\n\n{MARK} Evenhand "
        f"{provenance['versions']['evenhand']}; sha256 of\n\n"
        f"- the table `{provenance['table']}`: `{provenance['table_sha256']}`\n"
        f"- the audit's config: `{provenance['config_sha256']}`\n"
        f"- the audit's code: `{provenance['code_sha256']}`\n"
        f"- `audit.json`: `{provenance['audit_json_sha256']}`\n"
    )


def _identity(told: CardFacts, arm: Record) -> str:
    name = told.model_name or arm["arm"]
    parts = [name, told.model_version and f"version {told.model_version}", told.developer]
    return ", ".join(part for part in parts if part) + "."


def _model_card(told: CardFacts, record: Record, arm: Record, known: Mapping[str, str]) -> str:
    name = told.model_name or arm["arm"]
    sections = {
        "What it is": ("identity technique architecture backbone", "the developer"),
        "Intended use": ("intended_use", "the clinical lead"),
        "Not to be used for": ("out_of_scope", "the clinical lead"),
        "Training": ("training selection privacy", "the developer"),
        "Test data": ("data_sources cohort groups", "the developer"),
        "Metrics": ("metrics statistics", "the developer"),
        "Results": ("performance failures", "the developer"),
        "Fairness": ("fairness bias_sources", "the auditor"),
        "Limitations": ("limitations", "the developer"),
        "Human oversight": ("oversight", "the clinical lead"),
        "Contact": ("contact", "the developer"),
    }
    text = [_front_matter(told, record, arm), f"# {name}\n"]
    for title, (topics, by) in sections.items():
        text.append(f"## {title}\n\n{_answer(topics.split(), by, known)}\n")
        if title == "Fairness":
            text.append(f"### By subgroup\n\n{table_of(arm)}\n")
    return "\n".join(text)


def _front_matter(told: CardFacts, record: Record, arm: Record) -> str:
    """The YAML header, which is JSON where a value could need quoting (JSON is YAML)."""
    overall = arm["overall"]["metrics"]
    names = metric_names(arm)
    results = [
        {"type": column, "name": f"mean {names[column]}", "value": round(each["mean"]["value"], 6)}
        for column, each in overall.items()
        if each["mean"]["value"] is not None
    ]
    data = {"name": record["origin"]["table"], "type": "private"}
    task = {"type": "image-segmentation"}
    index = [
        {
            "name": told.model_name or arm["arm"],
            "results": [{"task": task, "dataset": data, "metrics": results}],
        }
    ]
    lines = [
        "---",
        *([f"license: {json.dumps(told.license)}"] if told.license else []),
        *([f"base_model: {json.dumps(told.base_model)}"] if told.base_model else []),
        "library_name: evenhand",
        "pipeline_tag: image-segmentation",
        "tags: [medical-imaging, segmentation, fairness-audit]",
        f"model-index: {json.dumps(index)}",
        "---\n",
    ]
    return "\n".join(lines)


def _checklist(source: str, known: Mapping[str, str]) -> str:
    text = (files("evenhand_audit") / "checklists" / source).read_text(encoding="utf-8")
    questions = tomllib.loads(text)
    lines = [
        f"# {questions['title']}\n",
        f"{questions['source']}. {questions['intro']}\n",
        "Filled in by Evenhand with what it knows; check each answer before you hand it over.\n",
    ]
    for part, items in itertools.groupby(questions["items"], key=itemgetter("part")):
        lines += [f"## {part}\n", "| no. | what | answer |", "|---|---|---|"]
        for item in items:
            answer = _answer(item["known"], item["by"], known)
            safe = answer.replace("|", "\\|").replace("\n", " ")
            lines.append(f"| {item['number']} | {item['ask']} | {safe} |")
        lines.append("")
    return "\n".join(lines)


def _answer(topics: list[str], by: str, known: Mapping[str, str]) -> str:
    """What is known, and who has to add the rest."""
    found = [known[topic] for topic in topics if topic in known]
    if not found:
        return f"*To be filled in by {by}.*"
    lacking = len(found) < len(topics)
    return " ".join(found) + (f" *To be completed by {by}.*" if lacking else "")
