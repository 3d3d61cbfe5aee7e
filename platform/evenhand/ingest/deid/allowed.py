"""What may stay beside images, read from `tables/allowed.toml`."""

import tomllib
from functools import cache
from importlib.resources import files

__all__ = ["allowed"]


@cache
def allowed(section: str, key: str) -> frozenset[str]:
    """One of the lists, such as `allowed("sidecar", "numbers")`."""
    path = files("evenhand.ingest.deid") / "tables" / "allowed.toml"
    words: list[str] = tomllib.loads(path.read_text(encoding="utf-8"))[section][key]
    return frozenset(words)
