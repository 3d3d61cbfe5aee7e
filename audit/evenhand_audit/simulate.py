"""Made-up prediction tables with a known gap, to test an audit against the truth."""

from collections.abc import Sequence

import numpy as np

__all__ = ["simulated_rows"]

CONCENTRATION = 12.0
"""Spread of Dice between patients: a beta distribution with alpha + beta of this size."""


def simulated_rows(
    *,
    patients: int = 40,
    gap: float = 0.1,
    mean_dice: float = 0.8,
    arms: Sequence[tuple[str, str]] = (("federated", "automatic"),),
    cases_per_patient: int = 1,
    seed: int = 0,
) -> list[dict[str, object]]:
    """Rows for `write_prediction_table`; patients of sex F get `gap` less Dice in expectation.

    Sex alternates, so the true gap between M and F is `gap` and the other attributes have none.

    Args:
        patients: how many, over four hospitals in turn.
        gap: expected Dice of M minus that of F.
        mean_dice: expected Dice of M.
        arms: pairs of arm and prompt; each scores every case anew.
        cases_per_patient: cases of a patient differ little from each other.
        seed: of all numbers.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for number in range(patients):
        sex = "FM"[number % 2]
        person: dict[str, object] = {
            "patient": f"person-{number:04d}",
            "hospital": ("north", "east", "south", "west")[number // 2 % 4],
            "sex": sex,
            "age_years": None if number % 10 == 9 else float(rng.integers(20, 80)),
            "race": str(rng.choice(["white", "black", "unknown"], p=[0.6, 0.3, 0.1])),
            "ethnicity": "unknown",
        }
        expected = mean_dice - (gap if sex == "F" else 0.0)
        volume = float(np.exp(rng.normal(9.5, 0.8)))
        for arm, prompt in arms:
            level = float(rng.beta(expected * CONCENTRATION, (1 - expected) * CONCENTRATION))
            for case in range(cases_per_patient):
                dice = float(np.clip(level + (rng.normal(0, 0.02) if case else 0.0), 0, 1))
                rows.append(
                    person
                    | {"arm": arm, "prompt": prompt, "case": f"person-{number:04d}-case-{case}"}
                    | _scores(dice, volume)
                )
    return rows


def _scores(dice: float, volume: float) -> dict[str, object]:
    return {
        "units": "mm",
        "dice": dice,
        "hd95": 30.0 * (1 - dice),
        "nsd": dice,
        "nsd_tolerance": 2.0,
        "volume_reference": volume,
        "volume_predicted": volume * dice,
        "empty": "none",
    }
