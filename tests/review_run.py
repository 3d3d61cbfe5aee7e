"""A tiny run folder to review: three cases at two hospitals, made in milliseconds."""

from pathlib import Path

import numpy as np

from evenhand.cases.nifti import write_nifti
from evenhand.cases.records import Patient
from evenhand.cases.store import CaseStore
from evenhand.geometry import Affine

SHAPE = (24, 20, 6)
TUMOUR_SLICES = (2, 3, 4)
"""k of the slices with proposed tumour; the largest area is on 3."""

# Stored left to right reversed and shifted, as scanners do; 2 x 2 x 5 mm.
AFFINE = Affine(
    np.array([[-2.0, 0, 0, 20], [0, 2.0, 0, -18], [0, 0, 5.0, 7], [0, 0, 0, 1]], dtype=np.float64)
)

CASES = {"north": ("n001", "n002"), "south": ("s001",)}


def proposed_mask():
    """A block on three slices, widest on the middle one."""
    mask = np.zeros(SHAPE, dtype=np.uint8)
    for k, half in zip(TUMOUR_SLICES, (2, 4, 3), strict=True):
        mask[8 - half : 8 + half, 6:12, k] = 1
    return mask


def make_review_run(folder: Path, *, arms=("federated",), empty=()):
    """Write a run folder that `evenhand review` opens; `empty`: cases with an empty proposal."""
    rng = np.random.default_rng(3)
    for hospital, case_ids in CASES.items():
        store = CaseStore.create(folder / "hospitals" / hospital / "store", hospital)
        for case_id in case_ids:
            image = rng.normal(100, 10, SHAPE).astype(np.float32)
            store.add(
                case_id=case_id,
                patient=Patient(patient_id=f"p-{case_id}", hospital=hospital),
                affine=AFFINE,
                images={"FLAIR": image},
                mask=None,
                source="made for a test",
            )
            mask = np.zeros_like(proposed_mask()) if case_id in empty else proposed_mask()
            for arm in arms:
                path = folder / "arms" / arm / "masks" / f"{case_id}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_nifti(path, mask, AFFINE)
    (folder / "config.json").write_text('{"data": {"units": "mm"}}', encoding="utf-8")
    return folder
