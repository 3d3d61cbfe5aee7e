"""A tiny run folder to review: three cases at two hospitals, made in milliseconds."""

from pathlib import Path

import nibabel as nib
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


def asymmetric(shape=(32, 40, 24)):
    """A volume (x, y, z) in RAS in which no two corners are alike, and a tumour in one of them.

    Bright blocks: 200 at right, anterior, superior; 150 at left, anterior, superior; 100 at right,
    posterior, superior; 50 at right, anterior, inferior. The tumour is in the first.
    """
    image = np.full(shape, 10, dtype=np.float32)
    x, y, z = shape
    image[x // 2, y // 2, z // 2] = 0  # darker than all, so that the first window shows the rest
    right, left = slice(x - x // 4, x), slice(0, x // 4)
    front, back = slice(y - y // 4, y), slice(0, y // 4)
    top, bottom = slice(z - z // 4, z), slice(0, z // 4)
    image[right, front, top] = 200
    image[left, front, top] = 150
    image[right, back, top] = 100
    image[right, front, bottom] = 50
    mask = np.zeros(shape, dtype=np.uint8)
    mask[x - 6 : x - 2, y - 8 : y - 3, z - 5 : z - 1] = 1
    return image, mask


def stored_as(volume, codes, *, degrees=0.0, spacing_mm=(1.0, 1.0, 1.5)):
    """A volume in RAS as a file stores it: voxels (i, j, k) and affine, turned about z."""
    ras = nib.Nifti1Image(volume, np.diag([*spacing_mm, 1.0]))
    change = nib.orientations.ornt_transform(
        nib.io_orientation(ras.affine), nib.orientations.axcodes2ornt(codes)
    )
    image = ras.as_reoriented(change)
    angle, turn = np.radians(degrees), np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return np.asarray(image.dataobj), Affine(turn @ image.affine)


def make_run_of(folder: Path, cases, *, patients=None, dates=None):
    """Write a run with one hospital; `cases`: (image, mask, affine) as stored, by case id.

    `patients` names the patient of a case that shares one; `dates` (YYYYMMDD) that of a study.
    A case without a mask is in the store only.
    """
    store = CaseStore.create(folder / "hospitals" / "north" / "store", "north")
    masks = folder / "arms" / "federated" / "masks"
    masks.mkdir(parents=True)
    for case_id, (image, mask, affine) in cases.items():
        store.add(
            case_id=case_id,
            patient=Patient(
                patient_id=(patients or {}).get(case_id, f"p-{case_id}"), hospital="north"
            ),
            affine=affine,
            images={"FLAIR": np.ascontiguousarray(image)},
            mask=None,
            source="made for a test",
            acquisition={"study_date_shifted": dates[case_id]} if case_id in (dates or {}) else {},
        )
        if mask is None:
            continue
        write_nifti(masks / f"{case_id}.nii.gz", np.ascontiguousarray(mask), affine)
    (folder / "config.json").write_text('{"data": {"units": "mm"}}', encoding="utf-8")
    return folder


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
