"""Earlier reports are remembered without names, and stop a report that is too near."""

import fcntl
import json
import threading

import numpy as np
import pytest

from evenhand.artifacts import write_prediction_table
from evenhand.config import AuditConfig
from evenhand.errors import DataError
from evenhand_audit.register import Register
from evenhand_audit.report import write_audit
from evenhand_audit.simulate import simulated_rows


def test_rows_come_back_over_new_patients(tmp_path):
    """A row that was noted is found again by who is in it; who left is put behind who is here."""
    register = Register(tmp_path / "r.json")
    register.note(["a", "b", "c"], [np.array([True, True, True]), np.array([True, False, True])])
    register.save()
    rows, gone = Register(tmp_path / "r.json").earlier(["b", "c", "d"])
    assert gone == 1
    assert sorted(row.tolist() for row in rows) == [
        [False, True, False, True],
        [True, True, False, True],
    ]


def test_the_file_names_nobody(tmp_path):
    """Patients are keyed hashes, and only the owner may read the file."""
    register = Register(tmp_path / "r.json")
    register.note(["person-1", "person-2"], [np.array([True, True])])
    register.save()
    assert "person" not in (tmp_path / "r.json").read_text()
    assert (tmp_path / "r.json").stat().st_mode & 0o077 == 0


def test_the_same_report_twice_is_noted_once(tmp_path):
    """The file does not grow when nothing new is shown."""
    for _ in range(2):
        register = Register(tmp_path / "r.json")
        register.note(["a", "b"], [np.array([True, True])])
        register.save()
    assert len(json.loads((tmp_path / "r.json").read_text())["reports"]) == 1


KEY = "00" * 32
SCHEMA = f'"schema": "evenhand audit register", "key": "{KEY}"'


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"schema": "else"}',
        "{" + SCHEMA + "}",
        '{"schema": "evenhand audit register", "key": "xy", "reports": []}',
        "{" + SCHEMA + ', "reports": [{"patients": "ab", "rows": []}]}',
        "{" + SCHEMA + ', "reports": [{"patients": [1], "rows": []}]}',
        "{" + SCHEMA + ', "reports": [{"patients": ["a"], "rows": ["?"]}]}',
        "{" + SCHEMA + ', "reports": [{"patients": ["a"], "rows": ["gICA"]}]}',
        "{" + SCHEMA + ', "reports": [{"patients": ["a"]}]}',
    ],
)
def test_a_damaged_register_is_refused(tmp_path, text):
    """A register that cannot be read is not taken for an empty one."""
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError, match="not a register of published audits"):
        Register(tmp_path / "r.json")


def test_two_reports_at_once_are_not_both_noted(tmp_path):
    """Both were planned without the other; the second to save is told, and nothing is lost."""
    first, second = (Register(tmp_path / "r.json") for _ in range(2))
    first.note(["a", "b"], [np.array([True, True])])
    second.note(["a", "b", "c"], [np.array([True, True, True])])
    first.save()
    with pytest.raises(DataError, match="while this one was made"):
        second.save()
    rows, gone = Register(tmp_path / "r.json").earlier(["a", "b"])
    assert ([row.tolist() for row in rows], gone) == ([[True, True]], 0)


def test_saving_waits_for_whoever_saves(tmp_path):
    """While another process holds the lock nothing is written."""
    register = Register(tmp_path / "r.json")
    register.note(["a", "b"], [np.array([True, True])])
    saving = threading.Thread(target=register.save)
    with (tmp_path / ".r.json.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        saving.start()
        saving.join(timeout=0.3)
        assert not (tmp_path / "r.json").exists()
    saving.join(timeout=120)
    assert (tmp_path / "r.json").exists()


def test_a_second_report_with_one_patient_more_is_refused(tmp_path):
    """With a register the second audit ends in a sentence, and nothing is written."""
    config = AuditConfig(
        resamples=100, attributes=("sex",), register_file=tmp_path / "register.json"
    )
    rows = simulated_rows(patients=21)
    write_prediction_table(tmp_path / "one.csv", rows[:20], {})
    write_prediction_table(tmp_path / "two.csv", rows, {})
    write_audit(tmp_path / "one.csv", tmp_path / "first", config=config)
    write_audit(tmp_path / "one.csv", tmp_path / "again", config=config)
    with pytest.raises(DataError, match="would show single patients") as error:
        write_audit(tmp_path / "two.csv", tmp_path / "second", config=config)
    assert "person-" not in str(error.value)
    assert not (tmp_path / "second").exists()
    page = (tmp_path / "again" / "index.html").read_text()
    assert "Earlier reports in the audit" in page


def test_without_a_register_the_page_says_so(tmp_path):
    """Nobody believes that two reports protect each other when nothing was remembered."""
    write_prediction_table(tmp_path / "t.csv", simulated_rows(patients=12), {})
    config = AuditConfig(resamples=100, attributes=("sex",))
    page = write_audit(tmp_path / "t.csv", tmp_path / "out", config=config).read_text()
    assert "Earlier reports were not considered" in page
