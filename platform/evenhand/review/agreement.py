"""How well two readers agree: Dice of their masks and Cohen's kappa of their decisions."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from evenhand.review.records import Entry, Verdict
from evenhand.review.standing import Standing

__all__ = ["Agreement", "ReaderFigures", "agreement_by_month", "agreement_of", "reader_figures"]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of cases with two readings: how many, how many near enough, Dice, kappa.

    `kappa` is None where it is not defined: fewer than two cases, or all decisions
    of both readers the same. `dice` holds one value a case where both have a mask.
    """

    cases: int
    agreed: int
    dice: tuple[float, ...]
    kappa: float | None


@dataclass(frozen=True, kw_only=True)
class ReaderFigures:
    """One reader's decisions: counts by verdict, medians of seconds and of Dice to proposals."""

    reader: str
    decisions: int
    verdicts: dict[Verdict, int]
    median_seconds: float
    median_dice: float | None


def agreement_of(standings: Iterable[Standing]) -> Agreement:
    """Compare first and second readings of all cases that have both."""
    pairs = [
        (one, one.first.decision.verdict, one.second.decision.verdict)
        for one in standings
        if one.first is not None and one.second is not None
    ]
    return Agreement(
        cases=len(pairs),
        agreed=sum(bool(one.agreed) for one, _, _ in pairs),
        dice=tuple(one.dice for one, _, _ in pairs if one.dice is not None),
        kappa=_kappa([a.value for _, a, _ in pairs], [b.value for _, _, b in pairs]),
    )


def agreement_by_month(standings: Iterable[Standing]) -> dict[str, Agreement]:
    """Compare readings by the month (YYYY-MM, UTC) in which the later one was done."""
    months: dict[str, list[Standing]] = defaultdict(list)
    for one in standings:
        if one.first is not None and one.second is not None:
            later = max(one.first.decided_at_utc, one.second.decided_at_utc)
            months[f"{later:%Y-%m}"].append(one)
    return {month: agreement_of(own) for month, own in sorted(months.items())}


def reader_figures(entries: Iterable[Entry]) -> list[ReaderFigures]:
    """Return each reader's figures, by name; withdrawals and unaided drawings do not count."""
    own: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.decision.verdict not in {Verdict.WITHDRAW, Verdict.UNAIDED}:
            own[entry.decision.reader].append(entry)
    figures = []
    for reader, decided in sorted(own.items()):
        dice = [e.decision.dice for e in decided if e.decision.dice is not None]
        figures.append(
            ReaderFigures(
                reader=reader,
                decisions=len(decided),
                verdicts=dict(Counter(e.decision.verdict for e in decided)),
                median_seconds=median(e.decision.seconds for e in decided),
                median_dice=median(dice) if dice else None,
            )
        )
    return figures


def _kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    if len(first) < 2 or len({*first, *second}) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(list(first), list(second)))
