"""PET: from activity to the standardised uptake value by body weight (SUVbw).

SUVbw = activity (Bq/ml) x weight (g) / dose (Bq), where the dose is what was left
of the injected one at the time that the activity is corrected to. The way
follows QIBA's vendor-neutral pseudocode (FDG-PET/CT profile, appendix G).
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydicom.dataset import Dataset

from evenhand.errors import DataError
from evenhand.ingest.dicom.values import first_item, instant, number, text, texts

__all__ = ["PetFacts", "pet_facts", "suv_factor"]

_GRAMS = 1000.0
_LONGEST_WAIT = timedelta(hours=24)


@dataclass(frozen=True)
class PetFacts:
    """What a PET series says about its units; times as the header gives them."""

    units: str
    suv_type: str
    corrected: tuple[str, ...]
    decay: str
    weight_kg: float | None
    dose_bq: float | None
    half_life_s: float | None
    injected: datetime | None
    injection_has_date: bool
    series: datetime | None
    acquired: datetime | None


def pet_facts(dataset: Dataset) -> PetFacts:
    """Collect what `suv_factor` needs."""
    drug = first_item(dataset, "RadiopharmaceuticalInformationSequence")
    whole = text(drug, "RadiopharmaceuticalStartDateTime")
    series_date = text(dataset, "SeriesDate")
    injected = instant(whole[:8], whole[8:]) or instant(
        series_date, text(drug, "RadiopharmaceuticalStartTime")
    )
    return PetFacts(
        units=text(dataset, "Units"),
        suv_type=text(dataset, "SUVType"),
        corrected=texts(dataset, "CorrectedImage"),
        decay=text(dataset, "DecayCorrection"),
        weight_kg=number(dataset, "PatientWeight"),
        dose_bq=number(drug, "RadionuclideTotalDose"),
        half_life_s=number(drug, "RadionuclideHalfLife"),
        injected=injected,
        injection_has_date=bool(whole),
        series=instant(series_date, text(dataset, "SeriesTime")),
        acquired=instant(text(dataset, "AcquisitionDate"), text(dataset, "AcquisitionTime")),
    )


def suv_factor(pet: PetFacts, first_acquired: datetime | None) -> float:
    """Return what the rescaled values are multiplied with to become SUVbw.

    Args:
        pet: of the series.
        first_acquired: the earliest acquisition of all its slices, if known.

    Raises:
        DataError: a part of the header that the factor needs is missing.
    """
    if pet.units == "GML" and pet.suv_type in {"", "BW"}:
        return 1.0
    if pet.units != "BQML":
        raise DataError(
            "its values are neither Bq/ml nor SUV by body weight, so SUV cannot be computed"
        )
    if "ATTN" not in pet.corrected or "DECY" not in pet.corrected:
        raise DataError("it is not corrected for attenuation and decay, so SUV cannot be computed")
    weight_kg = _positive(pet.weight_kg, "patient's weight")
    dose_bq = _positive(pet.dose_bq, "injected dose")
    half_life_s = _positive(pet.half_life_s, "half-life")
    left = dose_bq * math.pow(0.5, _wait_s(pet, first_acquired) / half_life_s)
    return weight_kg * _GRAMS / left


def _positive(value: float | None, what: str) -> float:
    if value is None or value <= 0:
        raise DataError(f"its header lacks the {what}, so SUV cannot be computed")
    return value


def _wait_s(pet: PetFacts, first_acquired: datetime | None) -> float:
    """Seconds from injection to the time that the activity is corrected to."""
    if pet.decay == "ADMIN":
        return 0.0
    if pet.decay != "START":
        raise DataError("its header does not say what decay is corrected to (SUV)")
    start = pet.series
    if start is None or (first_acquired is not None and first_acquired < start):
        start = first_acquired  # a series that was made anew later has its own, later time
    if start is None or pet.injected is None:
        raise DataError("its header lacks the time of injection or of the scan (SUV)")
    injected = pet.injected
    if injected > start and not pet.injection_has_date:
        injected -= timedelta(days=1)  # a time without a date, before midnight
    if not timedelta(0) <= start - injected <= _LONGEST_WAIT:
        raise DataError("its times of injection and scan do not fit together (SUV)")
    return (start - injected).total_seconds()
