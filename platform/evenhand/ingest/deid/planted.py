"""Synthetic DICOM objects that are full of identifiers, to test de-identification with.

Object number `n` carries the rows `n % STRIPES`, `n % STRIPES + STRIPES`, ... of
the profile's table, so that STRIPES objects in a row plant something in every
attribute. Each object also has private attributes, nested sequences, free text
in attributes of which the table does not speak, and names in one of five
character sets. All persons are invented.
"""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from evenhand.ingest.deid.dicom import quiet_pydicom
from evenhand.ingest.deid.profile import Row, profile_rows

__all__ = ["STRIPES", "Planted", "plant"]

STRIPES = 10
"""So many objects in a row plant something in every attribute of the table."""

_SIDE = 8
_PEOPLE = (
    ("ISO_IR 100", "Wüstenhagen^Jürgen", ("Wüstenhagen", "Jürgen")),
    ("ISO_IR 192", "Żółkiewska^Bożena", ("Żółkiewska", "Bożena")),
    ("ISO_IR 144", "Ковалевская^Людмила", ("Ковалевская", "Людмила")),
    (
        ["", "ISO 2022 IR 87"],
        "Yamashita^Tarou=山下陽^太郎丸=やました^たろう",
        ("Yamashita", "Tarou", "山下陽", "太郎丸", "やました"),
    ),
    ("", "Featherstonehaugh^Cholmondeley", ("Featherstonehaugh", "Cholmondeley")),
)
_SPARED = frozenset({"00080018", "00100020", "00100010", "0020000d", "0020000e", "00020003"})
"""Planted by hand in every object."""
_MEASURED = {"AS": "067Y", "DS": "67.5", "US": 4, "TM": "101112", "IS": "1"}
"""Values that identify nobody, for attributes that an option retains."""


@dataclass(frozen=True)
class Planted:
    """An object and what was planted in it.

    Attributes:
        dataset: with file meta information, ready to be written.
        identifiers: texts of which none may be found afterwards.
        rows: tags of the table's rows that the object carries.
        file_name: which names the patient, as exported files often do.
    """

    dataset: Dataset
    identifiers: tuple[str, ...]
    rows: tuple[str, ...]
    file_name: str


def plant(number: int, *, seed: int = 0) -> Planted:
    """Make object `number`; equal arguments make equal objects."""
    random_ = random.Random(f"{seed}-{number}")
    charset, name, words = _PEOPLE[number % len(_PEOPLE)]
    digits = f"{random_.randrange(10**7, 10**8)}"
    person = _Person(
        charset=charset,
        name=name,
        word=words[0],
        number=f"HN{digits}",
        digits=digits,
        date=f"20{random_.randrange(12, 24)}{random_.randrange(1, 13):02d}"
        f"{random_.randrange(1, 29):02d}",
    )
    rows = list(profile_rows().values())[number % STRIPES :: STRIPES]
    with quiet_pydicom():
        dataset, used = _object(person, rows)
    identifiers = (name, *words, person.number, person.digits, person.date, person.uid)
    return Planted(dataset, identifiers, tuple(used), f"{person.word}_{person.number}.dcm")


@dataclass(frozen=True)
class _Person:
    charset: Any
    name: str
    word: str
    number: str
    digits: str
    date: str

    @property
    def uid(self) -> str:
        return f"1.2.826.0.1.3680043.8.498.{self.digits}"

    def value(self, vr: str, *, retained: bool) -> Any:
        """Something that identifies the person, in a form that the VR can carry."""
        if retained and vr in _MEASURED:
            return _MEASURED[vr]
        plain = f"{self.number} {self.digits}"
        short = {"AE": self.number, "CS": self.number, "SH": self.number, "UI": self.uid}
        dated = {"DA": self.date, "DT": f"{self.date}101112+0130", "TM": "101112", "AS": "067Y"}
        odd = {
            "DS": self.digits,
            "IS": self.digits,
            "PN": self.name,
            "UR": f"https://hospital.example/{self.number}",
        }
        numbers = {"FD": float(self.digits), "FL": 1.5, "SL": 1, "SS": 1, "UL": 1, "US": 1}
        for values in (short, dated, odd, numbers):
            if vr in values:
                return values[vr]
        if vr in ("OB", "OW", "UN"):
            return plain.encode().ljust(24)
        return f"{self.word}, {plain}"

    def item(self) -> Dataset:
        """A nested object that names the person three levels deep."""
        inner, middle = Dataset(), Dataset()
        inner.PatientName, inner.PatientComments = self.name, f"call {self.word}"
        inner.ReferencedSOPInstanceUID, inner.StudyDate = self.uid, self.date
        middle.add_new(0x0040A043, "SQ", [inner])  # Concept Name Code Sequence: not in the table
        middle.CodeMeaning = f"{self.word} {self.number}"
        return middle


def _object(person: _Person, rows: list[Row]) -> tuple[Dataset, list[str]]:
    dataset = Dataset()
    dataset.SpecificCharacterSet = person.charset
    used = []
    for row in rows:
        tags = [0x50000010, 0x60003000, 0x60004000]
        if row.tag in _SPARED or row.tag.startswith(("0000", "0004", "fff")):
            continue
        if row.tag[:4] in ("gggg", "50xx", "60xx"):
            if row.tag == "60xx3000":
                dataset.add_new(tags[1], "OW", person.value("OW", retained=False))
                dataset.add_new(0x60000022, "LO", person.word)
                used.append(row.tag)
            continue
        retained = bool(row.options.get("retain_patient")) or row.vr == "TM"
        value = [person.item()] if row.vr == "SQ" else person.value(row.vr, retained=retained)
        if row.tag.startswith("0002"):
            continue
        dataset.add_new(int(row.tag, 16), row.vr, value)
        used.append(row.tag)
    _essentials(dataset, person)
    _private(dataset, person)
    return dataset, used


def _essentials(dataset: Dataset, person: _Person) -> None:
    dataset.PatientName, dataset.PatientID = person.name, person.number
    dataset.PatientBirthDate = person.date
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, person.uid
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{person.uid}.1", f"{person.uid}.2"
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    # Attributes of which the table does not speak, with what people put there.
    dataset.ManufacturerModelName = f"donated by {person.word}"
    dataset.PositionReferenceIndicator = f"{person.word} {person.number}"
    dataset.ConvolutionKernel = person.number
    dataset.RouteOfAdmissions = person.word
    dataset.EvaluatorName = person.name
    dataset.PurposeOfReferenceCodeSequence = [person.item()]
    dataset.ImagePositionPatient, dataset.PixelSpacing = [1.5, -2.25, 3.0], [0.7, 0.7]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.Rows = dataset.Columns = _SIDE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = np.arange(_SIDE * _SIDE, dtype="<u2").tobytes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, person.uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.SourceApplicationEntityTitle = person.number
    meta.PrivateInformationCreatorUID = "1.2.3"
    meta.PrivateInformation = person.number.encode().ljust(12)
    dataset.file_meta, dataset.preamble = meta, person.number.encode().ljust(128)


def _private(dataset: Dataset, person: _Person) -> None:
    block = dataset.private_block(0x0009, f"OWNER {person.number}", create=True)
    block.add_new(1, "LO", person.name)
    block.add_new(2, "SQ", [person.item()])
    block.add_new(3, "UN", person.number.encode().ljust(12))
    safe = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    safe.add_new(0x0C, "IS", "1000")
    safe.add_new(0x0D, "CS", person.number)  # a safe attribute that is abused
    safe.add_new(0x08, "LO", person.number)  # not among the safe ones
