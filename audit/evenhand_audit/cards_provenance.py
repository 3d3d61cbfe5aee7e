"""Which code made a figure: version and hash of the modules that compute it."""

import hashlib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

__all__ = ["code_provenance"]

PACKAGES = ("evenhand.metrics", "evenhand_audit")
"""What scores masks and what judges the scores."""


def code_provenance() -> dict[str, str]:
    """Version of Evenhand, and one hash over every module of `PACKAGES`."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        spec = find_spec(package)
        folder = Path(next(iter(spec.submodule_search_locations or ()))) if spec else None
        if folder is None:  # a package of this distribution is always found
            raise ModuleNotFoundError(package)
        for path in sorted(folder.rglob("*.py")):
            name = f"{package}/{path.relative_to(folder).as_posix()}"
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return {"evenhand": version("evenhand"), "code_sha256": digest.hexdigest()}
