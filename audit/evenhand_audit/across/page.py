"""The audit across hospitals as a page for people and `pooled.json` for programs."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from evenhand.artifacts import file_sha256, write_atomically
from evenhand_audit.across.pool import Pooled
from evenhand_audit.cards_provenance import code_provenance
from evenhand_audit.records import METRICS, OPTIONAL_METRICS, number
from evenhand_audit.words import attribute_name, p_text

__all__ = ["POOLED_SCHEMA_VERSION", "write_pooled"]

POOLED_SCHEMA_VERSION = 1
"""Raised when the layout of pooled.json changes."""


def write_pooled(pooled: Pooled, files: Sequence[Path], out: Path) -> Path:
    """Write index.html and pooled.json.

    Args:
        pooled: what the hospitals say together.
        files: their sums, for the hashes.
        out: made if need be.

    Raises:
        ResourceError: the folder cannot be written.
    """
    code = code_provenance()
    sources = {path.name: file_sha256(path) for path in files}
    record = {"schema_version": POOLED_SCHEMA_VERSION, "code": code, "sources": sources}
    text = json.dumps(_plain(record | asdict(pooled)), indent=1, allow_nan=False)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evenhand_audit"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(number=number, attribute=attribute_name, p=p_text)
    page = environment.get_template("pooled.html.j2").render(
        pooled=pooled,
        metrics=(*METRICS, *OPTIONAL_METRICS),
        code=code,
        sources=sources,
        unit="mm" if pooled.settings["units"] == "mm" else "voxels",
    )
    write_atomically(out / "pooled.json", f"{text}\n".encode())
    index = out / "index.html"
    write_atomically(index, page.encode())
    return index


def _plain(value: Any) -> Any:
    """Make a record valid JSON: what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
