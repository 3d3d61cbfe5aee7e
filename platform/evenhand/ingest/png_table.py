"""Plain pictures (PNG) with a CSV: each becomes a volume of one slice.

A row names its picture by the file's name without ending, in the column that
fits the files there are. Its mask is named alike but for what all names of its
kind begin with (`bus_01.png` and `mask_01.png`), or for a word that says that it
is one (`01.png` and `01_mask.png`).
"""

import json
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evenhand.artifacts import OPTIONAL_COLUMNS, PREDICTION_COLUMNS
from evenhand.cases.records import Patient
from evenhand.errors import DataError, UsageError
from evenhand.geometry import Affine
from evenhand.ingest.deid import Pseudonymiser
from evenhand.ingest.participants import text_of
from evenhand.ingest.people import People, person, read_rows
from evenhand.ingest.recipes import Content, SourcePlan, sort_out
from evenhand.ingest.volume_case import hash_files, patient_row

__all__ = ["PictureCase", "plan_png_table", "read_picture"]

_VERSION = 1
_MASK_WORDS = ("mask", "label", "seg", "annot")
_PATIENT_COLUMNS = ("patient_id", "patient", "subject", "participant_id", "case")
_ATTRIBUTES = ("sex", "age", "race", "ethnicity")
_LARGEST_PIXELS = 2**26


@dataclass(frozen=True, kw_only=True)
class PictureCase:
    """The recipe of one picture; `pixel_mm` None: its scale is not known, 1 is written."""

    label: str
    case_id: str
    patient: Patient
    picture: Path
    mask: Path | None
    pixel_mm: float | None
    names: Pseudonymiser | None

    @property
    def has_mask(self) -> bool:
        """Whether there is a mask file."""
        return self.mask is not None

    def fingerprint(self) -> str:
        """Hash what the case is made from; keyed where there is a key.

        Raises:
            DataError: a file is missing.
        """
        start = json.dumps([patient_row(self.patient), self.pixel_mm], sort_keys=True)
        files = [self.picture] + ([self.mask] if self.mask else [])
        digest = hash_files(start, files, self.label)
        token = self.names.token("source", digest) if self.names else f"sha256:{digest}"
        return f"PNG, version {_VERSION}, {token}"

    def read(self) -> Content:
        """Read the picture and its mask: (columns, rows, 1), as a DICOM slice would lie."""
        image = read_picture(self.picture, f"the picture of {self.label}")
        mask = None
        if self.mask is not None:
            what = f"the mask of {self.label}"
            mask = _binary(read_picture(self.mask, what), what)
            if mask.shape != image.shape:
                raise DataError(
                    f"{what} has {mask.shape[0]} x {mask.shape[1]} pixels, its picture "
                    f"{image.shape[0]} x {image.shape[1]}; both must be of one size."
                )
        size = self.pixel_mm or 1.0
        return Content(
            affine=Affine(np.diag([-size, -size, size, 1.0])),
            images={"image": image},
            mask=mask,
            acquisition={
                "scale": "given by the user" if self.pixel_mm else "unknown: 1 is written"
            },
            evidence={
                "source": "PNG",
                "key": self.names.key_fingerprint if self.names else None,
                "header": "not stored: only pixels, and the patient's row",
                "pixels": "not searched for text",
            },
        )


def plan_png_table(
    source: Path,
    people: People,
    *,
    patient_column: str | None = None,
    attributes: Sequence[str] = (),
    only: Mapping[str, str] | None = None,
    pixel_mm: float | None = None,
    masks_required: bool = True,
) -> SourcePlan:
    """Plan the pictures that a CSV lists.

    Args:
        source: a folder with one CSV (or TSV) and PNG files in it or below.
        people: how cases get names and patients.
        patient_column: says whose a picture is; None: the first of a few usual
            names that is there.
        attributes: columns that are kept as attributes of the patient, beside sex, age, race
            and ethnicity.
        only: rows are taken that hold these values, by column.
        pixel_mm: size of a pixel.
        masks_required: whether a picture without a mask is refused.

    Raises:
        UsageError: no table, no column for pictures or patients or of a name that was given, no
            row that is asked for, or no pictures.
    """
    tables = sorted([*source.glob("*.csv"), *source.glob("*.tsv")])
    if len(tables) != 1:
        raise UsageError(f"'{source}' must hold one CSV file; it holds {len(tables)}.")
    rows = _chosen(read_rows(tables[0]), attributes, only or {})
    pictures, masks = _pictures(source)
    column = _picture_column(rows, pictures)
    owner = _patient_column(rows, patient_column)
    names = {f"row {n}": row[column].removesuffix(".png") for n, row in enumerate(rows, start=1)}

    def make(label: str, row: dict[str, str]) -> PictureCase:
        stem = names[label]
        if stem not in pictures:
            raise DataError("its picture is not there")
        if stem not in masks and masks_required:
            raise DataError("it has no mask")
        known = {k.lower(): v for k, v in row.items() if k.lower() in _ATTRIBUTES}
        case_id, patient = person(people, case=stem, patient=row[owner], row=known, label=label)
        patient = replace(patient, extra=_further(row, attributes))
        return PictureCase(
            label=label,
            case_id=case_id,
            patient=patient,
            picture=pictures[stem],
            mask=masks.get(stem),
            pixel_mm=pixel_mm,
            names=people.names,
        )

    recipes, findings = sort_out(zip(names, rows, strict=True), make)
    notes = [f"Column '{column}' names the picture, column '{owner}' the patient."]
    unlisted = len(set(pictures) - set(names.values()))
    if unlisted:
        notes.append(f"{unlisted} picture(s) are in no row that is taken, and were passed over.")
    if pixel_mm is None:
        notes.append("The size of a pixel is not known; distances will be in pixels (--pixel-mm).")
    return SourcePlan(
        kind="PNG with a table",
        recipes=recipes,
        findings=findings,
        notes=tuple(notes),
        names=MappingProxyType(names),
    )


