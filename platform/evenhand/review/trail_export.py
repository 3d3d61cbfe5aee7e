"""The trail for people and for programs: tables, and a page that prints well."""

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from evenhand.review.authors import Author
from evenhand.review.chain import Link
from evenhand.review.decision_rows import lesions_text
from evenhand.review.records import Entry
from evenhand.review.trail import Trail

__all__ = ["LINK_COLUMNS", "TRAIL_COLUMNS", "links_csv", "trail_csv", "trail_html"]

TRAIL_COLUMNS = (
    "position",
    "decided_at_utc",
    "case_id",
    "hospital",
    "arm",
    "reader",
    "verdict",
    "reason",
    "comment",
    "seconds",
    "strokes",
    "slices_seen",
    "dice",
    "hd95",
    "proposed_sha256",
    "corrected_sha256",
    "corrected_path",
    "backbone",
    "adapter_sha256",
    "stage",
    "login",
    "signed_name",
    "signed_meaning",
    "signed_with",
    "unaided_sha256",
    "lesions",
    "previous_sha256",
    "sha256",
)
"""Columns of the table, in order: all that a decision holds."""

_SENDING = (
    "step",
    "case_id",
    "arm",
    "sender",
    "object_uid",
    "host",
    "mask_sha256",
    "decision_sha256",
)
_PERSON = ("change", "person_id", "login", "name", "roles", "author", "way")
_COPY = ("arm", "folder", "store", "masks", "author", "way")

LINK_COLUMNS: Mapping[str, tuple[str, ...]] = {
    name: ("position", "at_utc", *own, "previous_sha256", "sha256")
    for name, own in (("sendings", _SENDING), ("people", _PERSON), ("copies", _COPY))
}
"""Columns of the tables of what is no decision, in order: all that a row holds."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Review decisions</title>
<style>
body {font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #1a1a1a}
table {border-collapse: collapse; width: 100%}
th, td {border-bottom: 1px solid #ccc; padding: 4px 8px; text-align: left; vertical-align: top}
th {background: #f0f0f0} td.n {text-align: right; white-space: nowrap}
code {font-size: 11px; word-break: break-all} .bad {color: #a40000; font-weight: 700}
@media print {body {margin: 0; font-size: 10px} thead {display: table-header-group}}
</style>
{% macro when(time) %}{{ time.strftime("%Y-%m-%d %H:%M:%S") }}{% endmacro %}
{% macro chain(check, what) %}{% if check.broken_at is none %}
The chain is intact; hash of the last {{ what }}: <code>{{ check.head_sha256 }}</code>{% else %}
<span class="bad">The chain is broken at {{ what }} {{ check.broken_at }}: {{ check.why }}.</span>
{% endif %}{% endmacro %}
<h1>Review decisions</h1>
<p>{{ trail.check.decisions.length }} decisions, written {{ written }} UTC. Where it says
demo, the reader wrote their own name and nobody checked it: that is no signature.
{{ chain(trail.check.decisions, "decision") }}</p>
<table><thead><tr><th>#</th><th>When (UTC)</th><th>Case</th><th>Reader</th><th>Decision</th>
<th>Seconds</th><th>Strokes</th><th>Slices seen</th><th>Dice</th><th>HD95</th>
<th>Lesions: ml, mm x mm, slice (from 0, as stored)</th>
<th>Signed: name, time, meaning</th>
<th>Mask before, after</th><th>Model, adapter</th><th>Hash</th></tr></thead><tbody>
{% for e in trail.decisions %}{% set d = e.decision %}<tr>
<td class="n">{{ e.position }}</td><td>{{ when(e.decided_at_utc) }}</td>
<td>{{ d.case_id }}<br>{{ d.hospital }}, {{ d.arm }}</td>
<td>{{ d.reader }}<br>{{ d.stage.value }} reading, {{ d.login }}</td>
<td><b>{{ d.verdict.value }}</b>{% if d.reason %}: {{ d.reason.value }}{% endif %}
{% if d.comment %}<br>{{ d.comment }}{% endif %}</td>
<td class="n">{{ "%.1f"|format(d.seconds) }}</td><td class="n">{{ d.strokes }}</td>
<td class="n">{{ d.slices_seen|length }}</td>
<td class="n">{% if d.dice is not none %}{{ "%.3f"|format(d.dice) }}{% endif %}</td>
<td class="n">{% if d.hd95 is not none %}{{ "%.2f"|format(d.hd95) }}{% endif %}</td>
<td class="n">{% if d.lesions is not none %}{% for one in d.lesions %}
{{ "%.2f"|format(one.volume_ml) }}, {{ "%.1f"|format(one.longest_diameter_mm) }} x
{{ "%.1f"|format(one.perpendicular_diameter_mm) }}, {{ one.slice }}<br>
{% else %}none{% endfor %}{% endif %}</td>
<td>{% if d.signature %}{{ d.signature.name }}<br>
{{ when(e.decided_at_utc) }} UTC<br>{{ d.signature.meaning }}
({{ d.signature.method }}){% elif e.sha256 in trail.signed_with %}signed with decision
{{ trail.signed_with[e.sha256] }}{% else %}not signed{% endif %}
{% if d.unaided_sha256 %}<br>covers <code>{{ d.unaided_sha256 }}</code>{% endif %}</td>
<td><code>{{ d.proposed_sha256 }}</code>{% if d.corrected_sha256 %}<br>
<code>{{ d.corrected_sha256 }}</code>{% endif %}</td>
<td>{{ d.backbone }}{% if d.adapter_sha256 %}<br><code>{{ d.adapter_sha256 }}</code>{% endif %}</td>
<td><code>{{ e.sha256 }}</code></td></tr>
{% endfor %}</tbody></table>
{% if trail.check.sendings.length %}<h1>Sent to an archive</h1>
<p>Steps of sendings. One that was begun and has no end was broken off: whether the archive has its
object is not known. The sender is the account on the machine that sent it.
{{ chain(trail.check.sendings, "step") }}</p>
<table><thead><tr><th>#</th><th>When (UTC)</th><th>Case</th><th>Sender</th><th>Step</th>
<th>To</th><th>Object</th><th>Mask, decision</th><th>Hash</th></tr></thead><tbody>
{% for e in trail.sendings %}{% set d = e.record %}<tr>
<td class="n">{{ e.position }}</td><td>{{ when(e.at_utc) }}</td>
<td>{{ d.case_id }}<br>{{ d.arm }}</td><td>{{ d.sender }}</td><td><b>{{ d.step.value }}</b></td>
<td>{{ d.host }}</td><td><code>{{ d.object_uid }}</code></td>
<td><code>{{ d.mask_sha256 }}</code><br><code>{{ d.decision_sha256 }}</code></td>
<td><code>{{ e.sha256 }}</code></td></tr>
{% endfor %}</tbody></table>{% endif %}
{% if trail.check.people.length or trail.check.people.broken_at %}<h1>Who may work here</h1>
<p>Changes of people. Where a command made one, its author is the account on the machine.
{{ chain(trail.check.people, "change") }}</p>
<table><thead><tr><th>#</th><th>When (UTC)</th><th>Change</th><th>Person</th><th>Login</th>
<th>Printed name</th><th>Roles</th><th>By</th><th>Hash</th></tr></thead><tbody>
{% for e in trail.people %}{% set d = e.record %}<tr>
<td class="n">{{ e.position }}</td><td>{{ when(e.at_utc) }}</td><td><b>{{ d.change.value }}</b></td>
<td>{{ d.person_id }}</td><td>{{ d.login }}</td><td>{{ d.name }}</td>
<td>{{ d.roles|sort|join(", ") }}</td><td>{{ d.by.name }} ({{ d.by.way.value }})</td>
<td><code>{{ e.sha256 }}</code></td></tr>
{% endfor %}</tbody></table>{% endif %}
{% if trail.check.copies.length %}<h1>Copies for training</h1>
<p>Masks that were written out of the run. {{ chain(trail.check.copies, "copy") }}</p>
<table><thead><tr><th>#</th><th>When (UTC)</th><th>Masks</th><th>Folder, store</th><th>By</th>
<th>Hash</th></tr></thead><tbody>
{% for e in trail.copies %}{% set d = e.record %}<tr>
<td class="n">{{ e.position }}</td><td>{{ when(e.at_utc) }}</td><td class="n">{{ d.masks }}</td>
<td>{{ d.folder }}{% if d.store %}<br>{{ d.store }}{% endif %}</td>
<td>{{ d.by.name }} ({{ d.by.way.value }})</td><td><code>{{ e.sha256 }}</code></td></tr>
{% endfor %}</tbody></table>{% endif %}</html>
"""


