"""De-identified DICOM: no identifier is left, and the image is the one that came in."""

import io
from collections import Counter
from datetime import date

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from evenhand.errors import DataError
from evenhand.ingest.deid import HospitalKey, Pseudonymiser
from evenhand.ingest.deid.dicom import Deidentifier, quiet_pydicom
from evenhand.ingest.deid.planted import STRIPES, plant
from evenhand.ingest.deid.profile import Option, profile_rows
from evenhand.ingest.deid.scanner import Scanner

NAMES = Pseudonymiser(HospitalKey(bytes(range(32))))
BASIC = Deidentifier(NAMES, frozenset())
DEFAULT = Deidentifier(NAMES)


def through_a_file(dataset):
    """What a reader gets who has only the file; and the file's bytes."""
    buffer = io.BytesIO()
    with quiet_pydicom():
        dataset.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    return dcmread(io.BytesIO(content)), content


def small(**attributes):
    """A minimal object of patient HN12345."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, "1.2.3.4"
    dataset.PatientID, dataset.PatientName = "HN12345", "Featherstone^Ann"
    with quiet_pydicom():  # it would warn of values that break the rules, as real ones do
        for name, value in attributes.items():
            setattr(dataset, name, value)
    return dataset


class TestPlanted:
    """The scanner knows what was planted and finds none of it."""

    @pytest.mark.parametrize("who", [BASIC, DEFAULT], ids=["basic", "default"])
    def test_nothing_planted_is_left_in_any_row_of_the_table(self, tmp_path, who):
        """Objects that together carry every row, five character sets: bytes and texts are clean."""
        seen, caught = Counter(), 0
        for number in range(50 if who is DEFAULT else STRIPES):
            made = plant(number)
            seen.update(made.rows)
            path = tmp_path / f"{number}.dcm"
            scanner = Scanner(made.identifiers)
            path.write_bytes(through_a_file(made.dataset)[1])
            assert list(scanner.in_file(path, tmp_path)), "the scanner sees what was planted"
            cleaned = who.clean(dcmread(path))
            path.write_bytes(through_a_file(cleaned.dataset)[1])
            assert list(scanner.in_file(path, tmp_path)) == []
            caught += cleaned.caught
        listed = {tag for tag in profile_rows() if not tag.startswith(("0000", "0002", "0004"))}
        by_hand = {"00080018", "00100010", "00100020", "0020000d", "0020000e"}
        groups = {"ggggeeee", "50xxxxxx", "60xx4000", "fffafffa", "fffcfffc"}
        assert listed - set(seen) == by_hand | groups
        assert caught, "values outside the table that held an identifier were found"


class TestImage:
    """What training needs is untouched."""

    def test_pixels_and_geometry_stay(self):
        """A real CT slice: pixel bytes, position, orientation, spacing, rescaling."""
        before = dcmread(get_testdata_file("CT_small.dcm"))
        after, _ = through_a_file(DEFAULT.clean(dcmread(get_testdata_file("CT_small.dcm"))).dataset)
        assert after.PixelData == before.PixelData
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            assert after[name].value == before[name].value
        for name in ("RescaleSlope", "RescaleIntercept", "SOPClassUID", "Modality", "Rows"):
            assert after[name].value == before[name].value
        assert after.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID

    def test_compressed_pixels_stay_compressed(self):
        """A JPEG 2000 object keeps its bytes."""
        path = get_testdata_file("JPEG2000.dcm")
        before = dcmread(path)
        before_pixels = before.PixelData
        before.PatientID = before.PatientID or "HN12345"
        after, _ = through_a_file(DEFAULT.clean(before).dataset)
        assert after.PixelData == before_pixels
        assert after.file_meta.TransferSyntaxUID.is_compressed


class TestDates:
    """Dates move together, times stay."""

    def test_all_dates_of_a_patient_move_by_one_number_of_days(self):
        """DA and DT, at the top and nested; times and fractions stay, the time zone goes."""
        item = Dataset()
        item.StudyDate = "20200110"
        made = DEFAULT.clean(
            small(
                StudyDate="20200101",
                StudyTime="101112.5",
                AcquisitionDateTime="20200105101112.123456+0130",
                ReferencedImageSequence=[item],
            )
        ).dataset
        days = NAMES.day_offset("HN12345")
        assert made.StudyDate == NAMES.shift("HN12345", date(2020, 1, 1)).strftime("%Y%m%d")
        moved = NAMES.shift("HN12345", date(2020, 1, 5)).strftime("%Y%m%d")
        assert made.AcquisitionDateTime == f"{moved}101112.123456"
        nested = made.ReferencedImageSequence[0].StudyDate
        assert date.fromisoformat(nested).toordinal() == date(2020, 1, 10).toordinal() + days
        assert made.StudyTime == "101112.5"
        assert made.LongitudinalTemporalInformationModified == "MODIFIED"

    @pytest.mark.parametrize("text", ["2020", "Featherstone", "20209901", "20200101 Ann"])
    def test_what_is_no_date_goes(self, text):
        """A date attribute that holds something else does not keep it."""
        made = DEFAULT.clean(small(StudyDate=text)).dataset
        assert made.StudyDate in ("", NAMES.shift("HN12345", date(2020, 1, 1)).strftime("%Y%m%d"))

    def test_without_the_option_no_date_is_left(self):
        """The Basic Profile alone removes them."""
        made = BASIC.clean(small(StudyDate="20200101", SeriesDate="20200101")).dataset
        assert made.StudyDate == ""
        assert made.SeriesDate == "19000101"
        assert made.LongitudinalTemporalInformationModified == "REMOVED"


class TestUids:
    """Objects still refer to each other, and to nothing outside."""

    def test_a_reference_still_meets_its_object(self):
        """The instance UID and a reference to it become the same new UID, in the file meta too."""
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, "1.2.3.4"
        made, _ = through_a_file(_with_meta(small(ReferencedImageSequence=[item])))
        assert made.SOPInstanceUID == made.ReferencedImageSequence[0].ReferencedSOPInstanceUID
        assert made.SOPInstanceUID == made.file_meta.MediaStorageSOPInstanceUID
        assert made.SOPInstanceUID == NAMES.uid("1.2.3.4")
        assert made.ReferencedImageSequence[0].ReferencedSOPClassUID == CTImageStorage

    def test_uids_that_dicom_defines_stay(self):
        """The well-known Talairach frame of reference is no identity."""
        known = "1.2.840.10008.1.4.1.1"
        assert DEFAULT.clean(small(FrameOfReferenceUID=known)).dataset.FrameOfReferenceUID == known


def _with_meta(dataset):
    return DEFAULT.clean(dataset).dataset


class TestPatient:
    """What the audit needs stays, coarsened where it is rare."""

    @pytest.mark.parametrize(
        ("age", "kept"), [("067Y", "067Y"), ("093Y", "090Y"), ("090Y", "090Y"), ("011M", "011M")]
    )
    def test_the_oldest_are_one_group(self, age, kept):
        """An age of 90 or more could be known in a town."""
        assert DEFAULT.clean(small(PatientAge=age)).dataset.PatientAge == kept

    def test_an_age_that_is_none_goes(self):
        """Free text in the age does not pass as one."""
        assert DEFAULT.clean(small(PatientAge="Ann")).dataset.PatientAge == ""

    def test_characteristics_stay_only_under_their_option(self):
        """Sex and weight."""
        kept = DEFAULT.clean(small(PatientSex="F", PatientWeight="61")).dataset
        assert (kept.PatientSex, kept.PatientWeight) == ("F", 61)
        gone = BASIC.clean(small(PatientSex="F", PatientWeight="61")).dataset
        assert gone.PatientSex == ""
        assert "PatientWeight" not in gone

    def test_the_patient_has_the_pseudonym_and_nothing_else(self):
        """Name and ID are the pseudonym; the birth date is empty."""
        made = DEFAULT.clean(small(PatientBirthDate="19700101")).dataset
        assert made.PatientID == str(made.PatientName) == NAMES.pseudonym("HN12345")
        assert made.PatientBirthDate == ""

    @pytest.mark.parametrize("missing", ["PatientID", "SOPInstanceUID", "SOPClassUID"])
    def test_an_object_of_nobody_is_refused_without_its_values(self, missing):
        """The error says what is missing and names nobody."""
        dataset = small()
        del dataset[missing]
        with pytest.raises(DataError) as caught:
            DEFAULT.clean(dataset)
        assert "Featherstone" not in str(caught.value)


class TestBeyondTheTable:
    """Stricter than the standard, where people write things into the wrong place."""

    def test_a_name_in_an_unlisted_attribute_is_caught(self):
        """The patient's own name is found in a text of which the table does not speak."""
        cleaned = DEFAULT.clean(small(ManufacturerModelName="gift of Ms FEATHERSTONE"))
        assert cleaned.dataset.ManufacturerModelName == "REMOVED"
        assert cleaned.caught == 1

    def test_other_text_is_left_alone(self):
        """A model's name that holds no identifier stays; parts of words do not count."""
        cleaned = DEFAULT.clean(small(ManufacturerModelName="Annular Array 3000"))
        assert cleaned.dataset.ManufacturerModelName == "Annular Array 3000"
        assert cleaned.caught == 0

    def test_unknown_public_and_private_attributes_go(self):
        """What no dictionary knows is removed, and creators of emptied blocks too."""
        dataset = small()
        dataset.add_new(0x00180001, "LO", "x")
        dataset.private_block(0x0011, "ACME", create=True).add_new(1, "LO", "x")
        made = DEFAULT.clean(dataset).dataset
        assert 0x00180001 not in made
        assert not [element for element in made if element.tag.is_private]

    def test_safe_private_attributes_stay_only_under_their_option(self):
        """A diffusion weighting is needed; the rest of its block is not."""

        def siemens():
            dataset = small()
            block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
            block.add_new(0x0C, "IS", "1000")
            block.add_new(0x08, "LO", "x")
            return dataset

        kept = DEFAULT.clean(siemens()).dataset
        assert kept[0x0019100C].value == 1000
        assert 0x00191008 not in kept
        assert not [e for e in BASIC.clean(siemens()).dataset if e.tag.is_private]

    def test_nesting_beyond_reason_is_refused(self):
        """A hostile file does not exhaust the stack."""
        dataset = inner = small()
        for _ in range(40):
            item = Dataset()
            inner.PurposeOfReferenceCodeSequence = [item]
            inner = item
        with pytest.raises(DataError, match="nested"):
            DEFAULT.clean(dataset)


