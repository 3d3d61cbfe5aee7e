"""Names, dates and UIDs that mean the same patient to the hospital and nobody to others.

All are keyed hashes (HMAC-SHA256), so no table of who is who has to be kept:
the same key gives the same answer on another day and on another machine. They
cannot be linked across hospitals, since each has a key of its own.
"""

import base64
import unicodedata
from datetime import date, timedelta

from evenhand.errors import DataError
from evenhand.ingest.deid.keys import HospitalKey

__all__ = ["LONGEST_SHIFT_DAYS", "OLDEST_AGE_YEARS", "Pseudonymiser"]

LONGEST_SHIFT_DAYS = 3652
"""Dates move into the past by 1 to this many days (ten years), each patient by their own number."""

OLDEST_AGE_YEARS = 90
"""Ages above become this: people are so few then that the age would name them (HIPAA)."""

_PSEUDONYM_BYTES = 10
_UUID_BYTES = 16


class Pseudonymiser:
    """Answers for one hospital's key. Equal questions have equal answers, for ever.

    Args:
        key: the hospital's; see `HospitalKey.read`.
    """

    def __init__(self, key: HospitalKey) -> None:
        self._key = key

    @property
    def key_fingerprint(self) -> str:
        """Which key answers, without revealing it; 16 hex digits."""
        return self._key.fingerprint

    def pseudonym(self, patient_id: str) -> str:
        """The patient's name in the house: 'p' and 16 lower-case letters or digits.

        80 bits: among a million patients two share a name with a chance of
        about 4e-13. Fits `evenhand.cases.records.Patient.patient_id`.

        Raises:
            DataError: the identifier is empty.
        """
        digest = self._key.digest("patient", _normal(patient_id))[:_PSEUDONYM_BYTES]
        return "p" + base64.b32encode(digest).decode().lower()

    def mark(self, pseudonym: str) -> str:
        """What a file carries to say that this key gave its patient that pseudonym."""
        return f"key {self.token('mark', pseudonym)}"

    def day_offset(self, patient_id: str) -> int:
        """Days that are added to each of the patient's dates: -1 to -LONGEST_SHIFT_DAYS.

        Raises:
            DataError: the identifier is empty.
        """
        digest = self._key.digest("days", _normal(patient_id))
        return -1 - int.from_bytes(digest[:16]) % LONGEST_SHIFT_DAYS

    def shift(self, patient_id: str, day: date) -> date:
        """A date, moved by the patient's offset; intervals between dates stay.

        Dates that would leave the calendar become its first day.

        Raises:
            DataError: the identifier is empty.
        """
        try:
            return day + timedelta(days=self.day_offset(patient_id))
        except OverflowError:
            return date.min

    def uid(self, uid: str) -> str:
        """The UID that stands for another: 2.25 and a number, at most 44 characters.

        The number is a UUID (version 8: made by the application's own rule, here
        a keyed hash), as DICOM PS3.5 B.2 wants. Whether a UID must be replaced is
        the caller's question; `evenhand.ingest.deid.dicom` asks it.

        Raises:
            DataError: the UID is empty.
        """
        raw = bytearray(self._key.digest("uid", _normal(uid))[:_UUID_BYTES])
        raw[6] = raw[6] & 0x0F | 0x80
        raw[8] = raw[8] & 0x3F | 0x80
        return f"2.25.{int.from_bytes(raw)}"

    def token(self, purpose: str, value: str) -> str:
        """A keyed name for anything else, such as a file's; 16 lower-case letters or digits.

        Raises:
            DataError: the value is empty.
        """
        digest = self._key.digest(f"token:{purpose}", _normal(value))[:_PSEUDONYM_BYTES]
        return base64.b32encode(digest).decode().lower()


def _normal(text: str) -> str:
    """One spelling for each identifier: DICOM pads with spaces and NULs, which mean nothing."""
    normal = unicodedata.normalize("NFC", text).strip(" \0\t\r\n")
    if not normal:
        raise DataError(
            "An identifier is empty, so there is nothing to make a pseudonym from; give each "
            "patient an identifier in the source (in DICOM: Patient ID)."
        )
    return normal