def trail_csv(entries: Sequence[Entry]) -> str:
    """Return decisions as a CSV table of `TRAIL_COLUMNS`; slices seen are separated by spaces.

    What readers wrote is kept from being a formula in a spreadsheet: an apostrophe goes before.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(TRAIL_COLUMNS)
    for entry in entries:
        writer.writerow([_cell(entry, column) for column in TRAIL_COLUMNS])
    return out.getvalue()


def links_csv(name: str, links: Sequence[Link[Any]]) -> str:
    """Return records as a CSV table of `LINK_COLUMNS[name]`, safe in a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(LINK_COLUMNS[name])
    for link in links:
        content = {**vars(link.record), **vars(link)}
        by = content.get("by")
        if isinstance(by, Author):
            content |= {"author": by.name, "way": by.way}
        writer.writerow([_plain(content[column]) for column in LINK_COLUMNS[name]])
    return out.getvalue()


def trail_html(trail: Trail) -> str:
    """Return the trail as one self-contained page that says whether its chains are intact."""
    from jinja2 import Environment

    page = Environment(autoescape=True).from_string(_PAGE)
    return page.render(trail=trail, written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"))


_SIGNED = {"signed_name": "name", "signed_meaning": "meaning", "signed_with": "method"}


def _cell(entry: Entry, column: str) -> object:
    value: Any
    if column in _SIGNED:
        value = getattr(entry.decision.signature, _SIGNED[column], "")
    else:
        value = getattr(entry if hasattr(entry, column) else entry.decision, column)
    if column == "slices_seen":
        return " ".join(map(str, value))
    if column == "lesions":
        return lesions_text(value)
    return _plain(value)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    if isinstance(value, frozenset):
        return " ".join(sorted(map(str, value)))
    if isinstance(value, Path | StrEnum):
        value = str(value)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value