def _chosen(
    rows: list[dict[str, str]], attributes: Sequence[str], only: Mapping[str, str]
) -> list[dict[str, str]]:
    """Rows that hold what is asked for; every column that is named must be there."""
    for column in (*attributes, *only):
        if column not in rows[0]:
            raise UsageError(f"The table has no column '{column}'; it has {', '.join(rows[0])}.")
    taken = sorted({*map(str.lower, attributes)} & {*PREDICTION_COLUMNS, *OPTIONAL_COLUMNS})
    if taken:
        raise UsageError(
            f"--attribute {taken[0]}: a column of this name is Evenhand's own in its tables. Give "
            "the column another name; sex, age and race are read without being asked for."
        )
    found = [row for row in rows if all(row[key] == value for key, value in only.items())]
    if not found:
        raise UsageError("No row of the table holds what --only asks for; look for blanks in it.")
    return found


def _further(row: Mapping[str, str], attributes: Sequence[str]) -> MappingProxyType[str, str]:
    """Attributes by the column's name in small letters."""
    return MappingProxyType({name.lower(): text_of(row[name]) for name in attributes})


def _pictures(source: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return pictures by stem, and masks by the stem of the picture that each belongs to."""
    found = sorted(path for path in source.rglob("*.png") if path.is_file())
    is_mask = [
        any(word in part.lower() for part in path.relative_to(source).parts for word in _MASK_WORDS)
        for path in found
    ]
    pictures = [path for path, mask in zip(found, is_mask, strict=True) if not mask]
    masks = [path for path, mask in zip(found, is_mask, strict=True) if mask]
    if not pictures:
        raise UsageError(f"There are no PNG pictures in '{source}'.")
    if len({path.stem for path in pictures}) != len(pictures):
        raise UsageError("Two pictures have one name, in different folders; rename one of them.")
    heads = [_head([path.stem for path in each]) for each in (pictures, masks)]
    by_rest: defaultdict[str, list[Path]] = defaultdict(list)
    for path in masks:
        by_rest[_rest(path.stem, heads[1])].append(path)
    paired = {}
    for path in pictures:
        fitting = by_rest[_rest(path.stem, heads[0])]
        named = [mask for mask in fitting if mask.stem == path.stem] or fitting
        if len(named) == 1:  # of two that could be meant, none is
            paired[path.stem] = named[0]
    return {path.stem: path for path in pictures}, paired


def _head(stems: list[str]) -> str:
    """What all names begin with before the first digit, up to the last '-' or '_' in it."""
    first, last = min(stems, default=""), max(stems, default="")
    same = (one == other and not one.isdigit() for one, other in zip(first, last, strict=False))
    shared = first[: sum(takewhile(bool, same))]
    return shared[: max(shared.rfind("_"), shared.rfind("-")) + 1]


def _rest(stem: str, head: str) -> str:
    """What tells a name apart from others of its folder, without words such as 'mask'."""
    words = re.split(r"[-_. ]+", stem.removeprefix(head).lower())
    return "-".join(w for w in words if w and not any(mask in w for mask in _MASK_WORDS))


def _picture_column(rows: Sequence[dict[str, str]], pictures: dict[str, Path]) -> str:
    fits = {
        column: sum(row[column].removesuffix(".png") in pictures for row in rows)
        for column in rows[0]
    }
    best = max(fits, key=lambda column: fits[column])
    if not fits[best]:
        raise UsageError("No column of the table names the pictures (by file name).")
    return best


def _patient_column(rows: Sequence[dict[str, str]], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in rows[0]:
            raise UsageError(f"The table has no column '{wanted}'; it has {', '.join(rows[0])}.")
        return wanted
    by_name = {column.lower(): column for column in rows[0]}
    for usual in _PATIENT_COLUMNS:
        if usual in by_name:
            return by_name[usual]
    raise UsageError(
        "Which column says whose a picture is? Name it with --patient-column; it has "
        f"{', '.join(rows[0])}."
    )


def read_picture(path: Path, what: str) -> NDArray[np.float32]:
    """Read a PNG of grey values as float32 (columns, rows, 1); errors call it `what`.

    Raises:
        DataError: it is no PNG, in colour, or larger than any picture of a patient.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=["PNG"]) as picture:
                if picture.width * picture.height > _LARGEST_PIXELS:
                    raise DataError(f"{what} is larger than any picture of a patient.")
                bands = np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, EOFError):
        raise DataError(f"{what} is missing, damaged or not PNG.") from None
    if bands.ndim == 3:
        colours = bands[..., :3] if bands.shape[2] >= 3 else bands[..., :1]
        if (colours != colours[..., :1]).any():
            raise DataError(f"{what} is in colour; one grey value a pixel is wanted.")
        bands = colours[..., 0]
    return np.ascontiguousarray(bands.T[:, :, None], np.float32)


def _binary(values: NDArray[np.float32], what: str) -> NDArray[np.uint8]:
    levels = np.unique(values)
    if len(levels) > 2 or (len(levels) == 2 and levels[0] != 0):
        raise DataError(f"{what} has {len(levels)} grey values; 0 outside and one inside wanted.")
    return (values > 0).astype(np.uint8)
