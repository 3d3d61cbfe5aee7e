"""Rules of DICOM pixel values: HU, SUV and the scanner's numbers, whatever the files' encoding."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from dicom_reading import grid, judged, volume_of, voxels
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from evenhand.errors import DataError
from evenhand.ingest.dicom.phantom import Study, write_series
from evenhand.ingest.dicom.pixels import unit_of
from evenhand.ingest.dicom.suv import PetFacts, suv_factor

INJECTED = datetime(2020, 2, 29, 11, 0)  # noqa: DTZ001 - DICOM times have no zone
PET = PetFacts(
    units="BQML",
    suv_type="",
    corrected=("ATTN", "DECY"),
    decay="START",
    weight_kg=80.0,
    dose_bq=4e8,
    half_life_s=3600.0,
    injected=INJECTED,
    injection_has_date=True,
    series=INJECTED + timedelta(hours=1),
    acquired=None,
)


def changed(**changes: object) -> PetFacts:
    """Facts of a good series, but for the changes."""
    return PetFacts(**{**PET.__dict__, **changes})


def test_ct_is_in_hounsfield_units(tmp_path: Path) -> None:
    """Stored value x slope + intercept, exactly."""
    stored = voxels()
    write_series(tmp_path / "s", stored, grid(), Study(), RescaleSlope="2", RescaleIntercept="-8")
    assert np.array_equal(volume_of(tmp_path / "s")[0], 2.0 * stored - 8)
    assert unit_of("CT", [-8.0]) == "HU"
    assert unit_of("MR", [0.0]) == "arbitrary"


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_pixels_are_those_that_were_written(tmp_path: Path, syntax: str) -> None:
    """Lossless compression loses nothing, negative values included."""
    stored = voxels((64, 48, 2))  # JPEG 2000 wants some size
    write_series(tmp_path / "s", stored, grid(), Study(), syntax=syntax)
    assert np.array_equal(volume_of(tmp_path / "s")[0], stored - 1024.0)


@pytest.mark.parametrize("signed", [0, 1])
def test_bits_above_those_stored_do_not_count(tmp_path: Path, signed: int) -> None:
    """Old scanners kept overlays in the upper bits of a 12-bit picture."""
    paths = write_series(tmp_path / "s", voxels((4, 4, 2)), grid(), Study(), modality="MR")
    values = np.arange(16, dtype=np.uint16) + (0xFF8 if signed else 0)
    for path in paths:
        dataset = dcmread(path)
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, signed
        dataset.PixelData = (values & 0xFFF | 0xA000).tobytes()
        dataset.save_as(path)
    found = volume_of(tmp_path / "s")[0][:, :, 0].T.ravel()
    kept = [int(value) & 0xFFF for value in values]
    wanted = [n if n < 2048 else n - 4096 for n in kept] if signed else kept
    assert found.tolist() == wanted


def test_suv_by_body_weight_by_hand() -> None:
    """One half-life after 400 MBq, 80 kg: 80,000 g / 200e6 Bq = 0.0004 per Bq/ml."""
    assert suv_factor(PET, None) == pytest.approx(4e-4, rel=1e-12)
    assert suv_factor(changed(decay="ADMIN"), None) == pytest.approx(2e-4, rel=1e-12)
    assert suv_factor(changed(units="GML"), None) == 1.0


def test_suv_counts_from_the_first_acquisition_if_the_series_is_newer() -> None:
    """A series that was made anew later has a later time; decay is corrected to the scan."""
    later = changed(series=INJECTED + timedelta(hours=9))
    assert suv_factor(later, INJECTED + timedelta(hours=1)) == pytest.approx(4e-4, rel=1e-12)


def test_an_injection_before_midnight_is_the_day_before() -> None:
    """A time without a date is never in the future of the scan."""
    scan = INJECTED.replace(hour=0, minute=30)
    facts = changed(injected=scan.replace(hour=23), injection_has_date=False, series=scan)
    assert suv_factor(facts, None) == pytest.approx(4e-4, rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"weight_kg": None}, "weight"),
        ({"dose_bq": 0.0}, "dose"),
        ({"half_life_s": None}, "half-life"),
        ({"units": "CNTS"}, "neither Bq/ml"),
        ({"units": "GML", "suv_type": "LBM"}, "neither Bq/ml"),
        ({"corrected": ("ATTN",)}, "not corrected"),
        ({"decay": "NONE"}, "what decay"),
        ({"injected": None}, "time of injection"),
        ({"injected": INJECTED + timedelta(hours=5)}, "do not fit"),
    ],
)
def test_suv_is_never_guessed(changes: dict[str, object], why: str) -> None:
    """What the factor needs and the header lacks refuses the series."""
    with pytest.raises(DataError, match=why):
        suv_factor(changed(**changes), None)


def test_a_pet_series_comes_out_in_suv(tmp_path: Path) -> None:
    """From files: a slope for each slice, then the factor of the series."""
    drug = Dataset()
    drug.RadionuclideTotalDose, drug.RadionuclideHalfLife = "400000000", "3600"
    drug.RadiopharmaceuticalStartDateTime = "20200229110000"
    stored = np.abs(voxels())
    facts = {"Units": "BQML", "DecayCorrection": "START", "CorrectedImage": ["ATTN", "DECY"]}
    write_series(
        tmp_path / "s",
        stored,
        grid(),
        Study(),
        modality="PT",
        PatientWeight="80",
        RescaleSlope="2.5",
        RescaleIntercept="0",
        RadiopharmaceuticalInformationSequence=Sequence([drug]),
        **facts,
    )
    assert np.allclose(volume_of(tmp_path / "s")[0], stored * 2.5 * 4e-4, rtol=1e-6)


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"BurnedInAnnotation": "YES"}, "showing text"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "in colour"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "picture of a screen"),
        ({"PatientID": ""}, "which patient"),
        ({"Modality": "US"}, "often shows names"),
        ({"Modality": "US", "BurnedInAnnotation": "NO"}, "not one that makes volumes"),
        ({"ImagePositionPatient": None}, "where it lies"),
    ],
)
def test_what_is_no_measured_volume_is_refused(
    tmp_path: Path, attributes: dict[str, object], why: str
) -> None:
    """Screens, colours, text in pixels and pictures without a place do not come in."""
    write_series(tmp_path / "s", voxels((4, 4, 3)), grid(), Study(), **attributes)
    assert why in judged(tmp_path / "s")[0].problem


def test_pixels_that_end_early_are_refused(tmp_path: Path) -> None:
    """Half a picture is no picture, and the message names no file."""
    paths = write_series(tmp_path / "s", voxels(), grid(), Study())
    paths[2].write_bytes(paths[2].read_bytes()[:-50])
    with pytest.raises(DataError, match="cannot be decoded") as refusal:
        volume_of(tmp_path / "s")
    assert paths[2].name not in str(refusal.value)
