"""`evenhand run` as a person types it: real weights, real Flower, stopped once and gone on."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from evenhand.artifacts import read_prediction_table
from evenhand.errors import WeightsError
from evenhand.experiment.layout import RunFolder, build_model
from evenhand.model.adapter_files import load_onto, read_adapter
from evenhand.model.weights import fetch

pytestmark = pytest.mark.weights

CONFIG = """
name = "walk"

[data.phantom]
patients = { north = 4, east = 3 }
shape = [64, 64, 6]

[model]
image_size = 128
head = "small"
head_size = 64

[training]
epochs = 1
tumour_slices = 2
other_slices = 2

[federation]
rounds = 2

[privacy]
rounds = 2
steps_per_round = 1

[audit]
resamples = 100
minimum_group = 2
"""
ARMS = ["box-zero-shot", "local-east", "local-north", "pooled", "federated", "federated-private"]
EPSILON = 8.0  # PrivacyConfig's own
TESTS = 2  # a third of four and of three, at least one each


def command(folder, *arguments):
    """Start `python -m evenhand` with a temporary folder of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "evenhand", *map(str, arguments)],
        cwd=folder.work,
        env=os.environ | {"TMPDIR": str(folder.scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    """Exit status and output."""
    output, _ = process.communicate(timeout=500)
    return process.returncode, output


def processes_of(out):
    """Living processes that were started for a run: they carry its folder in the environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"EVENHAND_SIMULATION={out}\0" in (process / "environ").read_text(errors="replace"):
                found.append((process.name, (process / "cmdline").read_text().replace("\0", " ")))
        except OSError:
            continue
    return found


def open_doors(out):
    """Ports on which processes of a run listen to more than this machine."""
    inodes = set()
    for pid, _ in processes_of(out):
        try:
            handles = list(Path(f"/proc/{pid}/fd").iterdir())
        except OSError:  # it has ended meanwhile
            continue
        for handle in handles:
            try:
                target = str(handle.readlink())
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    doors = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, state, inode = fields[1].partition(":")[0], fields[3], fields[9]
            here = address in ("0100007F", "0" * 24 + "01000000", "0" * 16 + "FFFF00000100007F")
            if state == "0A" and inode in inodes and not here:
                doors.append(fields[1])
    return doors


def litter(folder):
    """What a run left in the machine's temporary folder; torch's own cache is torch's business."""
    return [path for path in folder.scratch.iterdir() if "torchinductor" not in path.name]


def left(folder):
    """Processes and files of a run that are left, once those that were killed had time to die."""
    end = time.monotonic() + 60
    while processes_of(folder.out) and time.monotonic() < end:
        time.sleep(0.1)
    return processes_of(folder.out), litter(folder)


def stamps(out):
    """When each finished arm and each embedding was written."""
    files = [*out.glob("arms/*/arm.json"), *out.glob("hospitals/*/embeddings/*")]
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A run that was stopped in the federated arm's second round and then finished."""
    try:
        fetch("mobile-sam")
    except WeightsError as error:
        pytest.skip(f"weights cannot be had here: {error}")
    work = tmp_path_factory.mktemp("walk")
    out = work / "out"
    (work / "walk.toml").write_text(CONFIG)
    # Not under pytest's folder: a socket's path, and Ray makes some, must be short.
    with tempfile.TemporaryDirectory(prefix="eh-") as scratch:
        folder = SimpleNamespace(work=work, out=out, scratch=Path(scratch))
        process = command(folder, "run", "walk.toml", "--out", "out")
        rounds = out / "arms" / "federated" / "rounds.jsonl"
        folder.doors = []
        while not rounds.exists() and process.poll() is None:
            folder.doors += open_doors(out)
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        folder.stopped, folder.said_when_stopped = finish(process)
        folder.left_when_stopped = left(folder)
        folder.stamps_when_stopped = stamps(out)
        folder.status, folder.output = finish(command(folder, "run", "walk.toml", "--out", "out"))
        folder.left = left(folder)
        folder.stamps = stamps(out)
        yield folder


class TestStopped:
    """Ctrl-C in the middle of a federated round."""

    def test_says_what_to_do(self, walked):
        """Exit 130 and a sentence, no traceback."""
        assert walked.stopped == 130, walked.said_when_stopped
        assert "the same command goes on from there" in " ".join(walked.said_when_stopped.split())
        assert "Traceback" not in walked.said_when_stopped

    def test_nothing_is_left(self, walked):
        """Neither Flower's nor Ray's processes, nor their folders."""
        assert walked.left_when_stopped == ([], [])

    def test_nothing_was_open_to_others(self, walked):
        """All of it listened to this machine alone."""
        assert walked.doors == []

    def test_finished_work_was_kept(self, walked):
        """What was there is not made again."""
        assert len(walked.stamps_when_stopped) >= 4 + 7, "arms before the federated one, cases"
        for path, stamp in walked.stamps_when_stopped.items():
            assert walked.stamps[path] == stamp, path


class TestFinished:
    """The same command again, to the end."""

    def test_ends_well(self, walked):
        """Exit 0, a line for each arm, and where to look next; nothing runs on."""
        assert walked.status == 0, walked.output
        for arm in ARMS:
            assert arm in walked.output
        assert f"evenhand review {Path('out')}" in walked.output
        assert walked.left == ([], [])

    def test_table(self, walked):
        """Every arm has every test case, automatic where it has been trained, and with a box."""
        table, meta = read_prediction_table(walked.out / "predictions.csv")
        counts = table.groupby(["arm", "prompt"]).size()
        assert set(table["arm"]) == {*ARMS}
        assert set(counts) == {TESTS}
        for arm in ARMS[1:]:
            assert (arm, "automatic") in counts
        assert ("box-zero-shot", "automatic") not in counts
        assert table["dice"].between(0, 1).all()
        assert len(meta["weights_sha256"]) == 64

    def test_report(self, walked):
        """It names every arm and says how much privacy was spent."""
        page = (walked.out / "report" / "index.html").read_text()
        for arm in ARMS:
            assert arm in page
        facts = json.loads((walked.out / "report" / "audit.json").read_text())["facts"]
        assert facts["arms"]["federated-private"]["epsilon"].keys() == {"east", "north"}
        assert facts["planted_bias"]["attribute"] == "sex"

    def test_epsilon(self, walked):
        """Each hospital spent something, and not more than it granted, of its patients' privacy."""
        run = RunFolder(walked.out)
        record = json.loads(run.arm("federated-private").record_path.read_text())
        for name in ("north", "east"):
            spent = record["epsilon"][name]
            assert 0 < spent["epsilon"] <= EPSILON + 1e-3
            assert spent["unit"] == "patient"
            patients = len(run.split().train[name])
            assert spent["delta"] == pytest.approx(1 / (10 * patients))
            assert run.hospital(name).ledger().spent().epsilon == spent["epsilon"]
        for arm in set(ARMS) - {"federated-private"}:
            assert json.loads(run.arm(arm).record_path.read_text())["epsilon"] is None

    def test_rounds(self, walked):
        """Both rounds of both arms, each hospital in each, with what moved."""
        run = RunFolder(walked.out)
        for arm in ("federated", "federated-private"):
            records = {record["round"]: record for record in run.arm(arm).read_rounds()}
            assert list(records) == [1, 2]
            for record in records.values():
                assert record["hospitals"].keys() == {"east", "north"}
                assert record["failed"] == {}
                assert record["silent"] == []
                for name, figures in record["hospitals"].items():
                    assert figures["patients"] == len(run.split().train[name])
                    assert figures["bytes"] == figures["bytes_down"] > 10_000
                    private = arm == "federated-private"
                    assert ("epsilon" in figures) == private
                    assert ("last_loss" in figures) == (not private)
                    assert ("seconds" in figures) == (not private)

    def test_log_is_readable(self, walked):
        """No colour codes, no line twice, no warning but the one that we know of."""
        log = RunFolder(walked.out).arm("federated-private").log_path.read_text()
        assert "\x1b" not in log
        assert log.count("[ROUND 2/2]") == 1
        warnings = [line for line in log.splitlines() if "WARNING" in line or "Warning" in line]
        known = ("`run_simulation` function is deprecated", "fraction_evaluate is set to 0.0")
        assert [line for line in warnings if not any(part in line for part in known)] == []

    def test_adapters_reload(self, walked):
        """Each adapter fits its backbone, and hospitals together learnt something of their own."""
        run = RunFolder(walked.out)
        model = build_model(run.config())
        start = model.adapter_state()
        for arm in ARMS[1:]:
            file = load_onto(run.arm(arm).adapter_path, model)
            state = model.adapter_state()
            assert all(torch.equal(state[name], file.state[name]) for name in state)
            assert any(not torch.equal(state[name], start[name]) for name in state)
            assert file.training["arm"] == arm
        one, other = (read_adapter(run.arm(arm).adapter_path).state for arm in ARMS[1:3])
        assert any(not torch.equal(one[name], other[name]) for name in one)

    def test_masks_wait_for_review(self, walked):
        """One mask a test case and arm; the review page's own check finds nothing wrong."""
        run = RunFolder(walked.out)
        for arm in ARMS:
            assert len(run.arm(arm).mask_case_ids()) == TESTS
        status, output = finish(command(walked, "review", "verify", walked.out))
        assert status == 0, output

    def test_nothing_leaves_a_hospital_by_the_records(self, walked):
        """What the coordinator keeps of the rounds names no patient and no path."""
        run = RunFolder(walked.out)
        split = run.split()
        patients = [
            one for part in (split.train, split.test) for own in part.values() for one in own
        ]
        for arm in ("federated", "federated-private"):
            kept = run.arm(arm).rounds_path.read_text() + run.arm(arm).log_path.read_text()
            assert not any(patient in kept for patient in patients)
            assert "/store/" not in run.arm(arm).rounds_path.read_text()


def test_again_is_quick_and_changes_nothing(walked):
    """A third time nothing is computed: the table keeps its bytes, each arm its record."""
    table = (walked.out / "predictions.csv").read_bytes()
    status, output = finish(command(walked, "run", "walk.toml", "--out", "out"))
    assert status == 0, output
    assert stamps(walked.out) == walked.stamps
    assert (walked.out / "predictions.csv").read_bytes() == table
    seconds = json.loads((walked.out / "run.json").read_text())["seconds"]
    assert seconds["federated"] < 1
    assert seconds["pooled"] < 1
