"""One DICOM object in, the same object without identity out.

The table of PS3.15 decides (see `evenhand.ingest.deid.profile`). Beyond it, and
stricter than the standard asks for:

- attributes that no data dictionary knows go, as private ones do;
- names of persons, long texts, addresses and application titles go even where
  the table does not list them; UIDs that DICOM did not define are replaced
  wherever they stand; unlisted dates are shifted or go;
- what is left is searched for the names and numbers of this very patient, and
  a value that holds one is replaced;
- a value that cannot be decoded goes.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom import config as pydicom_config
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_has_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from evenhand import __version__
from evenhand.errors import DataError
from evenhand.ingest.deid.profile import (
    EDITION,
    Action,
    Option,
    action_of,
    row_of,
    safe_private,
)
from evenhand.ingest.deid.pseudonyms import Pseudonymiser
from evenhand.ingest.deid.values import Identifiers, capped_age, dummy, mapped_uid, shifted

__all__ = ["DEFAULT_OPTIONS", "IMPLEMENTATION_UID", "Cleaned", "Deidentifier", "quiet_pydicom"]

DEFAULT_OPTIONS = frozenset(
    {Option.MODIFIED_DATES, Option.PATIENT_CHARACTERISTICS, Option.SAFE_PRIVATE}
)
"""What training and the audit need, and no more."""

IMPLEMENTATION_UID = "2.25.248370317461962358463937013273527183402"
"""Names Evenhand as the writer of a file."""

_UNLISTED = {
    "AE": Action.REMOVE,
    "LT": Action.REMOVE,
    "PN": Action.REMOVE,
    "ST": Action.REMOVE,
    "UN": Action.REMOVE,
    "UR": Action.REMOVE,
    "UT": Action.REMOVE,
    "SQ": Action.RECURSE,
    "UI": Action.UID,
}
"""What happens to attributes of which the table says nothing, by VR; others stay."""

_TEXT = frozenset({"AS", "CS", "DS", "IS", "LO", "SH", "UC"})
_PATIENT_ID = 0x00100020
_PATIENT_NAME = 0x00100010
_PATIENT_AGE = 0x00101010
_CHARACTER_SET = 0x00080005
_MAX_DEPTH = 32
_BAD_VALUES = (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, OverflowError)
"""What pydicom raises of a value that is none (NotImplementedError: of a VR it does not know)."""


@dataclass(frozen=True)
class Cleaned:
    """A de-identified object and what was done to it.

    Attributes:
        dataset: the new object, with clean file meta information.
        pseudonym: of its patient.
        actions: how many attributes met which action.
        caught: values that held an identifier where no rule expected one.
    """

    dataset: Dataset
    pseudonym: str
    actions: Counter[str]
    caught: int


class Deidentifier:
    """De-identifies objects of one hospital, all by the same key and options.

    Args:
        names: answers for the hospital's key.
        options: of the profile. `CLEAN_PIXELS` and `CLEAN_FEATURES` are claims about
            pixels; whoever passes them has seen to it that they are true.
    """

    def __init__(self, names: Pseudonymiser, options: frozenset[Option] = DEFAULT_OPTIONS) -> None:
        self.names = names
        self.options = options

    def clean(self, dataset: Dataset) -> Cleaned:
        """De-identify an object. The one that is passed in is changed; use what is returned.

        Raises:
            DataError: the object names no patient, or is no object of its own
                (no SOP Class or Instance UID), or is nested beyond reason.
        """
        with quiet_pydicom():
            return _Cleaning(self, dataset).run()


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom from checking values and from printing them in warnings and logs."""
    settings = pydicom_config.settings
    before = settings.reading_validation_mode, settings.writing_validation_mode
    logger = logging.getLogger("pydicom")
    level = logger.level
    settings.reading_validation_mode = settings.writing_validation_mode = pydicom_config.IGNORE
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        settings.reading_validation_mode, settings.writing_validation_mode = before


