"""nnU-Net data sets: `imagesTr/NAME_0000.nii.gz`, `labelsTr/NAME.nii.gz`, `dataset.json`."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from evenhand.errors import DataError, UsageError
from evenhand.ingest.labels import chosen_labels
from evenhand.ingest.people import People
from evenhand.ingest.recipes import SourcePlan, sort_out
from evenhand.ingest.volume_case import ImageSource, VolumeCase

__all__ = ["pick_sequences", "plan_nnunet", "read_dataset_json", "safe_name"]

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


def plan_nnunet(
    source: Path,
    people: People,
    *,
    sequences: Sequence[str] = (),
    tumour: Sequence[str] = (),
    apart: Sequence[str] = (),
    masks_required: bool = True,
) -> SourcePlan:
    """Plan the training cases of an nnU-Net data set.

    Args:
        source: its folder, with `dataset.json`.
        people: how cases get names and patients.
        sequences: channels to take, by name, the first one first; none: all.
        tumour: labels that make the mask, by name or number.
        apart: labels that are kept apart instead, by name.
        masks_required: whether a case without labels is refused.

    Raises:
        UsageError: it is not such a data set, or lacks a channel that was asked for.
        DataError: which label is the tumour cannot be told.
    """
    content = read_dataset_json(source / "dataset.json")
    ending = content.get("file_ending", ".nii.gz")
    if ending not in {".nii.gz", ".nii"}:
        raise UsageError(f"The data set's files end in '{ending}'; NIfTI is read, nothing else.")
    channels = _channels(content)
    taken = pick_sequences(list(channels.values()), sequences)
    labels = _labels(content)
    chosen, why, own = chosen_labels(labels, tumour, apart)
    firsts = sorted((source / "imagesTr").glob(f"*_0000{ending}"))
    names = {
        f"case {n}": first.name.removesuffix(f"_0000{ending}") for n, first in enumerate(firsts, 1)
    }

    def make(label: str, name: str) -> VolumeCase:
        mask = source / "labelsTr" / f"{name}{ending}"
        if not mask.is_file() and masks_required:
            raise DataError("it has no labels (labelsTr)")
        case_id, patient = people.case(name, label)
        paths = {
            channel: source / "imagesTr" / f"{name}_{index:04d}{ending}"
            for index, channel in channels.items()
        }
        return VolumeCase(
            kind="nnU-Net",
            label=label,
            case_id=case_id,
            patient=patient,
            images=tuple(ImageSource(channel, paths[channel]) for channel in taken),
            mask=mask if mask.is_file() else None,
            labels=chosen,
            known=tuple(number for number, _ in labels),
            why=why,
            names=people.names,
            apart=own,
        )

    recipes, findings = sort_out(names.items(), make)
    return SourcePlan(
        kind="nnU-Net",
        recipes=recipes,
        findings=findings,
        notes=(
            f"Sequences: {', '.join(taken)}.",
            f"Mask: label(s) {_named(labels, chosen)}, {why}.",
        ),
        names=MappingProxyType(names),
    )


def read_dataset_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        UsageError: it is missing, no JSON, or something else than an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UsageError(f"'{path}' cannot be read as a JSON object; restore it.")
    return content


def safe_name(name: str) -> str:
    """Return a sequence's name with nothing but letters, digits, '-' and '_'."""
    return _UNSAFE.sub("-", name).strip("-_")[:32] or "image"


def pick_sequences(there: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the sequences to take: those wanted, in their order, else all that are there.

    Raises:
        UsageError: one that is wanted is not there, or two have one name.
    """
    if len(set(there)) != len(there):
        raise UsageError(f"Two channels of the data set have one name ({', '.join(there)}).")
    missing = [name for name in wanted if name not in there]
    if missing:
        raise UsageError(
            f"The data set has no sequence {', '.join(missing)}; it has {', '.join(there)}."
        )
    return tuple(wanted) or tuple(there)


def _channels(content: Mapping[str, Any]) -> dict[int, str]:
    raw = content.get("channel_names") or content.get("modality") or {}
    try:
        return {int(index): safe_name(str(name)) for index, name in raw.items()}
    except (AttributeError, ValueError):
        raise UsageError("'dataset.json' must name its channels (channel_names).") from None


def _labels(content: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Labels of version 2 (name: number), of version 1 (number: name); regions are refused."""
    found = []
    for key, value in dict(content.get("labels") or {}).items():
        name, number = (value, key) if str(key).isdigit() else (key, value)
        if isinstance(number, list):
            raise UsageError(
                "'dataset.json' has labels that are regions (lists of numbers); write the plain "
                "labels into it."
            )
        if str(name).lower() == "ignore":
            raise UsageError("'dataset.json' has a label 'ignore'; such masks are incomplete.")
        if int(number) != 0:
            found.append((int(number), str(name)))
    return found


def _named(labels: Sequence[tuple[int, str]], chosen: Sequence[int]) -> str:
    return ", ".join(f"'{name}'" for number, name in labels if number in chosen)
