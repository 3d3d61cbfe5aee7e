"""Rules of evenhand.cases.records: valid by construction, no value in an error."""

import pytest

from evenhand.cases.records import Patient
from evenhand.errors import DataError


@pytest.mark.parametrize("name", ["", "../up", "a b", "-x", "a" * 65, "a/b", "ä"])
def test_ids_that_could_not_be_a_folder_are_refused(name: str) -> None:
    """Ids become folder names, so they hold nothing that leads elsewhere; none is repeated."""
    with pytest.raises(DataError, match="patient id must be") as caught:
        Patient(patient_id=name, hospital="A")
    assert not name or name not in str(caught.value)
    with pytest.raises(DataError, match="hospital name must be"):
        Patient(patient_id="p", hospital=name)


@pytest.mark.parametrize("age", [-1, 131, float("nan"), float("inf")])
def test_impossible_ages_are_refused_without_repeating_them(age: float) -> None:
    """An age is 0 to 130 or None, and the error keeps it to itself."""
    with pytest.raises(DataError, match="outside 0 to 130") as caught:
        Patient(patient_id="p", hospital="A", age_years=age)
    assert str(age) not in str(caught.value)


def test_what_was_not_given_is_unknown() -> None:
    """Missing attributes are a value that can be counted."""
    patient = Patient(patient_id="p", hospital="A")
    assert (patient.sex, patient.race, patient.ethnicity) == ("unknown",) * 3
    assert patient.age_years is None
