"""Which of several labels is the tumour: the user's word, else the only one that can be meant."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from evenhand.cases.records import is_name
from evenhand.errors import DataError, UsageError

__all__ = ["choose_labels", "chosen_labels"]

_TUMOUR = re.compile(
    r"tumou?r|gtv|neoplas|lesion|carcinom|metasta|glioma|cancer|malignan", re.IGNORECASE
)


def choose_labels(
    labels: Iterable[tuple[int, str]], wanted: Sequence[str], *, shown: bool = True
) -> tuple[tuple[int, ...], str]:
    """Choose among numbered labels those that make the mask; they are merged.

    Args:
        labels: number and name of each, the background left out.
        wanted: numbers, or patterns of names (`*` stands for anything, case does
            not matter) that the user gave; none: take the only label, or the
            only one that is named like a tumour.
        shown: whether an error may list the names (not if they are free text of
            a hospital).

    Returns:
        The numbers, and why these.

    Raises:
        DataError: there is none, or several could be meant.
    """
    known = list(labels)
    names = ", ".join(f"'{name}'" for _, name in known) if shown else f"{len(known)} labels"
    way = "" if shown else "; --mapping FILE writes down their numbers and names"
    if not known:
        raise DataError("its segmentation has no label but the background.")
    if wanted:
        found = [
            number
            for number, name in known
            if any(
                str(number) == pattern or fnmatchcase(name.lower(), pattern.lower())
                for pattern in wanted
            )
        ]
        if not found:
            raise DataError(f"no label fits --tumour (there are: {names}{way}).")
        return tuple(found), "named by --tumour"
    if len(known) == 1:
        return (known[0][0],), "the only label"
    like = [number for number, name in known if _TUMOUR.search(name)]
    if len(like) == 1:
        return tuple(like), "the only label that is named like a tumour"
    raise DataError(
        f"several labels could be the tumour ({names}); say which with --tumour, by name or number "
        f"(may be repeated; labels are merged{way})."
    )


def chosen_labels(
    labels: Sequence[tuple[int, str]], tumour: Sequence[str], apart: Sequence[str]
) -> tuple[tuple[int, ...], str, tuple[str, ...]]:
    """Choose the labels of a mask: merged into one, or kept apart.

    Args:
        labels: number and name of each, the background left out.
        tumour: as `wanted` of `choose_labels`.
        apart: names of those that are kept apart, numbered from 1 in this order; none: merge.

    Returns:
        Their numbers in the source, why these, and their names where they are kept apart.

    Raises:
        UsageError: both are given; or fewer than two are kept apart, one twice, or one that is not
            there or is no name.
        DataError: as `choose_labels`.
    """
    if not apart:
        return (*choose_labels(labels, tumour), ())
    numbers = {name: number for number, name in labels}
    strange = any(name not in numbers or not is_name(name) for name in apart)
    if tumour or strange or len(set(apart)) < len(apart) or len(apart) < 2:
        raise UsageError(
            "--label keeps labels apart, and --tumour merges them: give one of the two. Of --label "
            "name two or more, each once, whose names have letters, digits, '-' and '_' only "
            f"(there are: {', '.join(name for name in numbers if is_name(name))})."
        )
    return tuple(numbers[name] for name in apart), "kept apart by --label", tuple(apart)
