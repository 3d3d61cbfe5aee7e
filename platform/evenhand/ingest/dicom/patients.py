"""The patient's attributes from a DICOM header: typed, and unknown where they are not clear."""

import re

from evenhand.cases.records import UNKNOWN, Patient, Sex
from evenhand.ingest.deid import OLDEST_AGE_YEARS
from evenhand.ingest.dicom.values import day

__all__ = ["manufacturer", "patient_of"]

_AGE = re.compile(r"(\d{1,3})([DWMY])")
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_SEXES: dict[str, Sex] = {"M": "M", "F": "F", "O": "O"}
_ETHNIC = {
    *("african", "african american", "american indian", "arab", "asian", "aboriginal", "black"),
    *("caucasian", "chinese", "east asian", "european", "hispanic", "hispanic or latino"),
    *("indian", "indigenous", "japanese", "korean", "latin american", "latino", "maori"),
    *("middle eastern", "mixed", "native american", "not hispanic", "not hispanic or latino"),
    *("oriental", "other", "pacific islander", "polynesian", "roma", "south asian", "white"),
}
"""What is kept of the ethnic group: it is free text, in which anything may stand."""
_ABSENT = {"", "unknown", "n/a", "na", "u", "declined", "not stated"}
_MAKERS = {
    "siemens": "Siemens",
    "ge ": "GE",
    "philips": "Philips",
    "toshiba": "Canon",
    "canon": "Canon",
    "hitachi": "Hitachi",
    "fujifilm": "Fujifilm",
    "uih": "United Imaging",
    "united imaging": "United Imaging",
    "hologic": "Hologic",
    "imaging sciences": "Imaging Sciences",
    "cps": "Siemens",
    "neusoft": "Neusoft",
    "shimadzu": "Shimadzu",
    "esaote": "Esaote",
    "bruker": "Bruker",
}


def patient_of(
    *,
    pseudonym: str,
    hospital: str,
    sex: str,
    age: str,
    birth_date: str,
    study_date: str,
    ethnic_group: str,
) -> Patient:
    """Make the record of a patient from values as a DICOM header gives them.

    The age is that of the header, else it is counted from the date of birth to
    the study. The ethnic group is free text: what is not on a list of common
    words becomes "unlisted".
    """
    group = ethnic_group.strip().lower()
    return Patient(
        patient_id=pseudonym,
        hospital=hospital,
        sex=_SEXES.get(sex.upper(), "unknown"),
        age_years=_age(age, birth_date, study_date),
        ethnicity=UNKNOWN if group in _ABSENT else group if group in _ETHNIC else "unlisted",
    )


def _age(age: str, birth_date: str, study_date: str) -> float | None:
    found = _AGE.fullmatch(age.upper())
    born, studied = day(birth_date), day(study_date)
    if found:
        years = int(found.group(1)) * _YEARS[found.group(2)]
    elif born and studied and born <= studied:
        before_birthday = (studied.month, studied.day) < (born.month, born.day)
        years = float(studied.year - born.year - before_birthday)
    else:
        return None
    return round(min(years, float(OLDEST_AGE_YEARS)), 2) if years <= 130 else None


def manufacturer(text: str) -> str:
    """Return the maker of a scanner by its common name; "other" if it is not a known one."""
    lowered = f"{text.lower()} "
    if not text:
        return UNKNOWN
    return next((name for part, name in _MAKERS.items() if part in lowered), "other")
