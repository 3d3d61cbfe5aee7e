"""The adapter after the last finished round, on disk: what a stopped arm goes on from."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from evenhand.errors import FederationError, ResourceError
from evenhand.experiment.layout import ArmFolder
from evenhand.training.resume import KeptTraining

__all__ = ["finished_rounds", "kept_start", "read_checkpoint", "start_work", "write_checkpoint"]

_START = "warm-start"
"""Folder in which `evenhand.experiment.warm_start` keeps what it makes."""

_WHOLE = 10**9
"""Work of a start that is whole: more than files and steps can come to."""


def write_checkpoint(folder: ArmFolder, number: int, state: Mapping[str, Tensor]) -> None:
    """Write the adapter after round `number`, whole or not at all.

    Raises:
        ResourceError: the disk is full; the checkpoint of the round before stays.
    """
    path = folder.checkpoint_path
    draft = path.with_suffix(".tmp")
    try:
        contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
        save_file(contiguous, draft, metadata={"round": str(number)})
        draft.replace(path)
    except (OSError, SafetensorError) as error:
        raise ResourceError(
            f"Could not write the checkpoint '{path}': {error}. Free some disk space and run again."
        ) from None
    finally:
        draft.unlink(missing_ok=True)


def read_checkpoint(folder: ArmFolder) -> tuple[int, dict[str, Tensor] | None]:
    """Finished rounds and the adapter after them; 0 and None where there is none.

    Raises:
        FederationError: the file is damaged.
    """
    path = folder.checkpoint_path
    if not path.exists():
        return 0, None
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return int(file.metadata()["round"]), state
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        raise FederationError(
            f"The checkpoint '{path}' is damaged. Delete it to start this arm anew."
        ) from None


def finished_rounds(folder: ArmFolder) -> int:
    """Rounds that an arm has behind it. A record alone does not count: a round may have failed."""
    return read_checkpoint(folder)[0]


def kept_start(folder: ArmFolder) -> Path:
    """Where a training on phantoms is kept until its end is written."""
    return folder.path / _START / "training.safetensors"


def start_work(folder: ArmFolder) -> int:
    """How much of a start from phantoms is done: a number that grows with what a restart keeps.

    Hidden files do not count: they are drafts, of which each kill may leave one more.

    Raises:
        DataError: the training that was kept, and is still needed, is damaged.
    """
    if folder.start_path.exists():
        return _WHOLE
    made = folder.path / _START
    files = sum(
        path.is_file() and not any(part.startswith(".") for part in path.relative_to(made).parts)
        for path in made.rglob("*")
    )
    return files + KeptTraining(kept_start(folder)).steps
