"""Rules of evenhand.cases.splits."""

import random
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.cases.records import Case, Patient
from evenhand.cases.splits import Split, split_patients
from evenhand.cases.store import CaseStore
from evenhand.errors import ConfigError, DataError
from evenhand.geometry import Affine

AFFINE = Affine(np.eye(4))
SIZES = st.dictionaries(st.sampled_from("ABCDE"), st.integers(1, 40), min_size=1)
FRACTIONS = st.floats(0.05, 0.95)
SEEDS = st.integers(0, 2**31)


def case(hospital: str, patient: str, study: str = "1") -> Case:
    """Return a record; its voxels are nowhere."""
    return Case(
        case_id=f"{patient}-{study}",
        patient=Patient(patient_id=patient, hospital=hospital),
        shape=(2, 2, 2),
        affine=AFFINE,
        sequences=MappingProxyType({}),
        mask_sha256=None,
        source="test",
    )


def cases_of(sizes: dict[str, int]) -> list[Case]:
    """Return one case for each of so many patients a hospital."""
    return [case(h, f"{h}{n}") for h, size in sizes.items() for n in range(size)]


@given(SIZES, FRACTIONS, SEEDS, st.randoms(use_true_random=False))
def test_split_does_not_depend_on_order(
    sizes: dict[str, int], fraction: float, seed: int, shuffle: random.Random
) -> None:
    """Equal patients and seed give an equal split, whatever order files come in."""
    cases = cases_of(sizes)
    first = split_patients(cases, test_fraction=fraction, seed=seed)
    shuffle.shuffle(cases)
    assert split_patients(cases, test_fraction=fraction, seed=seed) == first


@given(SIZES, FRACTIONS, SEEDS)
def test_every_patient_is_in_exactly_one_part_of_its_hospital(
    sizes: dict[str, int], fraction: float, seed: int
) -> None:
    """No patient is lost, doubled or moved to another hospital."""
    split = split_patients(cases_of(sizes), test_fraction=fraction, seed=seed)
    for hospital, size in sizes.items():
        together = [*split.train[hospital], *split.test[hospital]]
        assert sorted(together) == sorted(f"{hospital}{n}" for n in range(size))
    assert set(split.hospitals) == set(sizes)


@given(SIZES, FRACTIONS, SEEDS)
def test_each_hospital_gives_its_share_of_test_patients(
    sizes: dict[str, int], fraction: float, seed: int
) -> None:
    """Test patients are round(n * fraction) per hospital, and both parts are used from n = 2."""
    split = split_patients(cases_of(sizes), test_fraction=fraction, seed=seed)
    for hospital, size in sizes.items():
        tests = len(split.test[hospital])
        if size == 1:
            assert tests == 0
        else:
            assert 1 <= tests <= size - 1
            assert tests == round(size * fraction) or tests in {1, size - 1}


@given(SIZES, FRACTIONS, SEEDS)
def test_split_survives_json(sizes: dict[str, int], fraction: float, seed: int) -> None:
    """What is written to splits.json is read back the same."""
    split = split_patients(cases_of(sizes), test_fraction=fraction, seed=seed)
    assert Split.from_json(split.to_json()) == split


def test_split_is_the_same_on_every_platform() -> None:
    """Places follow from SHA-256 of seed/hospital/patient, smallest first into the test part.

    Derived by hand: `printf '0/A/A0' | sha256sum` begins e478, A1's 2b09, A2's ce1d.
    """
    split = split_patients(cases_of({"A": 3}), test_fraction=1 / 3, seed=0)
    assert dict(split.test) == {"A": ("A1",)}
    assert dict(split.train) == {"A": ("A0", "A2")}


def test_another_seed_gives_another_split() -> None:
    """The seed matters."""
    cases = cases_of({"A": 30})
    found = {split_patients(cases, test_fraction=0.5, seed=seed).test["A"] for seed in range(5)}
    assert len(found) == 5


def test_all_cases_of_a_patient_stay_together() -> None:
    """The patient, not the case, is the unit of a split."""
    cases = [case("A", f"p{n}", study) for n in range(6) for study in "12"]
    split = split_patients(cases, test_fraction=0.5, seed=1)
    assert len(split.train["A"]) == len(split.test["A"]) == 3


def test_stores_are_split_like_their_cases(tiny_stores: dict[str, CaseStore]) -> None:
    """Stores may be given instead of cases."""
    stores = list(tiny_stores.values())
    cases = [item for store in stores for item in store]
    by_store = split_patients(stores, test_fraction=0.4, seed=3)
    assert by_store == split_patients(cases, test_fraction=0.4, seed=3)


@pytest.mark.parametrize(
    ("train", "test", "what"),
    [
        ({"A": ("p",)}, {"A": ("p",)}, "both in train and in test"),
        ({"A": ("p",)}, {"B": ("p",)}, "in two hospitals"),
        ({"A": ("p",), "B": ("p",)}, {}, "in two hospitals"),
        ({}, {"A": ("p",), "B": ("p",)}, "in two hospitals"),
        ({"A": ("p", "p")}, {}, "listed twice for hospital A"),
    ],
)
def test_a_patient_twice_is_refused(
    train: dict[str, tuple[str, ...]], test: dict[str, tuple[str, ...]], what: str
) -> None:
    """A split that leaks a patient cannot exist, and the error says where."""
    with pytest.raises(DataError, match=what):
        Split(train=train, test=test)


def test_cases_of_one_patient_in_two_hospitals_are_refused() -> None:
    """One person cannot be counted as two by two hospitals."""
    cases = [case("A", "p"), case("A", "q"), case("B", "p"), case("B", "r")]
    with pytest.raises(DataError, match="in two hospitals, 'p'"):
        split_patients(cases, test_fraction=0.5, seed=0)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction: float) -> None:
    """Neither part may be empty by order."""
    with pytest.raises(ConfigError, match=r"data\.test_fraction"):
        split_patients(cases_of({"A": 3}), test_fraction=fraction, seed=0)


def test_a_hospital_without_cases_is_named(tmp_path) -> None:
    """An empty store is no silent hospital of zero patients."""
    store = CaseStore.create(tmp_path / "empty", "east")
    with pytest.raises(DataError, match="No data for hospital east"):
        split_patients([store], test_fraction=0.5, seed=0)
    with pytest.raises(DataError, match="no cases to split"):
        split_patients([], test_fraction=0.5, seed=0)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"train": {}}', '{"train": {"A": "p"}, "test": {}}', '{"train": 1, "test": 2}'],
)
def test_text_that_is_no_split_is_refused(text: str) -> None:
    """A damaged splits.json is one clear sentence, not a traceback."""
    with pytest.raises(DataError, match="A split must be JSON"):
        Split.from_json(text)


def reviewed(hospital: str, patient: str) -> Case:
    """Return a case whose reference mask comes from a review."""
    return replace(case(hospital, patient), acquisition=MappingProxyType({"reference": "review"}))


@given(st.integers(2, 20), FRACTIONS, SEEDS)
def test_reviewed_patients_train(size: int, fraction: float, seed: int) -> None:
    """No model is tested by a mask that began as a proposal; the others keep their places."""
    plain = cases_of({"A": size})
    whole = [reviewed("A", "r1"), *plain]
    split = split_patients(whole, test_fraction=fraction, seed=seed)
    assert "r1" in split.train["A"]
    assert 1 <= len(split.test["A"]) <= size


def test_none_left_to_test() -> None:
    """A hospital whose patients all were reviewed is told so."""
    with pytest.raises(DataError, match="none is left to test"):
        split_patients([reviewed("A", "1"), reviewed("A", "2")], test_fraction=0.3, seed=1)
