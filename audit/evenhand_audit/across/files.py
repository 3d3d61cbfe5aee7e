"""Files of sums, exact or noised, from several hospitals to one result."""

import json
from collections.abc import Sequence
from pathlib import Path

from evenhand.errors import DataError
from evenhand_audit.across.noised import NOISED_SCHEMA, read_noised
from evenhand_audit.across.noised_pool import pool_noised
from evenhand_audit.across.pool import Pooled, pool
from evenhand_audit.across.sums import SUMS_SCHEMA, read_sums

__all__ = ["pool_files"]


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
        return pool_noised(
            [read_noised(record, path.name) for record, path in zip(records, paths, strict=True)]
        )
    return pool([read_sums(record, path.name) for record, path in zip(records, paths, strict=True)])


def _record(path: Path) -> dict[str, object]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"There is no '{path}'. Correct the path.") from None
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or record.get("schema") not in {SUMS_SCHEMA, NOISED_SCHEMA}:
        raise DataError(f"'{path.name}' is no file of `evenhand audit sums`, or is damaged.")
    return record
