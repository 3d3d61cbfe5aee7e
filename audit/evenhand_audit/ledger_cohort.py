"""The patients of a table as their hospital's ledger knows them."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from evenhand.errors import DataError

if TYPE_CHECKING:
    from evenhand.privacy.cohort import Cohort
    from evenhand.privacy.site import Site

__all__ = ["cohort_of", "release_noise"]


def cohort_of(site: "Site", patients: Iterable[str], store: Path | None) -> "Cohort":
    """Patients by id, and with a store by their images too.

    By images the ledger knows a patient again who was trained on under another pseudonym.

    Args:
        site: the hospital's own place, with its key.
        patients: ids.
        store: the hospital's case store; None: ids are all that is known.

    Raises:
        DataError: the store lacks some of the patients.
        StoreError: there is no store there.
    """
    from evenhand.cases.store import CaseStore
    from evenhand.privacy.cohort import Cohort

    images: dict[str, list[str]] = {str(patient): [] for patient in patients}
    for case in CaseStore(store) if store is not None else ():
        if case.patient.patient_id in images:
            images[case.patient.patient_id] += case.sequences.values()
    if store is not None and (strange := sum(not each for each in images.values())):
        raise DataError(
            f"{strange} of {len(images)} patients have no case in the store '{store}'. They would "
            "be charged as other people than those who were trained on. Name them as the store "
            "does (--strip-prefix), or leave --store out."
        )
    return Cohort.of(site.key(), images)


@cache
def release_noise(epsilon: float, delta: float) -> float:
    """Noise multiplier of one release about everybody; to find it takes a second."""
    from evenhand.privacy.accounting import noise_for

    return noise_for(epsilon, delta, 1.0, 1)
