"""The bundle (FAB) that Flower sends to hospitals: one file that names installed code.

It holds no code. Both sides make it from the study's hash by themselves, so a hospital knows to
the byte what may come, and anything else is another bundle.
"""

import hashlib
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import tomli_w

from evenhand import __version__

__all__ = ["bundle_fault", "write_app"]

_MANIFEST = ".info/CONTENT"


def _project(digest: str) -> bytes:
    content = {
        "project": {"name": "evenhand-study", "version": __version__, "license": "Apache-2.0"},
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "evenhand",
                    "components": {
                        "serverapp": "evenhand_federated.coordinator_app:app",
                        "clientapp": "evenhand_federated.hospital_app:app",
                    },
                    "config": {"study": digest},
                }
            }
        },
    }
    return tomli_w.dumps(content).encode()


def write_app(folder: Path, digest: str) -> None:
    """Write the app of a study, from which `flwr run` makes the bundle."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_bytes(_project(digest))


def bundle_fault(content: bytes, digests: list[str]) -> str | None:
    """Why a bundle is not that of one of these studies; None where it is."""
    came = _files(content)
    if came is None:
        return "not a bundle"
    if any(came == _expected(digest) for digest in digests):
        return None
    strange = sorted({name for name, _ in came} - {"pyproject.toml", _MANIFEST})
    if strange:
        return f"brings code or data of its own: {', '.join(strange[:5])}"[:200]
    return "not that of a study that this hospital approved"


def _expected(digest: str) -> list[tuple[str, bytes]]:
    """What `flwr build` (1.41) puts into the bundle of a study."""
    project = _project(digest)
    line = f"pyproject.toml,{hashlib.sha256(project).hexdigest()},{len(project) * 8}"
    return [("pyproject.toml", project), (_MANIFEST, line.encode())]


def _files(content: bytes) -> list[tuple[str, bytes]] | None:
    """Names and contents in the order of the archive; a name that comes twice comes twice."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            entries = archive.infolist()
            if len(entries) > 100 or sum(entry.file_size for entry in entries) > 10_000_000:
                return [(entry.filename, b"") for entry in entries[:100]]
            return [(entry.filename, archive.read(entry)) for entry in entries]
    except (OSError, EOFError, RuntimeError, ValueError, zlib.error, zipfile.BadZipFile):
        return None  # damaged, cut short, locked, or packed in a way that Python does not know
