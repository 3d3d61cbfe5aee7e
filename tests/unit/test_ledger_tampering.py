"""Whoever changes a ledger's file is found out, with the position, and nothing is charged to it."""

import json
import shutil
import sqlite3
from contextlib import closing

import pytest

from evenhand.errors import LedgerError
from evenhand.privacy.accounting import Mechanism
from evenhand.privacy.keys import HospitalKey
from evenhand.privacy.ledger import Ledger
from evenhand.privacy.ledger_check import LedgerCopy, read_receipts, write_receipt
from evenhand.privacy.ledger_file import LEDGER_FILE

ROUND = Mechanism(sampling_rate=0.1, noise_multiplier=20.0, steps=1)


@pytest.fixture
def place(tmp_path):
    """A hospital's folder whose ledger has eight entries: itself, a grant, six charges."""
    folder = tmp_path / "north"
    ledger = Ledger(folder / LEDGER_FILE, "north")
    ledger.grant(5.0, 1e-3)
    for number in range(6):
        write_receipt(folder / "receipts", ledger.charge(ROUND, f"round {number}"))
    return folder


def tamper(place, *statements):
    """Change the file as somebody with a database browser could: the triggers go first."""
    with closing(sqlite3.connect(place / LEDGER_FILE)) as connection, connection:
        for name in ("entries_stay", "entries_are_kept", "entries_are_not_replaced"):
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)


def faults(place, **more):
    """What is found, as (position, sentence)."""
    copy = LedgerCopy.read(place / LEDGER_FILE)
    return [(fault.position, fault.sentence) for fault in copy.faults(**more)]


def test_a_whole_ledger_has_no_fault(place):
    """The tests below would mean nothing otherwise."""
    assert faults(place, receipts=read_receipts(place / "receipts")) == []


@pytest.mark.parametrize("position", [1, 2, 5, 8])
def test_a_changed_content_is_found(place, position):
    """One byte of one entry, wherever it stands."""
    change = "replace(content, '\"', '''')"
    tamper(place, f"UPDATE entries SET content = {change} WHERE position = {position}")  # noqa: S608
    assert (position, "its content is not what was written.") in faults(place)


@pytest.mark.parametrize("byte", [0, 100, 200])
def test_every_byte_counts(place, byte):
    """A single bit of the content, also one that leaves no valid text behind."""
    with closing(sqlite3.connect(place / LEDGER_FILE)) as connection:
        (content,) = connection.execute("SELECT content FROM entries WHERE position = 4").fetchone()
    raw = content.encode()
    byte %= len(raw)
    flipped = raw[:byte] + bytes([raw[byte] ^ 0x80]) + raw[byte + 1 :]
    change = f"CAST(X'{flipped.hex()}' AS TEXT)"
    tamper(place, f"UPDATE entries SET content = {change} WHERE position = 4")  # noqa: S608
    assert faults(place) == [(4, "its content is not what was written.")]


@pytest.mark.parametrize("column", ["at", "kind", "previous", "hash", "signature"])
def test_every_column_counts(place, column):
    """Time, kind, links and signatures are held like the content."""
    other = f"CASE substr({column}, 1, 1) WHEN 'f' THEN '0' ELSE 'f' END || substr({column}, 2)"
    change = other if column in ("previous", "hash") else "'00'"
    tamper(place, f"UPDATE entries SET {column} = {change} WHERE position = 5")  # noqa: S608
    assert {position for position, _ in faults(place)} & {5}


@pytest.mark.parametrize("signature", ["NULL", "X'00'", "7", "'no hex'"])
def test_a_signature_that_is_none_is_tampering(place, signature):
    """Whatever a database browser put there is reported with its position, not a traceback."""
    tamper(
        place,
        "ALTER TABLE entries RENAME TO old",
        "CREATE TABLE entries AS SELECT * FROM old",
        f"UPDATE entries SET signature = {signature} WHERE position = 5",  # noqa: S608
    )
    assert (5, "the hospital's key has not signed it.") in faults(place)


@pytest.mark.parametrize("column", ["at", "kind", "content", "previous", "hash"])
@pytest.mark.parametrize("value", ["NULL", "X'00'"])
def test_a_column_that_is_no_text_is_tampering(place, column, value):
    """Nor does any other column break the search for faults."""
    tamper(
        place,
        "ALTER TABLE entries RENAME TO old",
        "CREATE TABLE entries AS SELECT * FROM old",
        f"UPDATE entries SET {column} = {value} WHERE position = 5",  # noqa: S608
    )
    assert (5, "its content is not what was written.") in faults(place)


