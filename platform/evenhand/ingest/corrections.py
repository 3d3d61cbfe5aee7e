"""Corrections from a review become reference masks of cases, with where they came from.

    FOLDER/corrections.json        which case, which images, whose decision, its hash in the trail
    FOLDER/masks/CASE_ID.nii.gz    the mask that stands after the review

A correction fits a case only if the images are those that were reviewed, by their
checksums. It takes the place of the case's reference mask; the record says that the
reference comes from a review, and its evidence by whose decision. Such a patient
trains and never tests (`evenhand.cases.splits`): a model that proposed the mask
would be judged by what it proposed itself.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenhand.artifacts import write_atomically
from evenhand.cases.hashing import array_sha256
from evenhand.cases.nifti import read_nifti, write_nifti
from evenhand.cases.records import is_name
from evenhand.cases.splits import REFERENCE, REVIEW
from evenhand.cases.store import CaseStore
from evenhand.errors import DataError, ResourceError
from evenhand.geometry import Affine

__all__ = [
    "Correction",
    "admit_corrections",
    "corrections_before",
    "read_corrections",
    "write_corrections",
]

_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Correction:
    """One mask that stands after a review, and where it came from.

    `images` holds the sha256 of each image by sequence, as in the case's record;
    `reader` is a pseudonym; `entry_sha256` is the decision's hash in the trail.
    """

    case_id: str
    hospital: str
    images: Mapping[str, str]
    mask_sha256: str
    verdict: str
    stage: str
    reader: str
    decided_at_utc: str
    entry_sha256: str
    backbone: str
    adapter_sha256: str


def write_corrections(
    folder: Path, corrections: Sequence[tuple[Correction, NDArray[np.uint8], Affine]]
) -> None:
    """Write corrections with their masks (i, j, k); those that were there before are replaced.

    Raises:
        DataError: the folder has masks that no earlier call has written.
        ResourceError: the folder cannot be written.
    """
    before = corrections_before(folder)
    try:
        masks = folder / "masks"
        masks.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not before:
            _write_list(folder, [])  # from here on the masks are known to be ours
        for correction, mask, affine in corrections:
            draft = masks / f".draft-{correction.case_id}.nii.gz"
            write_nifti(draft, mask, affine)
            draft.replace(masks / f"{correction.case_id}.nii.gz")
        _write_list(folder, [one for one, _, _ in corrections])
        for case_id in {one.case_id for one in before} - {one.case_id for one, _, _ in corrections}:
            (masks / f"{case_id}.nii.gz").unlink(missing_ok=True)
    except OSError as error:
        raise ResourceError(f"'{folder}' cannot be written: {error.strerror}.") from None


def corrections_before(folder: Path) -> list[Correction]:
    """What an earlier call of `write_corrections` left in a folder that may be written.

    Raises:
        DataError: the folder has masks of somebody else, or its list is damaged.
    """
    if (folder / "corrections.json").exists():
        return read_corrections(folder)
    if any((folder / "masks").glob("*")):
        raise DataError(
            f"'{folder}' has a folder masks that is not of corrections; its masks would be "
            "replaced. Choose an empty folder with --out."
        )
    return []


def _write_list(folder: Path, corrections: Sequence[Correction]) -> None:
    content = {"schema": _SCHEMA, "corrections": [asdict(one) for one in corrections]}
    text = json.dumps(content, indent=1, sort_keys=True)
    write_atomically(folder / "corrections.json", text.encode())


def read_corrections(folder: Path) -> list[Correction]:
    """Read what `write_corrections` wrote.

    Raises:
        DataError: there is nothing of the kind, or it is damaged.
    """
    path = folder / "corrections.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        of_this_kind = content["schema"] == _SCHEMA
        found = [Correction(**one) for one in content["corrections"]]
        sound = of_this_kind and all(is_name(one.case_id) for one in found)
    except FileNotFoundError:
        raise DataError(
            f"'{folder}' holds no corrections (no corrections.json); make them with "
            "`evenhand review feedback RUN --out DIR`."
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        found, sound = [], False
    if not sound:
        raise DataError(
            f"'{path}' is damaged; make it again with `evenhand review feedback RUN --out DIR`."
        )
    return found


def admit_corrections(folder: Path, stores: Sequence[CaseStore]) -> list[str]:
    """Put the masks of a folder into the stores that hold their cases.

    A case that has its corrected mask already is left as it is, so this can be done again.

    Args:
        folder: what `write_corrections` wrote.
        stores: of the hospitals; cases of others are passed over.

    Returns:
        Ids of the cases that have a mask from review now.

    Raises:
        DataError: a mask is damaged or was changed, or the case's images are others.
        StoreError: a store is damaged or in use.
    """
    by_hospital = {store.hospital: store for store in stores}
    ready = []
    for correction in read_corrections(folder):
        store = by_hospital.get(correction.hospital)
        if store is not None and correction.case_id in store:
            ready.append((store, correction, _mask_of(folder, correction, store)))
    for store in stores:  # all are checked before the first is changed
        with store.locked():
            for own, correction, mask in ready:
                if own is store:
                    _admit(store, correction, mask)
    return sorted(correction.case_id for _, correction, _ in ready)


def _mask_of(folder: Path, correction: Correction, store: CaseStore) -> NDArray[np.uint8]:
    name = f"{correction.case_id}.nii.gz"
    case = store.case(correction.case_id)
    if case.labels:
        raise DataError(
            f"A case of hospital {store.hospital} has several labels; corrections of one cannot "
            "take the place of its mask."
        )
    if dict(case.sequences) != dict(correction.images):
        raise DataError(
            f"The correction '{name}' was made on other images than those of the case in "
            f"hospital {store.hospital}'s store; review the case again."
        )
    voxels, affine = read_nifti(folder / "masks" / name, name=name)
    mask = voxels.astype(np.uint8)
    if array_sha256(mask) != correction.mask_sha256 or mask.max(initial=0) > 1:
        raise DataError(f"The corrected mask '{name}' was changed after it was written.")
    if mask.shape != case.shape or not affine.is_close(case.affine):
        raise DataError(f"The corrected mask '{name}' does not lie where its case lies.")
    return mask


def _admit(store: CaseStore, correction: Correction, mask: NDArray[np.uint8]) -> None:
    case = store.case(correction.case_id)
    before = store.evidence(case) or {}
    earlier = before.get(REFERENCE, {})
    original = earlier.get("replaces_mask_sha256", case.mask_sha256)
    provenance: dict[str, Any] = {
        "origin": REVIEW,
        "replaces_mask_sha256": original,
        **asdict(correction),
    }
    if earlier == provenance:
        return
    store.add(
        case_id=case.case_id,
        patient=case.patient,
        affine=case.affine,
        images=store.volumes(case).images,
        mask=mask,
        source=case.source,  # so that ingest finds it and leaves it
        acquisition={**case.acquisition, REFERENCE: REVIEW},
        evidence={**before, REFERENCE: provenance},
    )