class _Cleaning:
    """The work on one object."""

    def __init__(self, owner: Deidentifier, dataset: Dataset) -> None:
        self.names = owner.names
        self.options = owner.options
        self.dataset = dataset
        self.actions: Counter[str] = Counter()
        self.caught = 0

    def run(self) -> Cleaned:
        dataset = self.dataset
        sop_class, instance = _text(dataset, "SOPClassUID"), _text(dataset, "SOPInstanceUID")
        if not sop_class or not instance:
            raise DataError("It has no SOP Class UID or no SOP Instance UID.")
        self.patient_id = _text(dataset, "PatientID")
        if not self.patient_id:
            raise DataError("It has no Patient ID, so nobody knows whose it is.")
        pseudonym = self.names.pseudonym(self.patient_id)
        self.identifiers = Identifiers(_walk(dataset, 0))
        self._walk_and_clean(dataset, depth=0)
        dataset.PatientName = dataset.PatientID = pseudonym
        self._declare(dataset)
        dataset.file_meta = self._meta(dataset)
        dataset.preamble = b"\0" * 128
        return Cleaned(dataset, pseudonym, self.actions, self.caught)

    def _walk_and_clean(self, dataset: Dataset, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise DataError(f"Its sequences are nested more than {_MAX_DEPTH} deep.")
        creators = _creators(dataset)
        self._check_character_set(dataset)
        for tag in sorted(dataset.keys()):
            element = _element(dataset, tag)
            if element is None:
                self._remove(dataset, tag)
                continue
            action = self._decide(tag, element, creators)
            self._apply(dataset, element, action, depth)
            self.actions[str(action)] += 1
        _drop_idle_creators(dataset)

    def _decide(
        self, tag: BaseTag, element: DataElement, creators: dict[tuple[int, int], str]
    ) -> Action:
        if tag.element == 0 and tag.group > 2:  # retired group lengths, wrong after any change
            return Action.REMOVE
        if tag.is_private:
            return self._decide_private(tag, element, creators)
        row = row_of(int(tag))
        if row is not None:
            return action_of(row, element.VR, self.options)
        if not dictionary_has_tag(tag):
            return Action.REMOVE
        if element.VR in ("DA", "DT"):
            return Action.SHIFT if Option.MODIFIED_DATES in self.options else Action.REMOVE
        return _UNLISTED.get(element.VR, Action.KEEP)

    def _decide_private(
        self, tag: BaseTag, element: DataElement, creators: dict[tuple[int, int], str]
    ) -> Action:
        if Option.SAFE_PRIVATE not in self.options:
            return Action.REMOVE
        if tag.is_private_creator:
            return Action.KEEP  # dropped again where nothing of its block stayed
        creator = creators.get((tag.group, tag.element >> 8), "")
        vr = safe_private().get((creator, tag.group, tag.element & 0xFF))
        return Action.KEEP if vr is not None and vr == element.VR else Action.REMOVE

    def _apply(self, dataset: Dataset, element: DataElement, action: Action, depth: int) -> None:
        tag = element.tag
        if action is Action.REMOVE:
            del dataset[tag]
        elif action is Action.EMPTY:
            element.value = element.empty_value if element.VR != "SQ" else Sequence()
        elif action is Action.DUMMY:
            element.value = dummy(element.VR)
        elif action is Action.UID:
            element.value = _each(element, lambda text: mapped_uid(text, self.names))
        elif action is Action.SHIFT:
            self._shift(dataset, element)
        elif action is Action.RECURSE and element.VR == "SQ":
            for item in element.value:
                self._walk_and_clean(item, depth + 1)
        elif action is Action.KEEP:
            self._keep(element)

    def _shift(self, dataset: Dataset, element: DataElement) -> None:
        texts = [str(each) for each in _values(element)]
        moved = [shifted(element.VR, text, self.patient_id, self.names) for text in texts]
        if all(text is not None for text in moved):
            element.value = moved if len(moved) > 1 else (moved[0] if moved else "")
        else:  # a date that is no date may be anything
            row = row_of(int(element.tag))
            fallback = action_of(row, element.VR, frozenset()) if row else Action.REMOVE
            self._apply(dataset, element, fallback, 0)

    def _keep(self, element: DataElement) -> None:
        if element.tag == _PATIENT_AGE:
            element.value = capped_age(str(element.value))
        elif element.VR == "TM":
            element.value = _each(element, lambda t: t if _is_time(t) else "")
        elif element.VR in _TEXT and element.tag.group != 0x0028:
            found = [str(each) in self.identifiers for each in _values(element)]
            if any(found):
                element.value = dummy(element.VR)
                self.caught += 1

    def _remove(self, dataset: Dataset, tag: BaseTag) -> None:
        del dataset[tag]
        self.actions[str(Action.REMOVE)] += 1

    def _check_character_set(self, dataset: Dataset) -> None:
        element = _element(dataset, BaseTag(_CHARACTER_SET))
        if element is not None and not all(
            str(each) in python_encoding for each in _values(element)
        ):
            del dataset[_CHARACTER_SET]

    def _declare(self, dataset: Dataset) -> None:
        """Write what was done, as PS3.15 E.1.1 wants (PS3.16 CID 7050)."""
        dataset.PatientIdentityRemoved = "YES"
        mark = self.names.mark(str(dataset.PatientID))  # `ingest` knows its own pseudonyms by it
        dataset.DeidentificationMethod = [EDITION, f"Evenhand {__version__}", mark]
        codes = [("113100", "Basic Application Confidentiality Profile")]
        codes += sorted((option.code, option.meaning) for option in self.options)
        dataset.DeidentificationMethodCodeSequence = [_code(*each) for each in codes]
        dates = "MODIFIED" if Option.MODIFIED_DATES in self.options else "REMOVED"
        dataset.LongitudinalTemporalInformationModified = dates
        if Option.CLEAN_PIXELS in self.options:
            dataset.BurnedInAnnotation = "NO"
        if Option.CLEAN_FEATURES in self.options:
            dataset.RecognizableVisualFeatures = "NO"

    def _meta(self, dataset: Dataset) -> FileMetaDataset:
        old = getattr(dataset, "file_meta", None)
        syntax = getattr(old, "TransferSyntaxUID", None)
        if syntax is None:
            implicit = dataset.original_encoding[0]
            syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        meta.TransferSyntaxUID = syntax
        meta.ImplementationClassUID = IMPLEMENTATION_UID
        meta.ImplementationVersionName = "EVENHAND"
        return meta


def _walk(dataset: Dataset, depth: int) -> Iterator[DataElement]:
    """All elements that can be decoded, those in sequences too."""
    if depth > _MAX_DEPTH:
        return
    for tag in list(dataset.keys()):
        element = _element(dataset, tag)
        if element is not None:
            if element.VR == "SQ":
                for item in element.value:
                    yield from _walk(item, depth + 1)
            else:
                yield element


def _element(dataset: Dataset, tag: BaseTag) -> DataElement | None:
    """An element with its value decoded; None where there is none, or it cannot be."""
    if tag not in dataset:
        return None
    try:
        return dataset[tag]
    except _BAD_VALUES:
        return None


def _creators(dataset: Dataset) -> dict[tuple[int, int], str]:
    """Who owns which private block: (group, block) to the creator's name."""
    found = {}
    for tag in list(dataset.keys()):
        if tag.is_private_creator and (element := _element(dataset, tag)) is not None:
            found[tag.group, tag.element] = str(element.value).strip(" \0")
    return found


def _drop_idle_creators(dataset: Dataset) -> None:
    used = {(tag.group, tag.element >> 8) for tag in list(dataset.keys()) if tag.is_private}
    known = {(creator, group) for creator, group, _ in safe_private()}
    for (group, block), creator in _creators(dataset).items():
        if (group, block) not in used or (creator, group) not in known:
            del dataset[group, block]


def _values(element: DataElement) -> list[Any]:
    if element.value is None or element.VM == 0:
        return []
    return list(element.value) if element.VM > 1 else [element.value]


def _each(element: DataElement, change: Any) -> Any:
    changed = [change(str(each)) for each in _values(element)]
    return changed if len(changed) > 1 else (changed[0] if changed else "")


def _is_time(text: str) -> bool:
    return all(character in "0123456789.: " for character in text)


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        return str(dataset.get(keyword) or "").strip(" \0")
    except _BAD_VALUES:
        return ""


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item
