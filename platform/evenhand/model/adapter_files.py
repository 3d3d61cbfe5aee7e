"""Adapters on disk: safetensors, with metadata that says what they fit and how they came to be.

An adapter is tied to the checkpoint it was trained on by that file's hash; putting it
onto another backbone is refused.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from evenhand.config import ModelConfig
from evenhand.errors import AdapterError, ResourceError
from evenhand.model.adapted import AdaptedModel

__all__ = ["AdapterFile", "load_onto", "read_adapter", "save_adapter", "state_sha256"]

FORMAT = "evenhand-adapter-3"
"""Raised when the metadata or the tensors change their meaning."""

TEMPERATURE = "temperature"
"""In the record of the training: what was fitted to held-out patients; goes before the config's."""

_READABLE = (FORMAT, "evenhand-adapter-2")
"""Files of format 2 do not say what they look at: it was one sequence, and no hints."""

_FREE = {"device", "precision", "smallest_component", "temperature", "training_precision"}
"""Keys of [model] that an adapter is not bound to: how masks are made of it, not what it is."""


@dataclass(frozen=True)
class AdapterFile:
    """What an adapter file holds.

    Attributes:
        backbone: name of the backbone it was trained on.
        backbone_sha256: of that backbone's checkpoint.
        model: the [model] section it was trained with.
        sequences: what it looks at, in order; empty where an old file does not say.
        labels: what it finds, in order; empty: one label, the tumour.
        config_fingerprint: of the whole experiment.
        training: free record of the training: arm, rounds, patients, epsilon, ...
        state: the tensors by name.
    """

    backbone: str
    backbone_sha256: str
    model: ModelConfig
    sequences: tuple[str, ...]
    labels: tuple[str, ...]
    config_fingerprint: str
    training: Mapping[str, Any]
    state: Mapping[str, Tensor]


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash of names, shapes and values of an adapter's tensors."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _checksum(metadata: Mapping[str, str], state: Mapping[str, Tensor]) -> str:
    """Hash of tensors and metadata: an epsilon must not be changed in silence either."""
    record = json.dumps(dict(metadata), sort_keys=True) + state_sha256(state)
    return hashlib.sha256(record.encode()).hexdigest()


def save_adapter(
    path: Path,
    model: AdaptedModel,
    *,
    config_fingerprint: str,
    training: Mapping[str, Any],
) -> None:
    """Write the adapter of `model`, whole or not at all.

    Raises:
        ResourceError: the disk is full.
    """
    state = model.adapter_state()
    metadata = {
        "format": FORMAT,
        "backbone": model.backbone.name,
        "backbone_sha256": model.backbone.weights_sha256,
        "model": model.config.model_dump_json(),
        "sequences": json.dumps(model.sequences),
        "config_fingerprint": config_fingerprint,
        "training": json.dumps(dict(training), sort_keys=True),
    }
    if model.labels:
        metadata["labels"] = json.dumps(model.labels)
    metadata["sha256"] = _checksum(metadata, state)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, draft, metadata=metadata)
        draft.replace(path)
    except (OSError, SafetensorError) as error:
        raise ResourceError(
            f"Could not write the adapter '{path}': {error}. Free some disk space and run again."
        ) from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def read_adapter(path: Path) -> AdapterFile:
    """Read an adapter file and check that it holds what was saved, record included.

    Raises:
        AdapterError: the file is missing, damaged, or not an adapter.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise AdapterError(f"There is no adapter file '{path}'.") from None
    except (OSError, SafetensorError):
        raise AdapterError(f"'{path}' is not a readable adapter file; it may be cut off.") from None
    if metadata.get("format") not in _READABLE:
        raise AdapterError(
            f"'{path}' is not an adapter of this version (wanted format {FORMAT}, got "
            f"{metadata.get('format', 'none')})."
        )
    if metadata.pop("sha256", None) != _checksum(metadata, state):
        raise AdapterError(f"'{path}' was changed after it was saved: its checksum differs.")
    try:
        model = ModelConfig.model_validate_json(metadata["model"])
    except ValidationError:
        raise AdapterError(
            f"'{path}' has a [model] section that this version cannot read."
        ) from None
    return AdapterFile(
        backbone=metadata["backbone"],
        backbone_sha256=metadata["backbone_sha256"],
        model=model,
        sequences=tuple(json.loads(metadata.get("sequences", "[]"))),
        labels=tuple(json.loads(metadata.get("labels", "[]"))),
        config_fingerprint=metadata["config_fingerprint"],
        training=json.loads(metadata["training"]),
        state=state,
    )


def load_onto(path: Path, model: AdaptedModel) -> AdapterFile:
    """Put a saved adapter onto a model, with the temperature that was fitted for it if one was.

    Raises:
        AdapterError: it was trained on other weights or at other sizes, or has other tensors.
    """
    adapter = read_adapter(path)
    if adapter.backbone_sha256 != model.backbone.weights_sha256:
        raise AdapterError(
            f"'{path}' was trained on {adapter.backbone} (weights "
            f"{adapter.backbone_sha256[:12]}); this model is {model.backbone.name} (weights "
            f"{model.backbone.weights_sha256[:12]}). Set model.backbone to '{adapter.backbone}'."
        )
    theirs, ours = adapter.model.model_dump(), model.config.model_dump()
    for key in theirs.keys() - _FREE:
        if theirs[key] != ours[key]:
            raise AdapterError(
                f"'{path}' was trained with model.{key} {theirs[key]}; here it is {ours[key]}. "
                "Use the [model] section that it was trained with."
            )
    if adapter.sequences and adapter.sequences != model.sequences:
        raise AdapterError(
            f"'{path}' looks at {', '.join(adapter.sequences)}; this model at "
            f"{', '.join(model.sequences)}. Set data.sequences to what it was trained with."
        )
    if adapter.labels != model.labels:
        raise AdapterError(
            f"'{path}' finds {', '.join(adapter.labels) or 'one label'}; this model "
            f"{', '.join(model.labels) or 'one'}. Set data.labels to what it was trained with."
        )
    model.load_adapter(adapter.state)
    if TEMPERATURE in adapter.training:
        model.temperature = float(adapter.training[TEMPERATURE])
    return adapter
