"""Where a source of `evenhand ingest` lies: on the disk, or in an archive it is pulled from."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from evenhand.errors import ResourceError, UsageError
from evenhand.progress import steps

if TYPE_CHECKING:
    from evenhand.ingest.sources import SourceKind

__all__ = ["at_hand", "kind_of"]

_PULLED = ".pulled"


def _is_remote(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def kind_of(source: str, wanted: str) -> "SourceKind":
    """Return the kind that is wanted, or the guess if that is "auto".

    Raises:
        UsageError: there is no such kind, or nothing at the source.
    """
    from evenhand.ingest.sources import SourceKind, guess_kind

    names = [each.value for each in SourceKind]
    if wanted not in {"auto", *names}:
        raise UsageError(f"--kind takes auto, {', '.join(names)}; got something else.")
    if _is_remote(source):
        if wanted not in {"auto", SourceKind.DICOM}:
            raise UsageError("An archive over DICOMweb holds DICOM; leave --kind out.")
        return SourceKind.DICOM
    return guess_kind(Path(source)) if wanted == "auto" else SourceKind(wanted)


@contextmanager
def at_hand(
    source: str, into: Path, studies: Path | None, login: Path | None, *, keep: bool, sealed: bool
) -> Iterator[Path]:
    """Yield the source's place on this disk; what an archive holds of it is fetched before.

    What was fetched lies under `into`, in the clear, until the end, refused cases or not: it holds
    identities. It stays, so that it need not be fetched again, after a stop or a disk or archive
    that refused, and if `keep` is set; if the store is to be `sealed`, only while it is fetched.

    Raises:
        UsageError: options of an archive are given for something else, or contradict each other.
        DataError, ResourceError: as `evenhand.ingest.pull.pull` raises.
    """
    if not _is_remote(source):
        if studies is not None or login is not None:
            raise UsageError("--studies and --pacs-login are for archives (https://...).")
        yield Path(source)
        return
    from evenhand.dicomweb import Pacs, Place, read_login
    from evenhand.ingest.pull import pull, read_wanted

    wanted = read_wanted(Place.of(source), studies)
    pacs = Pacs(wanted[0].root, read_login(login))
    folder = into / _PULLED / sha256(repr(wanted).encode()).hexdigest()[:16]
    with steps("Fetching") as step:
        pulled = pull(pacs, wanted, folder, step)
    typer.echo(
        f"{pulled.objects} object(s) of {len(wanted)} studies or series at hand, "
        f"{pulled.fetched} of them fetched now."
    )
    stays = keep
    try:
        yield folder
    except (KeyboardInterrupt, ResourceError):
        stays = True
        raise
    finally:
        if sealed or not stays:
            shutil.rmtree(folder)
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()
        else:
            typer.echo(
                f"What was fetched stays in '{folder}', so that it need not be fetched again. It "
                "holds identities: delete it if you do not go on."
            )