def test_a_head_without_a_signature_is_tampering(place):
    """The same for the file beside the ledger."""
    path = place / "ledger.head"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"signature": None}))
    assert (0, "The hospital's key has not signed the head.") in faults(place)


def test_a_key_that_is_no_hex_is_tampering(place):
    """Reported beside the key that had to be there."""
    public = HospitalKey.open(place).public
    change = f"replace(content, '{public}', '{'zz' * 32}')"
    tamper(place, f"UPDATE entries SET content = {change} WHERE position = 1")  # noqa: S608
    found = faults(place, public=public)
    assert found[0][0] == 1
    assert found[0][1].startswith("the ledger names the key none that can be read, not ")
    assert (1, "its content is not what was written.") in found
    assert faults(place)


def test_a_flipped_byte_on_disk_is_found(place):
    """Not only through SQLite: a byte of the file itself."""
    path = place / LEDGER_FILE
    raw = path.read_bytes()
    where = raw.index(b'"purpose":"round 3"') + len(b'"purpose":"round ')
    path.write_bytes(raw[:where] + b"9" + raw[where + 1 :])
    assert faults(place) == [(6, "its content is not what was written.")]


def test_a_removed_row_is_found(place):
    """The one after it tells which one is missing."""
    tamper(place, "DELETE FROM entries WHERE position = 4")
    assert faults(place) == [(5, "entry 4 before it is missing.")]


def test_several_removed_rows_are_found(place):
    """Named from the first to the last."""
    tamper(place, "DELETE FROM entries WHERE position IN (4, 5, 6)")
    assert faults(place) == [(7, "entry 4 to 6 before it is missing.")]


def test_a_removed_row_that_is_closed_up_is_found(place):
    """Numbering the rest anew does not help: positions are hashed."""
    tamper(
        place,
        "DELETE FROM entries WHERE position = 4",
        "UPDATE entries SET position = position - 1 WHERE position > 4",
    )
    positions = {position for position, _ in faults(place)}
    assert {4, 5, 6, 7} <= positions


def test_rows_that_changed_places_are_found(place):
    """Both of them."""
    tamper(
        place,
        "UPDATE entries SET position = 99 WHERE position = 4",
        "UPDATE entries SET position = 4 WHERE position = 6",
        "UPDATE entries SET position = 6 WHERE position = 99",
    )
    assert {4, 6} <= {position for position, _ in faults(place)}


@pytest.mark.parametrize("last", [5, 7])
def test_rows_removed_at_the_end_are_found_by_the_head(place, last):
    """The chain that is left is right in itself; the head knows how far it went."""
    tamper(place, f"DELETE FROM entries WHERE position > {last}")  # noqa: S608
    ((position, sentence),) = faults(place)
    assert position == last + 1
    assert sentence.startswith("removed: the head knows")


def test_a_missing_head_is_told(place):
    """Whoever takes it away hides that rows are missing, so that is a fault too."""
    (place / "ledger.head").unlink()
    assert faults(place) == [
        (0, "The head is missing, so nobody can say whether the last rows are.")
    ]


def test_a_head_that_was_written_by_somebody_else_is_told(place):
    """It is signed like the entries."""
    head = json.loads((place / "ledger.head").read_text())
    tamper(place, "DELETE FROM entries WHERE position > 5")
    (place / "ledger.head").write_text(json.dumps(head | {"position": 5}))
    assert (0, "The hospital's key has not signed the head.") in faults(place)


def test_an_older_copy_of_all_is_found_by_receipts_and_by_a_head_written_down(place, tmp_path):
    """Ledger and head put back together hang together: only what lies elsewhere tells."""
    old = tmp_path / "old"
    shutil.copytree(place, old)
    ledger = Ledger(place / LEDGER_FILE, "north")
    write_receipt(place / "receipts", ledger.charge(ROUND, "round 6"))
    noted = LedgerCopy.read(place / LEDGER_FILE).entries[-1].hash
    for name in (LEDGER_FILE, "ledger.head"):
        shutil.copy(old / name, place / name)
    assert faults(place) == []
    ((position, sentence),) = faults(place, receipts=read_receipts(place / "receipts"))
    assert position == 9
    assert "receipt" in sentence
    assert len(faults(place, heads=[noted])) == 1


