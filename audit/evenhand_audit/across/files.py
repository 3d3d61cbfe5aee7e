"""Files of sums, exact or noised, from several hospitals to one result."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from evenhand.errors import DataError
from evenhand_audit.across.noised import NOISED_SCHEMA, NOISED_SCHEMA_VERSION, read_noised
from evenhand_audit.across.noised_pool import pool_noised
from evenhand_audit.across.pool import Pooled, pool
from evenhand_audit.across.sums import SUMS_SCHEMA, SUMS_SCHEMA_VERSION, read_sums

__all__ = ["pool_files"]

Told = TypeVar("Told")

VERSIONS = {SUMS_SCHEMA: SUMS_SCHEMA_VERSION, NOISED_SCHEMA: NOISED_SCHEMA_VERSION}
"""By what a file says it is: the version that is read."""


def pool_files(paths: Sequence[Path]) -> Pooled:
    """Put the files of `evenhand audit sums` together; all exact, or all noised.

    Raises:
        DataError: a file is missing or damaged, or they do not fit each other.
    """
    records = [_record(path) for path in paths]
    kinds = {str(record["schema"]) for record in records}
    if len(kinds) > 1:
        raise DataError(
            "Some of the files hold exact sums and some noised ones. Agree on one kind, with or "
            "without --epsilon, and sum up again."
        )
    if kinds == {NOISED_SCHEMA}:
        return pool_noised(_read(records, paths, read_noised))
    return pool(_read(records, paths, read_sums))


def _read(
    records: Sequence[Mapping[str, Any]],
    paths: Sequence[Path],
    read: Callable[[Mapping[str, Any]], Told],
) -> list[Told]:
    """Every record as what one hospital tells."""
    told = []
    for record, path in zip(records, paths, strict=True):
        try:
            told.append(read(record))
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f"'{path.name}' is damaged: something is missing in it. Ask the hospital for it "
                "again."
            ) from None
    return told


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"There is no '{path}'. Correct the path.") from None
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or record.get("schema") not in VERSIONS:
        raise DataError(f"'{path.name}' is no file of `evenhand audit sums`, or is damaged.")
    wanted = VERSIONS[record["schema"]]
    if record.get("schema_version") != wanted:
        raise DataError(
            f"'{path.name}' has schema {record.get('schema_version')}; this version of Evenhand "
            f"reads {wanted}. Ask the hospital to write it again."
        )
    return record
