"""Synthetic hospitals: a BIDS tree of made-up brains with a bias planted on purpose.

The layout is that of a BIDS data set with manual masks as derivatives:

    participants.tsv, dataset_description.json
    sub-X/anat/sub-X_FLAIR.nii.gz
    derivatives/manual_masks/sub-X/anat/sub-X_label-tumour_mask.nii.gz
    phantom_truth.json               what was planted, and what of it is in the voxels

Equal config and seed give equal files. Tumour sizes are drawn per pair of
patients of both sexes, so that size is not a second, hidden bias.
"""

import csv
import io
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from evenhand.cases.nifti import write_nifti
from evenhand.config import PhantomConfig
from evenhand.errors import ConfigError, ResourceError, UsageError
from evenhand.geometry import Affine
from evenhand.ingest.phantom_anatomy import (
    TUMOUR_CONTRAST,
    Scanner,
    grid_of,
    make_brain,
    picture,
    scanners,
)
from evenhand.ingest.phantom_heads import ROOM, share_of_head, with_head

__all__ = ["FIELD_OF_VIEW_MM", "TRUTH_FILE", "contrast_to_noise", "make_phantoms"]

FIELD_OF_VIEW_MM = (220.0, 220.0, 120.0)
"""Size of the imaged box along i, j, k; the spacing follows from the shape."""

TRUTH_FILE = "phantom_truth.json"
"""What was planted; lies at the top of the tree."""

SMALLEST_SHAPE = (24, 24, 4)
"""Below this a brain has no room for its parts."""

_COLUMNS = ("participant_id", "site", "sex", "age", "race", "ethnicity")
_MISSING = {"sex": 0.04, "age": 0.05, "race": 0.08, "ethnicity": 0.15}


@dataclass
class _Person:
    """One row of the table; `share` is tumour voxels by brain voxels."""

    participant_id: str
    site: str
    sex: str
    age: str
    race: str
    ethnicity: str
    share: float