def test_a_chain_that_is_hashed_anew_without_the_key_is_found(place, tmp_path):
    """Whoever can write the file, but not read the key, can make hashes and no signatures."""
    forger = Ledger(tmp_path / "forged" / LEDGER_FILE, "north")
    forger.grant(500.0, 1e-3)
    for name in (LEDGER_FILE, "ledger.head"):
        shutil.copy(tmp_path / "forged" / name, place / name)
    own = HospitalKey.open(place, make=False).public
    assert faults(place) == []  # in itself it is whole, and names its own key
    assert any("names the key" in sentence for _, sentence in faults(place, public=own))
    with pytest.raises(LedgerError, match="belongs to the key"):
        Ledger(place / LEDGER_FILE, "north").charge(ROUND, "round")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET content = replace(content, '20.0', '90.0') WHERE position = 4",
        "DELETE FROM entries WHERE position = 4",
        "DELETE FROM entries WHERE position = 8",
    ],
)
def test_nothing_is_charged_to_a_damaged_ledger(place, statement):
    """What is spent cannot be known, so nothing more may be."""
    tamper(place, statement)
    ledger = Ledger(place / LEDGER_FILE, "north")
    for use in (lambda: ledger.charge(ROUND, "round"), ledger.spent):
        with pytest.raises(LedgerError, match=r"damaged \(entry \d.*evenhand ledger verify north"):
            use()


def test_a_file_that_is_no_database_is_a_sentence(place):
    """Garbage, or a file cut in half, is told as such."""
    (place / LEDGER_FILE).write_bytes(b"not a ledger" * 400)
    with pytest.raises(LedgerError, match="cannot be read or written as a ledger"):
        Ledger(place / LEDGER_FILE, "north").charge(ROUND, "round")


def test_a_head_that_lags_one_charge_behind_is_no_fault(place):
    """That is what a kill between commit and head leaves; the next charge mends it."""
    older = (place / "ledger.head").read_text()
    Ledger(place / LEDGER_FILE, "north").charge(ROUND, "round 6")
    (place / "ledger.head").write_text(older)
    assert faults(place) == []
    Ledger(place / LEDGER_FILE, "north").charge(ROUND, "round 7")
    assert json.loads((place / "ledger.head").read_text())["position"] == 10


@pytest.mark.parametrize("text", ["{}\n", "no json\n"])
def test_receipts_of_another_form_are_refused(tmp_path, text):
    """A wrong file must not pass for proof."""
    (tmp_path / "receipts").write_text(text)
    with pytest.raises(LedgerError, match="does not hold receipts"):
        read_receipts(tmp_path / "receipts")
    with pytest.raises(LedgerError, match="cannot be read"):
        read_receipts(tmp_path / "nowhere")


class TestKey:
    """The key is made once, and read by its owner alone."""

    def test_it_is_made_once(self, tmp_path):
        """The second opening finds the first one's."""
        assert HospitalKey.open(tmp_path).public == HospitalKey.open(tmp_path).public
        assert (tmp_path / "signing.key").stat().st_mode & 0o777 == 0o600
        assert [path.name for path in tmp_path.iterdir()] == ["signing.key"]

    def test_a_key_that_others_can_read_is_refused(self, tmp_path):
        """With the way out in the sentence."""
        HospitalKey.open(tmp_path)
        (tmp_path / "signing.key").chmod(0o644)
        with pytest.raises(LedgerError, match="chmod 600"):
            HospitalKey.open(tmp_path)

    def test_a_file_that_is_no_key_is_refused(self, tmp_path):
        """And not replaced."""
        path = tmp_path / "signing.key"
        path.write_text("hello")
        path.chmod(0o600)
        with pytest.raises(LedgerError, match="not an Ed25519 private key"):
            HospitalKey.open(tmp_path)
        assert path.read_text() == "hello"

    def test_tags_need_the_key(self, tmp_path):
        """Another hospital's tags of the same names are other ones; kinds do not mix."""
        one, two = HospitalKey.open(tmp_path / "a"), HospitalKey.open(tmp_path / "b")
        assert one.tag("patient", "p1") == one.tag("patient", "p1")
        assert (
            len({one.tag("patient", "p1"), two.tag("patient", "p1"), one.tag("image", "p1")}) == 3
        )