class TestDeclaration:
    """The object says what was done to it."""

    def test_codes_name_the_profile_and_the_options(self):
        """113100 always; 113107, 113108 and 113111 for the default options."""
        made = DEFAULT.clean(small()).dataset
        codes = [item.CodeValue for item in made.DeidentificationMethodCodeSequence]
        assert codes == ["113100", "113107", "113108", "113111"]
        assert made.PatientIdentityRemoved == "YES"
        assert made.DeidentificationMethod[0] == "DICOM PS3.15 2026c, Table E.1-1"
        assert "BurnedInAnnotation" not in made

    def test_pixel_claims_are_made_only_when_asked(self):
        """113101 and 113102 are claims about pixels."""
        options = frozenset({Option.CLEAN_PIXELS, Option.CLEAN_FEATURES})
        made = Deidentifier(NAMES, options).clean(small()).dataset
        codes = [item.CodeValue for item in made.DeidentificationMethodCodeSequence]
        assert codes == ["113100", "113101", "113102"]
        assert (made.BurnedInAnnotation, made.RecognizableVisualFeatures) == ("NO", "NO")

    def test_equal_input_gives_equal_bytes(self):
        """A second run writes the same file."""
        once, again = (through_a_file(DEFAULT.clean(plant(3).dataset).dataset)[1] for _ in "ab")
        assert once == again
        assert once[:128] == bytes(128)

    def test_planted_pixels_are_not_touched(self):
        """Cleaning headers is not cleaning pixels."""
        made, _ = through_a_file(DEFAULT.clean(plant(0).dataset).dataset)
        assert np.array_equal(made.pixel_array.ravel(), np.arange(64))
