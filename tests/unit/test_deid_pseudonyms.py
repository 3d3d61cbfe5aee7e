"""Keys and pseudonyms: stable, keyed, unlinkable, and never in a log."""

import re
import stat
import unicodedata
import uuid
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.cases.records import Patient
from evenhand.errors import DataError, UsageError
from evenhand.ingest.deid import HospitalKey, Pseudonymiser
from evenhand.ingest.deid.pseudonyms import LONGEST_SHIFT_DAYS

OURS = Pseudonymiser(HospitalKey(bytes(range(32))))
THEIRS = Pseudonymiser(HospitalKey(bytes(32)))

identifiers = st.text(min_size=1, max_size=40).filter(lambda text: text.strip(" \0\t\r\n"))


class TestKeyFile:
    """The secret is the hospital's alone, and is never lost by accident."""

    def test_new_key_is_read_back_and_only_its_owner_may(self, tmp_path):
        """What was written is what is read; the file's mode is 0600."""
        path = tmp_path / "keys" / "hospital.key"
        made = HospitalKey.create(path)
        assert HospitalKey.read(path) == made
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_keys_differ(self):
        """Two hospitals do not draw the same key."""
        assert HospitalKey.generate() != HospitalKey.generate()

    def test_a_key_is_never_overwritten(self, tmp_path):
        """A second --new-key would part patients from their pseudonyms for ever."""
        path = tmp_path / "hospital.key"
        HospitalKey.create(path)
        before = path.read_bytes()
        with pytest.raises(UsageError, match="never overwritten"):
            HospitalKey.create(path)
        assert path.read_bytes() == before

    def test_a_key_that_others_can_read_is_refused(self, tmp_path):
        """A secret that the whole machine can read is none."""
        path = tmp_path / "hospital.key"
        HospitalKey.create(path)
        path.chmod(0o640)
        with pytest.raises(UsageError, match="chmod 600"):
            HospitalKey.read(path)

    @pytest.mark.parametrize(
        "text", ["", "evenhand-deid-key 1\n", "evenhand-deid-key 1\n" + "zz" * 32, "00" * 32]
    )
    def test_what_is_no_key_is_refused(self, tmp_path, text):
        """A truncated or foreign file gives an error, not a weak key."""
        path = tmp_path / "hospital.key"
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(UsageError, match="not a key file"):
            HospitalKey.read(path)

    def test_missing_key_names_the_way_out(self, tmp_path):
        """Whoever has no key is told how to make one."""
        with pytest.raises(UsageError, match="--new-key"):
            HospitalKey.read(tmp_path / "none.key")

    def test_the_secret_is_not_printed(self):
        """Neither repr nor the fingerprint holds the key."""
        key = HospitalKey(bytes(range(32)))
        assert repr(key) == "HospitalKey()"
        assert key.fingerprint not in key.secret.hex()
        assert re.fullmatch(r"[0-9a-f]{16}", key.fingerprint)


class TestPseudonyms:
    """One patient, one name; nobody without the key can tell whose."""

    @given(identifiers)
    def test_a_pseudonym_is_stable_keyed_and_a_legal_name(self, patient_id):
        """Equal keys agree, other keys do not, and a store accepts the name."""
        name = OURS.pseudonym(patient_id)
        assert name == Pseudonymiser(HospitalKey(bytes(range(32)))).pseudonym(patient_id)
        assert name != THEIRS.pseudonym(patient_id)
        assert Patient(patient_id=name, hospital="north").patient_id == name

    def test_padding_is_not_part_of_an_identifier(self):
        """'12345' and '12345 ' are one patient, '12345' and '12346' are two."""
        assert OURS.pseudonym("12345 ") == OURS.pseudonym(" 12345\0") == OURS.pseudonym("12345")
        assert OURS.pseudonym("12345") != OURS.pseudonym("12346")

    def test_known_answer(self):
        """The rule does not change between versions: patients would be split in two."""
        assert OURS.pseudonym("12345") == "psg6x24p3fz2v4sld"
        assert OURS.day_offset("12345") == -607
        assert OURS.uid("1.2.3") == "2.25.323208961630152450876443539203389659764"

    @pytest.mark.parametrize("ask", [OURS.pseudonym, OURS.day_offset, OURS.uid])
    @pytest.mark.parametrize("empty", ["", "  ", "\0"])
    def test_nobody_is_not_somebody(self, ask, empty):
        """All patients without an identifier must not become one patient."""
        with pytest.raises(DataError, match="identifier is empty"):
            ask(empty)


class TestDates:
    """Dates move, intervals stay."""

    @given(identifiers, st.dates(date(1900, 1, 1)), st.integers(0, 20000))
    def test_intervals_stay_and_the_shift_is_within_bounds(self, patient_id, first, days):
        """Two dates of a patient are as far apart after as before; none stays as it is."""
        second = date.fromordinal(min(first.toordinal() + days, date.max.toordinal()))
        moved = OURS.shift(patient_id, first)
        assert OURS.shift(patient_id, second) - moved == second - first
        assert 1 <= (first - moved).days <= LONGEST_SHIFT_DAYS

    def test_patients_move_by_different_days(self):
        """One known date must not reveal the others': shifts spread over the whole range."""
        offsets = [-OURS.day_offset(str(number)) for number in range(2000)]
        assert len(set(offsets)) > 1400
        assert abs(sum(offsets) / len(offsets) - LONGEST_SHIFT_DAYS / 2) < 100

    def test_the_calendars_first_days_do_not_break_it(self):
        """A date that cannot move further back becomes the first day, not an error."""
        assert OURS.shift("12345", date.min + timedelta(days=1)) == date.min


class TestUids:
    """References between objects hold, and lead to nobody."""

    @given(identifiers, identifiers)
    def test_a_uid_is_valid_and_distinct(self, one, other):
        """2.25.<a UUID>, at most 64 characters, equal for equal UIDs only."""
        new = OURS.uid(one)
        number = int(new.removeprefix("2.25."))
        assert uuid.UUID(int=number).version == 8
        assert len(new) <= 44
        assert (OURS.uid(other) == new) == (
            unicodedata.normalize("NFC", one).strip(" \0\t\r\n")
            == unicodedata.normalize("NFC", other).strip(" \0\t\r\n")
        )

    def test_uids_of_two_hospitals_do_not_meet(self):
        """The same UID under another key is another one."""
        assert OURS.uid("1.2.3") != THEIRS.uid("1.2.3")
