"""Explanation maps of the cases that drive a gap, as pictures and a table; patient data."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evenhand.artifacts import write_atomically
from evenhand.errors import UsageError
from evenhand.experiment.layout import RunFolder, build_model
from evenhand.model.adapter_files import load_onto
from evenhand_audit.explain.occlusion import Explanation, explain_slice

__all__ = ["Explained", "explain_cases"]


@dataclass(frozen=True, eq=False)
class Explained:
    """One case and its map."""

    case: str
    explanation: Explanation


def explain_cases(run: RunFolder, arm: str, cases: Sequence[str], out: Path) -> list[Explained]:
    """Explain the automatic proposals of an arm in these cases.

    Writes `CASE.png` for each (slice, importance, reference outlined) and `maps.csv`.

    Raises:
        UsageError: the arm has no adapter, looks at several sequences, or leaves parts of it at
            hospitals.
        ResourceError: the folder cannot be written.
    """
    path = run.arm(arm).adapter_path
    if not path.exists():
        raise UsageError(
            f"Arm '{arm}' of the run has no adapter, so there is no model to explain. Name a "
            "trained arm with --arm, and --prompt automatic."
        )
    config = run.config()
    if len(config.data.sequences) > 1 or config.federation.local_parts:
        raise UsageError(
            "Maps are made of adapters that look at one sequence and are the same everywhere; this "
            "run has several (data.sequences), or parts that stay (federation.local_parts)."
        )
    model = build_model(config)
    load_onto(path, model)
    model.eval()
    sequence, wanted, found = config.data.sequences[0], set(cases), {}
    for home in run.hospitals():
        store = home.store()
        for case in store:
            if case.case_id not in wanted:
                continue
            volumes = store.volumes(case, (sequence,))
            if volumes.mask is None or not volumes.mask.any():
                continue
            made = explain_slice(model, volumes.images[sequence], volumes.mask)
            outline = volumes.mask[:, :, made.slice_number] > 0
            write_atomically(out / f"{case.case_id}.png", _picture(made, outline))
            found[case.case_id] = Explained(case.case_id, made)
    ordered = [found[each] for each in cases if each in found]
    write_atomically(out / "maps.csv", _table(ordered).encode())
    return ordered


def _table(explained: Sequence[Explained]) -> str:
    rows = [
        (each.case, one.slice_number, one.stability, one.inside, one.area)
        for each in explained
        for one in [each.explanation]
    ]
    frame = pd.DataFrame(rows, columns=["case", "slice", "stability", "inside", "area"])
    return str(frame.round(4).to_csv(index=False, lineterminator="\n"))


def _picture(made: Explanation, reference: NDArray[np.bool_]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    largest = max(float(np.abs(made.importance).max()), 1e-6)
    for axes, title in zip(figure.subplots(1, 2), ("slice", "importance"), strict=True):
        axes.imshow(made.image.T, cmap="gray", origin="lower", vmin=0, vmax=1)
        axes.contour(reference.T, levels=[0.5], colors="#f2c14e", linewidths=1)
        axes.set(title=title, xticks=[], yticks=[])
        if title == "importance":
            shown = axes.imshow(
                made.importance.T, cmap="RdBu_r", origin="lower", alpha=0.6, vmin=-largest,
                vmax=largest,
            )  # fmt: skip
            figure.colorbar(shown, ax=axes, label="drop of probability", shrink=0.8)
    figure.suptitle(f"stability {made.stability:.2f}; reference outlined")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
