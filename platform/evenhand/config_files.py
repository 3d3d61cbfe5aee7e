"""A config as a TOML file: read strictly, overridden by `--set`.

An unknown key is an error that names the nearest known one. Paths are read
relative to the folder in which the command runs.
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from evenhand.config import ExperimentConfig, Section
from evenhand.errors import ConfigError

__all__ = ["load_config", "load_section"]

_MOVED = {
    "privacy.warm_start_phantoms": "phantoms",
    "privacy.warm_start_epochs": "epochs",
}
"""Keys of before, and what they are called in [warm_start] by now."""

AnySection = TypeVar("AnySection", bound=Section)


def load_config(path: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read an experiment from TOML and apply `key=value` overrides; as `load_section`."""
    return load_section(path, ExperimentConfig, overrides)


def load_section(
    path: Path | None, section: type[AnySection], overrides: Sequence[str] = ()
) -> AnySection:
    """Read a config of any kind from TOML and apply `key=value` overrides.

    Args:
        path: the TOML file; None: all from overrides and defaults.
        section: what the file holds.
        overrides: such as `training.epochs=2`; the value is TOML, a bare word a string.

    Raises:
        ConfigError: the file, a key or a value is wrong; says which and the way out.
    """
    raw = {} if path is None else _read_toml(path)
    where = "--set" if path is None else str(path)
    for override in overrides:
        _apply(raw, override)
    _check_keys(raw, section, prefix="", where=where)
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"'{where}', {key}: {reason}.") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"There is no config file '{path}'. Examples are in configs/.") from None
    except OSError as error:
        raise ConfigError(f"The config file '{path}' cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' is not valid TOML: {error}.") from None


def _apply(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set wants key=value, such as training.epochs=2; got '{override}'.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.split(".")
    table = raw
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: '{parent}' is a value, not a section.")
    table[last] = value


def _check_keys(raw: Mapping[str, Any], section: type[Section], prefix: str, where: str) -> None:
    known = section.model_fields
    for key, value in raw.items():
        if key not in known and (now := _MOVED.get(f"{prefix}{key}")):
            raise ConfigError(
                f"'{where}' has the key '{prefix}{key}', which is '{now}' in [warm_start] by now "
                "(warm_start.arms says for which arms; before it was for federated-private alone)."
            )
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"known: {', '.join(known)}."
            raise ConfigError(f"'{where}' has an unknown key '{prefix}{key}'; {hint}")
        inner = _section_of(known[key].annotation)
        if inner is not None and isinstance(value, Mapping):
            _check_keys(value, inner, prefix=f"{prefix}{key}.", where=where)
        each = _section_of((get_args(known[key].annotation) or (None,))[-1])
        if each is not None and isinstance(value, Mapping) and inner is None:
            for name, part in value.items():  # a dict of sections, by names of the user's choice
                if isinstance(part, Mapping):
                    _check_keys(part, each, prefix=f"{prefix}{key}.{name}.", where=where)


def _section_of(annotation: Any) -> type[Section] | None:
    candidates = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None
