"""What a fitted temperature brings on test patients of a finished run, who had no part in it.

    python benchmarks/calibration.py RUN [--arm pooled]

The arm was trained with `training.calibration_share`. Without a prompt: the expected calibration
error of all voxels within 10 of both masks, what is found at each stated probability, and the Dice
that a case's probabilities promise beside the Dice that it has.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import model_tables
import numpy as np
from scipy import stats

from evenhand.experiment.layout import RunFolder, model_of_adapter
from evenhand.metrics import logit_counts, score_case
from evenhand.model.adapted import AdaptedModel
from evenhand.predict import OpenCase, predict_automatic


def main() -> None:
    """Print both sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--arm", default="pooled")
    asked = parser.parse_args()
    run = RunFolder(asked.run)
    model = model_of_adapter(run.arm(asked.arm).adapter_path)
    fitted = model.temperature
    shares = []
    for temperature in (1.0, fitted):
        model.temperature = temperature
        bins, promised, dice = _judged(run, model)
        rank = stats.spearmanr(promised, dice).statistic
        error = np.abs(np.array(promised) - dice).mean()
        print(
            f"temperature {temperature:.2f}: calibration error {model_tables.ece(bins):.4f}; "
            f"n = {len(dice)} patients, promised Dice {np.mean(promised):.3f}, Dice "
            f"{np.mean(dice):.3f}, {error:.3f} apart in the mean, Spearman {rank:.2f}"
        )
        shares.append(bins)
    print("\n| stated probability | tumour found | after the temperature |\n|---|---|---|")
    for b in range(15):
        before, after = (model_tables.share(bins, b) for bins in shares)
        print(f"| {b / 15:.2f} to {(b + 1) / 15:.2f} | {before} | {after} |")


def _judged(run: RunFolder, model: AdaptedModel) -> tuple[np.ndarray, list[float], list[float]]:
    """(3, 15) bins of voxels, and promised and true Dice of each patient (means over cases)."""
    bins = np.zeros((3, 15))
    promised, dice = defaultdict(list), defaultdict(list)
    for home in run.hospitals():
        store, cache = home.store(), home.cache(model, model.sequences[0])
        for case in store:
            patient = case.patient.patient_id
            if patient not in run.split().test[home.name]:
                continue
            reference = store.volumes(case, ()).mask
            found = predict_automatic(model, OpenCase.of(model, store, cache, case))
            bins += model_tables.bins(logit_counts(found.probability, reference), 1.0)
            score = score_case(found.mask, reference, spacing=(1.0, 1.0, 1.0), nsd_tolerance=2.0)
            promised[patient].append(1 - found.uncertainty)
            dice[patient].append(score.dice)
    names = sorted(dice)
    return bins, [float(np.mean(promised[n])) for n in names], [np.mean(dice[n]) for n in names]


if __name__ == "__main__":
    main()
