"""Which of several labels is the tumour: the user's word, else the only one that can be meant."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from evenhand.errors import DataError

__all__ = ["choose_labels"]

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