def make_phantoms(
    config: PhantomConfig,
    into: Path,
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a BIDS tree of phantoms; one that is already there, made alike, is kept.

    Args:
        config: hospitals, sizes, scanner shift and the bias to plant.
        into: the folder to make; it appears whole or not at all.
        seed: equal seeds give equal files.
        progress: called with (patients done, patients in all).

    Returns:
        `into`.

    Raises:
        ConfigError: the config asks for something that phantoms cannot have.
        UsageError: `into` holds something else.
        ResourceError: the disk is full or not writable.
    """
    _check(config)
    planned = {"config": config.model_dump(mode="json"), "seed": seed}
    if into.exists() and any(into.iterdir()):
        _check_same(into, planned)
        return into
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=into.parent))
        try:
            _write_tree(config, draft, planned, progress or (lambda _done, _total: None))
            draft.replace(into)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise ResourceError(
            f"Could not write phantoms into '{into}': {error.strerror}. "
            "Free some disk space or choose another folder; nothing was left there."
        ) from None
    return into


def contrast_to_noise(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Return how far a tumour stands out: (tumour - ring) / deviation in the ring.

    The ring is the tissue within 4 voxels around the tumour in the same slices,
    its first voxel left out; background (0) and the darkest tenth (fluid) are
    not tissue.

    Args:
        image: brightness (i, j, k); background is 0.
        mask: the tumour, of the same shape, not empty.
    """
    cross = ndimage.generate_binary_structure(3, 1)
    cross[:, :, [0, 2]] = False  # stay within the slice
    edge = ndimage.binary_dilation(mask, cross, iterations=1)
    ring = ndimage.binary_dilation(edge, cross, iterations=3) & ~edge & (image > 0)
    tissue = image[ring]
    tissue = tissue[tissue > np.quantile(tissue, 0.1)]
    return float((image[mask].mean() - tissue.mean()) / tissue.std())


def _check(config: PhantomConfig) -> None:
    if not config.patients:
        raise ConfigError("data.phantom.patients names no hospital; give at least one.")
    if any(got < least for got, least in zip(config.shape, SMALLEST_SHAPE, strict=True)):
        raise ConfigError(
            f"data.phantom.shape must be at least {list(SMALLEST_SHAPE)}; got {list(config.shape)}."
        )
    if config.bias_attribute == "sex" and config.bias_value not in {"F", "M"}:
        raise ConfigError(
            "data.phantom.bias_value must be F or M when bias_attribute is sex; "
            f"got '{config.bias_value}'."
        )
    stems = [_stem(name) for name in config.patients]
    if not all(stems) or len(set(stems)) < len(stems):
        raise ConfigError(
            "data.phantom.patients: hospital names must differ in their letters and digits, "
            "because patients are named after them; rename one."
        )


def _check_same(into: Path, planned: dict[str, Any]) -> None:
    try:
        truth = json.loads((into / TRUTH_FILE).read_text(encoding="utf-8"))
        # By way of the config, so that what was written before a key came has its default.
        config = PhantomConfig.model_validate(truth["config"]).model_dump(mode="json")
        made = {"config": config, "seed": truth["seed"]}
    except (OSError, ValueError, KeyError, TypeError):
        made = None
    if made != planned:
        what = "other phantoms" if made else "files that are not phantoms"
        raise UsageError(f"'{into}' already holds {what}; choose an empty or new folder.")


def _stem(hospital: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", hospital)


def _write_tree(
    config: PhantomConfig,
    into: Path,
    planned: dict[str, Any],
    progress: Callable[[int, int], None],
) -> None:
    seed = int(planned["seed"])
    people = _people(config, np.random.default_rng([seed, 1]))
    made = scanners(len(config.patients), config.scanner_shift, np.random.default_rng([seed, 2]))
    by_site = dict(zip(sorted(config.patients), made, strict=True))
    measured: dict[str, list[float]] = {}
    for done, person in enumerate(people):
        progress(done, len(people))
        group = getattr(person, config.bias_attribute, "everybody")
        ratio = _write_patient(config, into, person, by_site[person.site], seed)
        measured.setdefault("unknown" if group == "n/a" else group, []).append(ratio)
    progress(len(people), len(people))
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([getattr(person, column) for column in _COLUMNS] for person in people)
    (into / "participants.tsv").write_text(table.getvalue(), encoding="utf-8")
    description = {
        "Name": "Evenhand phantoms: synthetic brains, no patients",
        "BIDSVersion": "1.9.0",
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": "evenhand phantom"}],
    }
    _write_json(into / "dataset_description.json", description)
    _write_json(into / TRUTH_FILE, _truth(config, planned, measured))


def _truth(
    config: PhantomConfig, planned: dict[str, Any], measured: dict[str, list[float]]
) -> dict[str, Any]:
    planted = config.bias_attribute != "none"
    return {
        "attribute": config.bias_attribute if planted else None,
        "value": config.bias_value if planted else None,
        "contrast_ratio": config.bias_contrast if planted else 1.0,
        "groups": {
            group: {"n": len(values), "mean_contrast_to_noise": round(float(np.mean(values)), 3)}
            for group, values in sorted(measured.items())
        },
        **planned,
    }


def _people(config: PhantomConfig, rng: np.random.Generator) -> list[_Person]:
    people = []
    for hospital in sorted(config.patients):
        count = config.patients[hospital]
        digits = max(3, len(str(count)))
        sizes = np.repeat(np.exp(rng.uniform(np.log(0.012), np.log(0.05), (count + 1) // 2)), 2)
        first = int(rng.integers(2))
        people += [
            _Person(
                participant_id=f"sub-{_stem(hospital)}{number + 1:0{digits}d}",
                site=hospital,
                sex="FM"[(number + first) % 2],
                age=str(int(np.clip(rng.normal(48, 13), 19, 84))),
                race=str(rng.choice(["White", "Black", "Asian"], p=[0.7, 0.18, 0.12])),
                ethnicity=str(rng.choice(["Not Hispanic", "Hispanic"], p=[0.85, 0.15])),
                share=float(sizes[number]),
            )
            for number in range(count)
        ]
    for attribute, part in _MISSING.items():
        few = round(part * len(people)) or int(len(people) >= 8)
        for index in rng.permutation(len(people))[:few]:
            setattr(people[int(index)], attribute, "n/a")
    return people


def _write_patient(
    config: PhantomConfig, into: Path, person: _Person, scanner: Scanner, seed: int
) -> float:
    """Write image and mask; return the contrast-to-noise ratio that is in the file."""
    name = person.participant_id
    rng = np.random.default_rng([seed, 3, zlib.crc32(name.encode())])
    if config.heads:
        brain = make_brain(config.shape, share_of_head(person.share, rng), rng, room=ROOM)
        brain = with_head(brain, grid_of(config.shape, ROOM), rng)
    else:
        brain = make_brain(config.shape, person.share, rng)
    biased = getattr(person, config.bias_attribute, None) == config.bias_value
    contrast = TUMOUR_CONTRAST * (config.bias_contrast if biased else 1.0)
    brightness = picture(brain, contrast, scanner, rng)
    if scanner.sixteen_bit:
        stored: NDArray[Any] = np.clip(np.rint(brightness * 800), 0, 32767).astype(np.int16)
    else:
        stored = np.clip(np.rint(brightness * 160), 0, 255).astype(np.uint8)
    affine = _affine(config.shape)
    anat = into / name / "anat"
    masks = into / "derivatives" / "manual_masks" / name / "anat"
    anat.mkdir(parents=True)
    masks.mkdir(parents=True)
    write_nifti(anat / f"{name}_FLAIR.nii.gz", stored, affine)
    write_nifti(masks / f"{name}_label-tumour_mask.nii.gz", brain.mask.astype(np.uint8), affine)
    return contrast_to_noise(stored.astype(np.float32), brain.mask)


def _affine(shape: tuple[int, int, int]) -> Affine:
    """Return a scanner's frame: i to the patient's left, j to the back, k up; centre at 0."""
    spacing = np.array(FIELD_OF_VIEW_MM) / shape
    matrix = np.diag([*(np.array([-1, -1, 1]) * spacing), 1.0])
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Affine(matrix)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
