"""MSD tasks and MONAI datalists: a JSON file that lists images and labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from evenhand.errors import DataError, UsageError
from evenhand.ingest.labels import chosen_labels
from evenhand.ingest.nnunet import pick_sequences, read_dataset_json, safe_name
from evenhand.ingest.people import People
from evenhand.ingest.recipes import SourcePlan, sort_out
from evenhand.ingest.volume_case import ImageSource, VolumeCase

__all__ = ["find_datalist", "plan_datalist"]

_SECTIONS = ("training", "validation", "testing", "test")


def find_datalist(source: Path) -> Path | None:
    """Return the JSON file of a datalist: the source itself, or the only one in its folder."""
    if source.is_file():
        return source if source.suffix == ".json" else None
    found = []
    for path in sorted(source.glob("*.json")):
        try:
            content = read_dataset_json(path)
        except UsageError:
            continue
        if isinstance(content.get("training"), list):
            found.append(path)
    return found[0] if len(found) == 1 else None


def plan_datalist(
    source: Path,
    people: People,
    *,
    sequences: Sequence[str] = (),
    tumour: Sequence[str] = (),
    apart: Sequence[str] = (),
    masks_required: bool = True,
) -> SourcePlan:
    """Plan the cases of an MSD task or a MONAI datalist.

    Paths count from the JSON file's folder. An MSD task names its channels and
    labels; a plain datalist names neither: its images are called "image" (or
    "image-1", "image-2") and its mask must be 0 and 1.

    Args:
        source: the JSON file, or the folder that it lies in.
        people: how cases get names and patients.
        sequences: channels to take, by name; none: all.
        tumour: labels that make the mask, by name or number.
        apart: labels that are kept apart instead, by name.
        masks_required: whether entries without a label are refused.

    Raises:
        UsageError: there is no such file, or not of that form.
        DataError: which label is the tumour cannot be told.
    """
    path = find_datalist(source)
    if path is None:
        raise UsageError(
            f"In '{source}' there must be exactly one JSON file with a list 'training'; give its "
            "path."
        )
    content = read_dataset_json(path)
    kind = "MSD" if content.get("modality") or content.get("channel_names") else "MONAI datalist"
    labels = _labels(content)
    chosen, why, own = chosen_labels(labels, tumour, apart)
    entries = [(f"case {n}", entry) for n, entry in enumerate(_entries(content), start=1)]
    names: dict[str, str] = {}

    def make(label: str, entry: Any) -> VolumeCase:
        images, mask = _files(entry, path.parent, content)
        names[label] = str(images[0].path)
        if mask is None and masks_required:
            raise DataError("it has no label")
        by_name = {image.name: image for image in images}
        taken = pick_sequences([image.name for image in images], sequences)
        case_id, patient = people.case(_stem(images[0].path), label)
        return VolumeCase(
            kind=kind,
            label=label,
            case_id=case_id,
            patient=patient,
            images=tuple(by_name[name] for name in taken),
            mask=mask,
            labels=chosen,
            known=tuple(value for value, _ in labels),
            why=why,
            names=people.names,
            apart=own,
        )

    recipes, findings = sort_out(entries, make)
    said = ", ".join(f"'{name}'" for value, name in labels if value in chosen)
    return SourcePlan(
        kind=kind,
        recipes=recipes,
        findings=findings,
        notes=(f"Mask: label(s) {said}, {why}.",),
        names=MappingProxyType(names),
    )


def _entries(content: Mapping[str, Any]) -> list[Any]:
    return [
        entry
        for section in _SECTIONS
        if isinstance(content.get(section), list)
        for entry in content[section]
    ]


def _labels(content: Mapping[str, Any]) -> list[tuple[int, str]]:
    raw = content.get("labels")
    if not raw:
        return [(1, "tumour")]
    try:
        return [(int(value), str(name)) for value, name in raw.items() if int(value) != 0]
    except (AttributeError, ValueError):
        raise UsageError("'labels' of the JSON file must map numbers to names.") from None


def _files(
    entry: Any, folder: Path, content: Mapping[str, Any]
) -> tuple[list[ImageSource], Path | None]:
    if not isinstance(entry, dict):
        entry = {"image": entry}
    given = entry.get("image")
    listed = given if isinstance(given, list) else [given]
    paths = [_inside(each, folder) for each in listed]
    mask = _inside(entry["label"], folder) if entry.get("label") else None
    channels = content.get("modality") or content.get("channel_names")
    if isinstance(channels, dict) and len(paths) == 1:
        ordered = [safe_name(str(channels[key])) for key in sorted(channels, key=int)]
        return [ImageSource(name, paths[0], n) for n, name in enumerate(ordered)], mask
    if len(paths) == 1:
        return [ImageSource("image", paths[0])], mask
    return [ImageSource(f"image-{n}", path) for n, path in enumerate(paths, start=1)], mask


def _inside(given: Any, folder: Path) -> Path:
    if not isinstance(given, str):
        raise DataError("its entry names no image file.")
    path = (folder / given).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DataError("its entry names a file outside of the data set's folder; move it there.")
    if not path.is_file():
        raise DataError("its entry names a file that is not there.")
    return folder / given


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")
