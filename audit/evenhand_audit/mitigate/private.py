"""Mitigation under privacy: groups counted with noise, and shares that follow from the counts.

Private training draws every patient with one probability, so weights cannot say who is drawn more
often. Instead each patient's clipped gradient is multiplied by a share up to 1. No patient can then
add more than before, so the promise of private training stands. For it to stand, shares must
follow from the patient's own group and from figures that may be known: noised counts of groups, and
losses that come from elsewhere. So nothing here looks at how many patients a group really has.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evenhand.artifacts import write_atomically
from evenhand.errors import DataError, UsageError
from evenhand.privacy.accounting import default_delta
from evenhand.privacy.release import release_counts
from evenhand.privacy.site import Site
from evenhand_audit.ledger_cohort import cohort_of, release_noise
from evenhand_audit.mitigate.weights import fair_error_bound, group_balanced, group_dro

__all__ = ["counted", "group_shares", "write_shares"]

SMALLEST = 0.05
"""Part of all patients, by the noised counts, from which a group sets the scale of shares."""

Floats = NDArray[np.float64]


def counted(
    groups_of: Mapping[str, str],
    *,
    groups: Sequence[str],
    by: str,
    epsilon: float,
    hospital: str,
    store: Path | None,
) -> dict[str, int]:
    """Charge the hospital's ledger, then count each group's patients with noise.

    Args:
        groups_of: the group of each patient.
        groups: all that are told, known beforehand; whoever is in another counts nowhere.
        by: the attribute, which names the release.
        epsilon: of the release, at the ledger's delta.
        hospital: whose ledger.
        store: as in `cohort_of`.

    Raises:
        BudgetError: the grant would be exceeded.
        PolicyError: the site policy lets no table leave, or not with so little noise.
        UsageError: fewer than two groups are named.
    """
    if len(groups) < 2 or len(set(groups)) < len(groups):
        raise UsageError(
            "Name two groups or more, each once, before anybody counts: --groups F,M,unknown"
        )
    site = Site.of(hospital)
    ledger = site.ledger()
    grant = ledger.state().grant
    delta = grant.delta if grant else default_delta(len(groups_of))
    return release_counts(
        ledger,
        site.policy(),
        cohort_of(site, groups_of, store),
        list(groups_of.values()),
        of=groups,
        noise_multiplier=release_noise(epsilon, delta),
        study="mitigation",
        purpose=f"training patients by {by}",
    )


def group_shares(
    counts: Mapping[str, float],
    *,
    losses: Mapping[str, float] | None,
    step: float,
    gamma: float,
    largest: float,
) -> dict[str, dict[str, float]]:
    """By method the share of each group; the largest is 1, the smallest 1 / `largest` or more.

    A group under `SMALLEST` of all sets no scale, or a group that nobody is in would shrink all.

    Args:
        counts: patients of each group, noised, over all hospitals or here.
        losses: mean loss of each group, of patients outside the promise; None: methods that need
            it are left out.
        step: of group DRO.
        gamma: of the fair error bound.
        largest: ratio of two shares, at most.

    Raises:
        DataError: there is no group.
    """
    groups = list(counts)
    if not groups:
        raise DataError("No group was counted. Count them first: evenhand mitigate count")
    raw = {"group-balanced": group_balanced(groups, counts)}
    if losses is not None:
        whole = sum(max(count, 1.0) for count in counts.values())
        before = {group: max(count, 1.0) / whole for group, count in counts.items()}
        raw["group-dro"] = group_dro(groups, counts, losses, before, step)
        raw["fair-error-bound"] = fair_error_bound(groups, losses, gamma)
    sizes = np.array([counts[group] for group in groups])
    scale = sizes >= min(SMALLEST * sizes.sum(), sizes.max())
    return {
        method: dict(zip(groups, _up_to_one(each, scale, largest).tolist(), strict=True))
        for method, each in raw.items()
    }


def _up_to_one(weights: Floats, scale: NDArray[np.bool_], largest: float) -> Floats:
    """Divide by the largest weight of a group that sets the scale; cut at 1 / `largest` and 1."""
    found: Floats = np.clip(weights / weights[scale].max(), 1 / largest, 1.0)
    return found


def write_shares(
    groups_of: Mapping[str, str], shares: Mapping[str, Mapping[str, float]], out: Path
) -> list[Path]:
    """Write `shares-METHOD.csv` (patient, share) for each method; patient data.

    Raises:
        DataError: a patient's group was not counted.
        ResourceError: the folder cannot be written.
    """
    known = set.intersection(*(set(each) for each in shares.values()))
    if lacking := sorted(set(groups_of.values()) - known):
        raise DataError(
            f"There is no count of {', '.join(lacking)}, which some patients belong to. Name all "
            "groups when you count: evenhand mitigate count --groups"
        )
    written = []
    for method, by_group in shares.items():
        frame = pd.DataFrame(
            {
                "patient": list(groups_of),
                "share": [round(by_group[group], 6) for group in groups_of.values()],
            }
        )
        path = out / f"shares-{method}.csv"
        text = str(frame.sort_values("patient").to_csv(index=False, lineterminator="\n"))
        write_atomically(path, text.encode())
        written.append(path)
    return written
