"""The process of a federated arm: it ends with its workers, leaves no litter, and says why."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from rich.progress import Progress

from evenhand.errors import FederationError
from evenhand_federated import arms
from evenhand_federated.arms import run_federated
from evenhand_federated.checkpoint import finished_rounds, write_checkpoint
from federation_fakes import make_run, state_of

BUSY = """
import os, subprocess, sys, time
run = os.environ["EVENHAND_SIMULATION"]
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(run + "/pids", "w") as file:
    file.write(f"{os.getpid()} {worker.pid}")
homes = [os.environ.get(name, "") for name in ("FLWR_HOME", "EVENHAND_RAY_FOLDER")]
with open(run + "/homes.new", "w") as file:
    file.write(" ".join(homes))
os.replace(run + "/homes.new", run + "/homes")
"""
"""A simulation that has started a worker; where ``homes`` stands, both files are whole."""

ROUND = """
import os
from pathlib import Path
import torch
from evenhand.experiment.layout import RunFolder
from evenhand_federated.checkpoint import finished_rounds, write_checkpoint
folder = RunFolder(Path(os.environ["EVENHAND_SIMULATION"])).arm(os.environ["EVENHAND_ARM"])
number = finished_rounds(folder) + 1
figures = {"bytes": 10, "bytes_down": 20, "patients": 2, "epsilon": number / 10, "delta": 0.01}
folder.append_round({"round": number, "seconds": 1.5, "hospitals": {"north": figures}})
write_checkpoint(folder, number, {"head.a": torch.full((2,), float(number))})
print("round", number, "is done")
"""
"""A simulation that finishes one more round."""


class FakeModel:
    """Takes an adapter."""

    def adapter_state(self):
        """What it starts with: nothing that would stay."""
        return {}

    def load_adapter(self, state):
        """Keep it."""
        self.state = state


@pytest.fixture
def run(tmp_path, tiny_stores):
    """A run with a federated arm of three rounds."""
    return make_run(tmp_path / "run", tiny_stores)


@pytest.fixture
def simulate(run, monkeypatch):
    """Run an arm with a script in place of Flower's simulation."""
    monkeypatch.setattr(arms, "_POLL_S", 0.02)

    def start(script, arm="federated"):
        run.arm(arm).path.mkdir(exist_ok=True)
        monkeypatch.setattr(arms, "_COMMAND", (sys.executable, "-c", script))
        model = FakeModel()
        return run_federated(run, arm, model, Progress(disable=True)), model

    return start


def is_running(pid):
    """Whether a process lives; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # it may go between opening and reading
        return False
    return state != "Z"


def wait_until(condition, seconds=120):
    """Wait, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


