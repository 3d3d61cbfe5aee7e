"""The same patient twice: by a perceptual hash that leaves the hospital only as keyed digests.

The 256 bits of a case (`coarse.fingerprint_bits`) are cut into 16 bands of 16
bits. Each band becomes an HMAC-SHA256 under a key that the hospitals of a study
share and the coordinator does not have. Two cases of which three bands or more
are equal are near-duplicates: a copy that was resampled or rescaled keeps about
half of its bands, two people seldom have more than one in common. Without the key a band
says nothing; with it, its 16 bits could be found by trying, and they are signs
of frequencies from which no picture comes back.
"""

import hmac
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evenhand.errors import DataError
from evenhand.ingest.deid import HospitalKey
from evenhand.ingest.quality.coarse import PRINT_BITS

__all__ = ["BANDS", "ENOUGH", "Prints", "band_digests", "compare_prints", "near_duplicates"]

BANDS = 16
"""Bands of a fingerprint."""
ENOUGH = 3
"""Equal bands from which on two cases count as near-duplicates."""

_DIGEST_HEX = 20
_SCHEMA = "evenhand-prints 1"


def band_digests(bits: NDArray[np.bool_], key: HospitalKey) -> tuple[str, ...]:
    """Return one keyed digest a band, in order."""
    packed = np.packbits(bits.reshape(BANDS, PRINT_BITS // BANDS), axis=1)
    return tuple(
        hmac.digest(key.secret, b"print %d " % number + band.tobytes(), sha256).hex()[:_DIGEST_HEX]
        for number, band in enumerate(packed)
    )


def near_duplicates(
    bands: Mapping[str, Sequence[str]], patient_of: Mapping[str, str]
) -> list[tuple[str, str, int]]:
    """Pairs of cases of different patients that share `ENOUGH` bands, and how many they share.

    Args:
        bands: of each case; equal strings are equal bands.
        patient_of: whose a case is.
    """
    holders: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    for case, own in bands.items():
        for number, band in enumerate(own):
            holders[number, band].append(case)
    shared: defaultdict[tuple[str, str], int] = defaultdict(int)
    for cases in holders.values():
        for one, other in combinations(sorted(cases), 2):
            if patient_of[one] != patient_of[other]:
                shared[one, other] += 1
    return sorted((one, other, n) for (one, other), n in shared.items() if n >= ENOUGH)


@dataclass(frozen=True)
class Prints:
    """What a hospital may send: digests by the number that a case has in this file.

    Numbers are in the order of the digests, so they say nothing about the
    order in the store; the hospital itself finds a case again with its key.
    """

    hospital: str
    bands: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, hospital: str, bits: Iterable[NDArray[np.bool_]], key: HospitalKey) -> "Prints":
        """Make the digests of a hospital's cases."""
        return cls(hospital, tuple(sorted(band_digests(each, key) for each in bits)))

    def write(self, path: Path) -> None:
        """Write them as JSON."""
        record = {"schema": _SCHEMA, "hospital": self.hospital, "bands": self.bands}
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Prints":
        """Read what `write` wrote.

        Raises:
            DataError: it is no such file.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            bands = tuple(tuple(str(band) for band in case) for case in raw["bands"])
            found = cls(str(raw["hospital"]), bands)
            fits = raw["schema"] == _SCHEMA and all(len(case) == BANDS for case in bands)
        except (OSError, ValueError, KeyError, TypeError):
            fits = False
        if not fits:
            raise DataError(
                f"'{path}' is not a file of prints; `evenhand quality STORE --prints FILE --key "
                "STUDY.KEY` writes one."
            )
        return found


def compare_prints(files: Sequence[Prints]) -> list[tuple[str, int, str, int, int]]:
    """Near-duplicates between hospitals: (hospital, number, hospital, number, equal bands)."""
    where = {
        f"{each.hospital}\0{number}": (each.hospital, number)
        for each in files
        for number in range(1, len(each.bands) + 1)
    }
    bands = {
        f"{each.hospital}\0{number}": own
        for each in files
        for number, own in enumerate(each.bands, start=1)
    }
    hospitals = {name: place[0] for name, place in where.items()}
    return [(*where[one], *where[other], n) for one, other, n in near_duplicates(bands, hospitals)]
