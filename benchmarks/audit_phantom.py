"""Whether the bias that is planted in phantoms is found, with the right sign and size.

    python benchmarks/audit_phantom.py [--audits 40] [--truth 1000]

Phantoms are segmented by a threshold, so that nothing is trained and nothing depends on a model.
Tumours of F have 0.6 of the contrast of the others'. The true gap in Dice is taken from many
phantoms; then audits of 60 patients each, with fresh phantoms, say by sex what they find.
"""

import argparse
import time

import numpy as np
import pandas as pd
from scipy import ndimage

from evenhand.config import AuditConfig
from evenhand.ingest.phantom import TUMOUR_CONTRAST
from evenhand.ingest.phantom_anatomy import make_brain, picture, scanners
from evenhand_audit.analysis import audit_table
from evenhand_audit.simulate import simulated_rows

SEED = 20261125
SHAPE = (48, 48, 6)
CONTRAST = 0.6
CONFIG = AuditConfig(resamples=1000, attributes=("sex", "hospital"), intersections=False)


def main() -> None:
    """Print the true gap and what the audits said."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--audits", type=int, default=40)
    parser.add_argument("--truth", type=int, default=1000)
    asked = parser.parse_args()
    started = time.perf_counter()
    many = cohort(asked.truth, 0)
    means = many.groupby("sex")["dice"].mean()
    truth = float(means["M"] - means["F"])
    held = named = found = 0
    for number in range(asked.audits):
        arm = audit_table(cohort(60, number + 1), CONFIG).arms[0]
        difference = arm.attributes[0].difference["dice"]
        right = difference.worst_group == "F"
        named += right
        found += right and difference.beyond_chance
        held += difference.gap.low <= (truth if right else -truth) <= difference.gap.high
    print(f"true gap {truth:.3f} ({asked.truth} phantoms; M {means['M']:.3f}, F {means['F']:.3f})")
    print(f"of {asked.audits} audits of 60 phantoms: F is worst in {named}, found beyond chance in "
          f"{found}, the truth is in the 95% interval of {held}")  # fmt: skip
    print(f"seed {SEED}, {time.perf_counter() - started:.0f} s")


def cohort(patients: int, number: int) -> pd.DataFrame:
    """A table of fresh phantoms, segmented by a threshold; sex and hospital as simulated."""
    rng = np.random.default_rng([SEED, number])
    machines = dict(zip(("north", "east", "south", "west"), scanners(4, 1.0, rng), strict=True))
    rows = simulated_rows(patients=patients, seed=number)
    for row in rows:
        brain = make_brain(SHAPE, float(rng.uniform(0.012, 0.05)), rng)
        contrast = TUMOUR_CONTRAST * (CONTRAST if row["sex"] == "F" else 1.0)
        image = picture(brain, contrast, machines[str(row["hospital"])], rng)
        proposed = segment(image, brain.brain)
        both = float((proposed & brain.mask).sum())
        dice = 2 * both / float(proposed.sum() + brain.mask.sum())
        row |= {"dice": dice, "nsd": dice, "hd95": 10 * (1 - dice)}
        row["volume_reference"] = float(brain.mask.sum())
    return pd.DataFrame(rows)


def segment(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """The largest connected part that is much brighter than its brain."""
    smooth = ndimage.gaussian_filter(image, (1, 1, 0))
    inside = smooth[brain]
    bright = brain & (smooth > inside.mean() + 1.5 * inside.std())
    parts, count = ndimage.label(bright)
    if not count:
        return bright
    sizes = np.bincount(parts.ravel())[1:]
    return parts == 1 + int(sizes.argmax())


if __name__ == "__main__":
    main()