class TestEnd:
    """However an arm ends, nothing of it runs on and no folder of it stays."""

    def gone(self, run):
        """Assert that simulation and worker are gone, and the folders that they were given."""
        pids = [int(pid) for pid in (run.path / "pids").read_text().split()]
        assert len(pids) == 2
        wait_until(lambda: not any(is_running(pid) for pid in pids))
        homes = [Path(home) for home in (run.path / "homes").read_text().split()]
        assert homes
        assert not any(home.exists() for home in homes)

    def test_interrupted(self, run, simulate, monkeypatch):
        """Ctrl-C ends the simulation and its workers before it goes on."""
        sleep = time.sleep

        def interrupt(seconds):
            if (run.path / "homes").exists():
                raise KeyboardInterrupt
            sleep(seconds)

        monkeypatch.setattr(arms.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            simulate(BUSY + "time.sleep(600)")
        monkeypatch.undo()
        self.gone(run)

    def test_deaf_to_the_signal(self, run, simulate, monkeypatch):
        """A simulation that ignores SIGTERM is killed when its grace is over."""
        monkeypatch.setattr(arms, "_GRACE_S", 0.1)
        deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        sleep = time.sleep

        def interrupt(seconds):
            if (run.path / "homes").exists():
                raise KeyboardInterrupt
            sleep(seconds)

        monkeypatch.setattr(arms.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            simulate(deaf + BUSY + "time.sleep(600)")
        monkeypatch.undo()
        self.gone(run)

    def test_crashed(self, run, simulate):
        """A simulation that dies leaves its worker to us."""
        with pytest.raises(FederationError, match="the simulation stopped"):
            simulate(BUSY + "os._exit(3)")
        self.gone(run)

    def test_finished(self, run, simulate):
        """So does one that ends well."""
        simulate(BUSY + ROUND)
        self.gone(run)

    def test_parent_killed(self, run, tmp_path):
        """Where the command itself is killed outright, the simulation follows it."""
        child = BUSY + textwrap.dedent("""
            from evenhand_federated.leash import end_with_parent
            end_with_parent()
            open(run + "/ready", "w").close()
            time.sleep(600)
        """)
        parent = textwrap.dedent(f"""
            import sys
            from pathlib import Path
            from rich.progress import Progress
            from evenhand.experiment.layout import RunFolder
            from evenhand_federated import arms
            arms._COMMAND = (sys.executable, "-c", {child!r})
            run = RunFolder(Path({str(run.path)!r}))
            arms.run_federated(run, "federated", None, Progress(disable=True))
        """)
        with subprocess.Popen(
            [sys.executable, "-c", parent], env=os.environ | {"TMPDIR": str(tmp_path)}
        ) as process:
            try:
                wait_until((run.path / "ready").exists)
            finally:
                process.send_signal(signal.SIGKILL)
        pids = [int(pid) for pid in (run.path / "pids").read_text().split()]
        wait_until(lambda: not any(is_running(pid) for pid in pids))


class TestResult:
    """What an arm returns."""

    def test_loads_the_last_checkpoint(self, run, simulate):
        """The adapter of the last round is in the model; figures are summed over rounds."""
        for _ in range(2):
            simulate(ROUND)
        record, model = simulate(ROUND)
        assert torch.equal(model.state["head.a"], torch.tensor([3.0, 3.0]))
        assert record == {
            "seconds": 4.5,
            "bytes_moved": 90,
            "rounds": 3,
            "rounds_planned": 3,
            "epsilon": {
                "north": {
                    "epsilon": 0.3,
                    "delta": 0.01,
                    "unit": "patient",
                    "accountant": "PRV",
                    "trust": "local",
                }
            },
        }

    def test_finished_arm_starts_nothing(self, run, simulate):
        """Three rounds of three are done: no process."""
        write_checkpoint(run.arm("federated"), 3, state_of(1, 2))
        simulate("raise SystemExit('started in vain')")
        assert not run.arm("federated").log_path.exists()

    def test_records_without_a_checkpoint_do_not_finish_an_arm(self, run, simulate):
        """Three records, of which the last is of a failed round: it is run again."""
        folder = run.arm("federated")
        write_checkpoint(folder, 2, state_of(1, 2))
        for number in (1, 2, 3):
            folder.append_round({"round": number, "seconds": 1.0, "hospitals": {}})
        record, _ = simulate(ROUND)
        assert finished_rounds(folder) == 3
        assert record["bytes_moved"] == 30, "the record of the failed round is replaced"

    def test_arm_without_privacy_has_no_epsilon(self, run, simulate):
        """None, and not an empty table that could be read as zero."""
        script = ROUND.replace('"epsilon"', '"ignored"')
        assert simulate(script)[0]["epsilon"] is None

    def test_private_rounds(self, run, simulate):
        """The private arm's rounds are its own."""
        assert simulate(ROUND, arm="federated-private")[0]["rounds_planned"] == 2


class TestError:
    """A failure says how far it came, why, and where to read on."""

    def test_names_round_reason_and_log(self, run, simulate):
        """All in one message, and the log is there."""
        script = ROUND + textwrap.dedent("""
            from evenhand.errors import FederationError
            raise FederationError("Round 2 of federated: 1 hospitals answered, 2 are needed.")
        """)
        with pytest.raises(FederationError) as caught:
            simulate(script)
        message = str(caught.value)
        assert message.startswith(
            "The arm federated ended after 1 of 3 rounds: Round 2 of federated: 1 hospitals "
            "answered, 2 are needed. The whole log is"
        )
        log = run.arm("federated").log_path
        assert f"'{log}'" in message
        assert "Traceback" in log.read_text()

    def test_other_errors_are_named_too(self, run, simulate):
        """A full disk is no federation's error, and must be said all the same."""
        with pytest.raises(FederationError, match="rounds: The disk is full"):
            simulate("import evenhand.errors as e; raise e.ResourceError('The disk is full.')")

    def test_reason_of_an_earlier_run_is_not_repeated(self, run, simulate):
        """The log grows over reruns; only the last one's error counts."""
        with pytest.raises(FederationError, match="of old"):
            simulate("import evenhand.errors as e; raise e.FederationError('of old')")
        with pytest.raises(FederationError, match="the simulation stopped") as caught:
            simulate("raise SystemExit(1)")
        assert "of old" not in str(caught.value)

    def test_first_error_of_others(self, run, simulate):
        """Of a chain of foreign errors the first says most."""
        script = """
            try:
                raise OSError("no room in the inn")
            except OSError as error:
                raise RuntimeError("An error was encountered.") from error
        """
        with pytest.raises(FederationError, match="of 3 rounds: no room in the inn The whole log"):
            simulate(textwrap.dedent(script))

    def test_slow_start_is_tried_again(self, run, simulate):
        """A busy machine may need more time than Ray grants: another start, in silence."""
        script = textwrap.dedent("""
            import os
            marker = os.environ["EVENHAND_SIMULATION"] + "/second"
            if not os.path.exists(marker):
                open(marker, "w").close()
                raise RuntimeError("The current node timed out during startup.")
        """)
        assert simulate(script + ROUND)[0]["rounds"] == 1

    def test_slow_starts_come_to_an_end(self, run, simulate):
        """After some starts it is an error that says what is wrong."""
        script = "print('start'); raise RuntimeError('The current node timed out during startup.')"
        with pytest.raises(FederationError, match="node timed out during startup"):
            simulate(script)
        assert run.arm("federated").log_path.read_text().count("start\n") == 3

    def test_ended_well_without_an_adapter(self, run, simulate):
        """A simulation that claims success and leaves nothing is no success."""
        with pytest.raises(FederationError, match="left no adapter"):
            simulate("print('well done')")
