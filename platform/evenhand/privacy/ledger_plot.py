"""What was spent against what was granted, as a figure."""

from pathlib import Path

from evenhand.errors import UsageError
from evenhand.privacy.accounting import epsilon_of
from evenhand.privacy.ledger_state import LedgerState

__all__ = ["draw_ledger", "spent_now"]

_FORMS = (".png", ".svg", ".pdf")
_POINTS = 24
"""Charges at which the close bound is computed; between them a straight line."""
_SPENT, _GRANTED = "#1f5fa8", "#b04a2f"


def spent_now(state: LedgerState, charges: int | None = None) -> float:
    """Epsilon of the patient who was used most, after so many charges (None: all)."""
    if state.grant is None:
        return 0.0
    first = state if charges is None else _first(state, charges)
    return max((epsilon_of(load, state.grant.delta) for load in first.loads()), default=0.0)


def draw_ledger(state: LedgerState, path: Path) -> None:
    """Write a figure: charges in order, epsilon spent and granted, and who spent it.

    Args:
        state: a ledger in which something was granted.
        path: .png, .svg or .pdf.

    Raises:
        UsageError: the ending is another, the folder is missing, or there is nothing to draw.
    """
    if path.suffix.lower() not in _FORMS:
        raise UsageError(f"--plot wants a name that ends in {', '.join(_FORMS)}; got '{path}'.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder '{path.parent}' to draw into.")
    if state.grant is None or not state.charges:
        raise UsageError(f"Hospital {state.hospital} has spent nothing yet; there is no curve.")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    count = len(state.charges)
    at = sorted({0, count, *(round(n * count / _POINTS) for n in range(1, _POINTS))})
    axes.plot(at, [spent_now(state, n) for n in at], color=_SPENT, lw=2, label="spent")
    steps, granted = _granted(state)
    axes.step(steps, granted, where="post", color=_GRANTED, lw=2, ls=(0, (5, 2)), label="granted")
    _name_studies(axes, state)
    axes.set_xlim(0, max(1, count))
    axes.set_ylim(0, 1.12 * max(granted))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_xlabel(
        f"charges, in order ({state.charges[0].at[:10]} to {state.charges[-1].at[:10]})"
    )
    axes.set_ylabel(f"epsilon at delta {state.grant.delta:g}")
    axes.set_title(
        f"Hospital {state.hospital}: privacy of the patient who was used most", loc="left"
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def _first(state: LedgerState, charges: int) -> LedgerState:
    from dataclasses import replace

    return replace(state, charges=state.charges[:charges])


def _granted(state: LedgerState) -> tuple[list[int], list[float]]:
    """Where grants change, in numbers of charges made before, and to what."""
    steps = [sum(one.at < grant.at for one in state.charges) for grant in state.grants]
    amounts = [grant.epsilon for grant in state.grants]
    return [0, *steps[1:], len(state.charges)], [*amounts, amounts[-1]]


def _name_studies(axes: "object", state: LedgerState) -> None:
    """A thin line and a name wherever another study begins to spend."""
    before = None
    for number, charge in enumerate(state.charges):
        if charge.study != before:
            axes.axvline(number, color="0.8", lw=0.8, zorder=0)  # type: ignore[attr-defined]
            axes.annotate(  # type: ignore[attr-defined]
                f" {charge.study or charge.purpose}",
                (number, 1.0),
                xycoords=("data", "axes fraction"),
                va="top",
                fontsize=8,
                color="0.35",
            )
        before = charge.study
