"""The picture of a plan: how far the signal stands out of the noise, against patients."""

from pathlib import Path

from evenhand.errors import UsageError
from evenhand.privacy.planner import UNCERTAINTY, USEFUL, Plan

__all__ = ["FORMATS", "draw_plan"]

FORMATS = (".png", ".svg", ".pdf")
"""Endings that a picture may have."""

_LOCAL, _SUM = "#d9772b", "#3f7fd0"


def draw_plan(plan: Plan, path: Path) -> None:
    """Draw signal to noise against patients under both trust models.

    Raises:
        UsageError: the ending is none of `FORMATS`.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"A plot ends in {', '.join(FORMATS)}; got '{path.name}'.")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": "plan", "font.size": 10}
    with rc_context(style):
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        _draw(figure.add_subplot(), plan)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)


def _draw(axes: "Axes", plan: Plan) -> None:  # type: ignore[name-defined]  # noqa: F821
    request, curve = plan.request, plan.curve
    total = sum(request.patients)
    axes.set_xscale("log")
    axes.set_yscale("log")
    low = USEFUL / UNCERTAINTY
    axes.axhspan(low, USEFUL, color="0.5", alpha=0.15, linewidth=0)
    axes.axhline(USEFUL, color="0.35", linewidth=0.8, linestyle="--")
    lines = [
        ("secure-sum: one noise for all", curve.secure_sum, _SUM, plan.secure_sum),
        ("local: each hospital its own noise", curve.local, _LOCAL, plan.local),
    ]
    if len(request.patients) == 1:  # alone, the two are the same
        lines = [("one hospital", curve.secure_sum, _SUM, plan.secure_sum)]
    for label, signals, colour, own in lines:
        axes.plot(curve.patients, signals, color=colour, linewidth=2, label=label)
        here = own.expectation.signal_to_noise
        axes.plot([total], [here], "o", color=colour, markersize=8)
        axes.annotate(f"{here:.2g}", (total, here), (7, -11), textcoords="offset points")
    far = max(curve.secure_sum) * 2
    near = min(*curve.local, *curve.secure_sum) / 1.5
    axes.set_ylim(min(near, low / 2), max(far, USEFUL * 2))
    start = curve.patients[0]
    axes.text(start, USEFUL * 1.12, "a useful model can come out", color="0.3", va="bottom")
    axes.text(start, (low * USEFUL) ** 0.5, "doubtful", color="0.3", va="center")
    axes.text(start, low / 1.12, "no useful model", color="0.3", va="top")
    hospitals = len(request.patients)
    axes.set_xlabel(
        "training patients in all"
        + (f", at {hospitals} hospitals in today's proportions" if hospitals > 1 else "")
    )
    axes.set_ylabel("signal to noise of the whole training")
    axes.set_title(
        f"Epsilon {request.epsilon:g} for each patient, {request.parameters:,} trained numbers. "
        f"Dot: the plan, {total} patients",
        loc="left", fontsize=10,
    )  # fmt: skip
    axes.grid(visible=True, alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
