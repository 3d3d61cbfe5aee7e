"""The trail of decisions for people and for programs: a table, and a page that prints well."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from evenhand.review.records import Entry
from evenhand.review.sendings import SendingEntry
from evenhand.review.store import ChainCheck

__all__ = ["SENDING_COLUMNS", "TRAIL_COLUMNS", "sendings_csv", "trail_csv", "trail_html"]

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
    "previous_sha256",
    "sha256",
)
"""Columns of the table, in order: all that a decision holds."""

SENDING_COLUMNS = (
    "position",
    "at_utc",
    "step",
    "case_id",
    "arm",
    "sender",
    "object_uid",
    "host",
    "mask_sha256",
    "decision_sha256",
    "previous_sha256",
    "sha256",
)
"""Columns of the table of sendings, in order: all that a sending holds."""

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
<h1>Review decisions</h1>
<p>{{ check.length }} decisions, written {{ written }} UTC. Where it says
demo, the reader wrote their own name and nobody checked it: that is no signature.
{% if check.broken_at is none %}The chain is intact; hash of the last decision:
<code>{{ check.head_sha256 }}</code>{% else %}
<span class="bad">The chain is broken at decision {{ check.broken_at }}: {{ check.why }}.</span>
{% endif %}</p>
<table><thead><tr><th>#</th><th>When (UTC)</th><th>Case</th><th>Reader</th><th>Decision</th>
<th>Seconds</th><th>Strokes</th><th>Slices seen</th><th>Dice</th><th>HD95</th>
<th>Signed: name, time, meaning</th>
<th>Mask before, after</th><th>Model, adapter</th><th>Hash</th></tr></thead><tbody>
{% for e in entries %}{% set d = e.decision %}<tr>
<td class="n">{{ e.position }}</td><td>{{ e.decided_at_utc.strftime("%Y-%m-%d %H:%M:%S") }}</td>
<td>{{ d.case_id }}<br>{{ d.hospital }}, {{ d.arm }}</td>
<td>{{ d.reader }}<br>{{ d.stage.value }} reading, {{ d.login }}</td>
<td><b>{{ d.verdict.value }}</b>{% if d.reason %}: {{ d.reason.value }}{% endif %}
{% if d.comment %}<br>{{ d.comment }}{% endif %}</td>
<td class="n">{{ "%.1f"|format(d.seconds) }}</td><td class="n">{{ d.strokes }}</td>
<td class="n">{{ d.slices_seen|length }}</td>
<td class="n">{% if d.dice is not none %}{{ "%.3f"|format(d.dice) }}{% endif %}</td>
<td class="n">{% if d.hd95 is not none %}{{ "%.2f"|format(d.hd95) }}{% endif %}</td>
<td>{% if d.signature %}{{ d.signature.name }}<br>
{{ e.decided_at_utc.strftime("%Y-%m-%d %H:%M:%S") }} UTC<br>{{ d.signature.meaning }}
({{ d.signature.method }}){% else %}not signed{% endif %}</td>
<td><code>{{ d.proposed_sha256 }}</code>{% if d.corrected_sha256 %}<br>
<code>{{ d.corrected_sha256 }}</code>{% endif %}</td>
<td>{{ d.backbone }}{% if d.adapter_sha256 %}<br><code>{{ d.adapter_sha256 }}</code>{% endif %}</td>
<td><code>{{ e.sha256 }}</code></td></tr>
{% endfor %}</tbody></table>
{% if sent_check.length %}<h1>Sent to an archive</h1>
<p>Steps of sendings. One that was begun and has no end was broken off: whether the archive has its
object is not known. The sender is the account on the machine that sent it.
{% if sent_check.broken_at is none %}The chain is intact; hash of the last step:
<code>{{ sent_check.head_sha256 }}</code>{% else %}
<span class="bad">The chain is broken at sending {{ sent_check.broken_at }}:
{{ sent_check.why }}.</span>{% endif %}</p>
<table><thead><tr><th>#</th><th>When (UTC)</th><th>Case</th><th>Sender</th><th>Step</th>
<th>To</th><th>Object</th><th>Mask, decision</th><th>Hash</th></tr></thead><tbody>
{% for e in sent %}{% set d = e.sending %}<tr>
<td class="n">{{ e.position }}</td><td>{{ e.at_utc.strftime("%Y-%m-%d %H:%M:%S") }}</td>
<td>{{ d.case_id }}<br>{{ d.arm }}</td><td>{{ d.sender }}</td><td><b>{{ d.step.value }}</b></td>
<td>{{ d.host }}</td><td><code>{{ d.object_uid }}</code></td>
<td><code>{{ d.mask_sha256 }}</code><br><code>{{ d.decision_sha256 }}</code></td>
<td><code>{{ e.sha256 }}</code></td></tr>
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


def sendings_csv(entries: Sequence[SendingEntry]) -> str:
    """Return sendings as a CSV table of `SENDING_COLUMNS`, safe in a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(SENDING_COLUMNS)
    for entry in entries:
        writer.writerow([_sent_cell(entry, column) for column in SENDING_COLUMNS])
    return out.getvalue()


def trail_html(
    entries: Sequence[Entry],
    check: ChainCheck,
    sent: Sequence[SendingEntry],
    sent_check: ChainCheck,
) -> str:
    """Return decisions and sendings as one self-contained page that checks both chains."""
    from jinja2 import Environment

    page = Environment(autoescape=True).from_string(_PAGE)
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    return page.render(
        entries=entries, check=check, sent=sent, sent_check=sent_check, written=written
    )


_SIGNED = {"signed_name": "name", "signed_meaning": "meaning", "signed_with": "method"}


def _cell(entry: Entry, column: str) -> object:
    value: Any
    if column in _SIGNED:
        value = getattr(entry.decision.signature, _SIGNED[column], "")
    else:
        value = getattr(entry if hasattr(entry, column) else entry.decision, column)
    if column == "slices_seen":
        return " ".join(map(str, value))
    return _plain(value)


def _sent_cell(entry: SendingEntry, column: str) -> object:
    return _plain(getattr(entry if hasattr(entry, column) else entry.sending, column))


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value
