"""All checks over whole stores: each case by itself, then against the others."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenhand.cases.quarantine import quarantine, quarantined
from evenhand.cases.records import Case
from evenhand.cases.store import CaseStore
from evenhand.errors import StoreError
from evenhand.ingest.deid import HospitalKey
from evenhand.ingest.quality.checks import Finding, check_case
from evenhand.ingest.quality.coarse import body_of, coarse_volume, fingerprint_bits
from evenhand.ingest.quality.flips import find_flips
from evenhand.ingest.quality.prints import BANDS, band_digests, near_duplicates
from evenhand.ingest.text_guard import TEXT
from evenhand.ingest.workers import cores, run_isolated

__all__ = ["CaseQuality", "StoreQuality", "assess", "set_aside"]

_DAMAGED = "damaged"


@dataclass(frozen=True)
class CaseQuality:
    """What was found of one case; `bits` is its fingerprint, None where it could not be read."""

    case_id: str
    findings: tuple[Finding, ...]
    bits: NDArray[np.bool_] | None = None

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are reasons for quarantine."""
        return tuple(finding for finding in self.findings if finding.severity == "error")


@dataclass(frozen=True)
class StoreQuality:
    """What was found in one store. `aside`: cases in quarantine, with reasons."""

    path: Path
    hospital: str
    cases: tuple[Case, ...]
    results: tuple[CaseQuality, ...]
    aside: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class _Look:
    findings: tuple[Finding, ...]
    sequence: str
    coarse: NDArray[np.float32]
    bits: NDArray[np.bool_]


def assess(
    paths: Sequence[Path],
    *,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[StoreQuality]:
    """Check all cases of some stores; nothing is changed.

    Args:
        paths: of the stores.
        jobs: processes; None: one a core.
        progress: called with (cases done, cases in all).

    Raises:
        StoreError: a path is no store, or a record in it is damaged.
    """
    stores = [CaseStore(path) for path in paths]
    cases = {(n, case.case_id): case for n, store in enumerate(stores) for case in store}
    looks, damaged = _looks(stores, list(cases), jobs, progress or (lambda _done, _total: None))
    found: defaultdict[tuple[int, str], list[Finding]] = defaultdict(list)
    for place, why in damaged.items():
        found[place].append(Finding(_DAMAGED, "error", why))
    for place, look in looks.items():
        found[place] += look.findings
    _against_others(looks, cases, found)
    results = []
    for n, store in enumerate(stores):
        own = [case for (number, _), case in cases.items() if number == n]
        judged = tuple(
            CaseQuality(
                case.case_id,
                tuple(found[n, case.case_id]),
                looks[n, case.case_id].bits if (n, case.case_id) in looks else None,
            )
            for case in own
        )
        aside = quarantined(store.path)
        results.append(StoreQuality(store.path, store.hospital, tuple(own), judged, aside))
    return results


def set_aside(quality: StoreQuality) -> int:
    """Put every case with an error into quarantine; return how many.

    Raises:
        ResourceError: the disk refuses.
    """
    store = CaseStore(quality.path)
    bad = [result for result in quality.results if result.errors]
    with store.locked():
        for result in bad:
            reasons = [f"{finding.check}: {finding.why}" for finding in result.errors]
            quarantine(store, result.case_id, reasons)
    return len(bad)


def _looks(
    stores: Sequence[CaseStore],
    places: list[tuple[int, str]],
    jobs: int | None,
    step: Callable[[int, int], None],
) -> tuple[dict[tuple[int, str], _Look], dict[tuple[int, str], str]]:
    """Look at each case in worker processes; return looks, and why there is none."""
    tasks = [(stores[n].path, case_id) for n, case_id in places]
    looks: dict[tuple[int, str], _Look] = {}
    damaged: dict[tuple[int, str], str] = {}
    step(0, len(tasks))
    for done, answer in enumerate(run_isolated(_look, tasks, jobs=jobs or cores()), start=1):
        place = places[answer.index]
        if answer.value is not None:
            looks[place] = answer.value
        else:
            damaged[place] = str(answer.error) if answer.error else str(answer.fate)
        step(done, len(tasks))
    return {place: looks[place] for place in places if place in looks}, damaged


def _look(task: tuple[Path, str]) -> _Look:
    store = CaseStore(task[0])
    case = store.case(task[1])
    volumes = store.volumes(case)
    sequence, image = next(iter(volumes.images.items()), ("", None))
    if image is None:
        raise StoreError("The case has no image.")
    body = body_of(image)
    coarse = coarse_volume(image, body, case.affine)
    findings = (*check_case(case, volumes, body), *_text(store.evidence(case) or {}))
    return _Look(findings, sequence, coarse, fingerprint_bits(coarse))


def _text(evidence: Mapping[str, Any]) -> Iterator[Finding]:
    """Regions that the OCR library took for text and could not read: for a person to look at."""
    for sequence, boxes in evidence.get(TEXT, {}).get("perhaps", {}).items():
        places = ", ".join("({}, {}) to ({}, {})".format(*box) for box in boxes)
        yield Finding("text", "warning", f"{sequence} may show text at {places}; look at it")


def _against_others(
    looks: dict[tuple[int, str], _Look],
    cases: dict[tuple[int, str], Case],
    found: defaultdict[tuple[int, str], list[Finding]],
) -> None:
    names = {f"{n}/{case_id}": (n, case_id) for n, case_id in looks}
    by_sequence: defaultdict[str, dict[str, NDArray[np.float32]]] = defaultdict(dict)
    for name, place in names.items():
        by_sequence[looks[place].sequence][name] = looks[place].coarse
    for coarse in by_sequence.values():
        for name, flips in find_flips(coarse).items():
            found[names[name]] += flips
    passing = HospitalKey.generate()  # digests that stay here need no key that outlives this call
    bands = {name: band_digests(looks[place].bits, passing) for name, place in names.items()}
    patients = {name: f"{n}/{cases[n, c].patient.patient_id}" for name, (n, c) in names.items()}
    for one, other, shared in near_duplicates(bands, patients):
        for name, twin in ((one, other), (other, one)):
            why = f"nearly the same picture as case {names[twin][1]} of another patient"
            finding = Finding("near-duplicate", "warning", f"{why} ({shared} of {BANDS} bands)")
            found[names[name]].append(finding)
