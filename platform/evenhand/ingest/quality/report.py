"""What was found, as one HTML page for the hospital and a datasheet that may leave it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from evenhand import __version__
from evenhand.errors import ResourceError
from evenhand.ingest.quality.assess import StoreQuality
from evenhand.ingest.quality.diversity import SMALLEST, Group, missing, representation

__all__ = ["write_report"]


def write_report(
    stores: Sequence[StoreQuality], reference: Mapping[tuple[str, str], float], out: Path
) -> None:
    """Write `quality.html` (stays: it names cases), `diversity.json` and `datasheet.md` (counts).

    Raises:
        ResourceError: the disk refuses.
    """
    groups = representation(stores, reference)
    inside = _facts(stores, representation(stores, reference, smallest=1))
    outside = _facts(stores, groups)
    try:
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        (out / "quality.html").write_text(_render("quality.html.j2", inside), encoding="utf-8")
        (out / "datasheet.md").write_text(_render("datasheet.md.j2", outside), encoding="utf-8")
        record = {"smallest_group": SMALLEST, "groups": [asdict(group) for group in groups]}
        text = json.dumps(record, indent=1) + "\n"
        (out / "diversity.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResourceError(f"Could not write the report to '{out}': {error.strerror}.") from None


def _render(name: str, facts: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evenhand.ingest.quality"),
        autoescape=name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(**facts)


def _facts(stores: Sequence[StoreQuality], groups: Sequence[Group]) -> dict[str, Any]:
    results = [(store, result) for store in stores for result in store.results]
    checks = Counter(
        (finding.check, finding.severity) for _, result in results for finding in result.findings
    )
    cases = [case for store in stores for case in store.cases]
    return {
        "version": __version__,
        "stores": stores,
        "cases": len(cases),
        "patients": len({(case.patient.hospital, case.patient.patient_id) for case in cases}),
        "masks": sum(case.mask_sha256 is not None for case in cases),
        "with_errors": sum(bool(result.errors) for _, result in results),
        "with_findings": sum(bool(result.findings) for _, result in results),
        "checks": sorted(checks.items(), key=lambda item: (item[0][1], -item[1])),
        "found": [(store, result) for store, result in results if result.findings],
        "groups": groups,
        "missing": missing(stores),
        "smallest": SMALLEST,
        "sequences": sorted({name for case in cases for name in case.sequences}),
        "sources": sorted({case.source.partition(",")[0] for case in cases}),
        "spacings": _spread([case.affine.spacing_mm for case in cases]),
        "referenced": any(group.reference is not None for group in groups),
    }


def _spread(spacings: Sequence[tuple[float, float, float]]) -> str:
    """Smallest and largest spacing along each axis, in mm."""
    if not spacings:
        return "none"
    axes = zip(*spacings, strict=True)
    return ", ".join(f"{min(axis):.3g} to {max(axis):.3g}" for axis in axes) + " mm"
