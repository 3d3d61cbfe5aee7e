"""A hospital runs installed code and approved studies; all else is refused and written down."""

import errno
import io
import os
import subprocess
import time
import warnings
import zipfile

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.cli.build import build_fab_from_files
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND
from flwr.supernode.runtime import run_clientapp
from typer.testing import CliRunner

from evenhand.cli import app as command_line
from evenhand.errors import BudgetError, DataError, FederationError, ResourceError, UsageError
from evenhand_federated import hospital_app, site_guard
from evenhand_federated.bundle import bundle_fault, write_app
from evenhand_federated.hospital import NODE_VARIABLE
from evenhand_federated.message_log import weigh
from evenhand_federated.node import HospitalNode
from evenhand_federated.orders import BUDGET_REFUSED, FAILED
from evenhand_federated.testing import FakeGrid
from federation_fakes import context_of, state_of
from federation_places import make_coordinator, make_hospital, make_study

REPORT = "sub-P0042_FLAIR.nii.gz: age 61"


@pytest.fixture
def centre(tmp_path):
    """A coordinator."""
    return make_coordinator(tmp_path / "centre")


@pytest.fixture
def north(tmp_path, centre, tiny_stores, monkeypatch):
    """Hospital north, as the processes of its node know it."""
    own = make_hospital(tmp_path / "north", centre, tiny_stores["north"].path)
    monkeypatch.setenv(NODE_VARIABLE, str(own.path))
    return own


@pytest.fixture
def study(tmp_path, centre, north):
    """A study that north approved."""
    study = make_study(centre, tmp_path / "study.toml")
    north.approve(study, study.digest)
    return study


def bundle_of(folder, digest, **more):
    """The bundle that `flwr run` makes, with further files."""
    write_app(folder, digest)
    files = {"pyproject.toml": (folder / "pyproject.toml").read_bytes(), **more}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pathspec, in Flower's hands
        return build_fab_from_files(files)[0]


def repacked(content, change):
    """A bundle whose files were changed by hand, manifest and all."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for name, data in change([(one.filename, old.read(one)) for one in old.infolist()]):
            new.writestr(name, data)
    return out.getvalue()


def kinds(north):
    """Kinds and facts of the hospital's log."""
    return [(entry.kind, entry.body()) for entry in north.messages().entries()]


class TestBundle:
    """One bundle belongs to one study, to the byte."""

    def test_that_of_an_approved_study(self, tmp_path, north, study):
        """It is let through, and leaves no line."""
        site_guard.check_bundle(north, bundle_of(tmp_path / "app", study.digest))
        assert kinds(north) == []

    def test_that_of_another_study(self, tmp_path, north, study):
        """A study that the hospital has not approved is refused and written down."""
        other = bundle_of(tmp_path / "app", "0" * 64)
        with pytest.raises(PermissionError, match="has not approved this bundle"):
            site_guard.check_bundle(north, other)
        ((kind, body),) = kinds(north)
        assert kind == "refused"
        assert body["why"] == "not that of a study that this hospital approved"

    @pytest.mark.parametrize("damage", [b"\xff\xff\xff\xff", b""], ids=["spoilt", "cut"])
    def test_that_cannot_be_unpacked(self, north, study, damage):
        """Whatever is wrong with it, it is refused and written down."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("pyproject.toml", b"x = 1\n" * 500)
        content = out.getvalue()
        at = content.index(b"pyproject.toml") + len(b"pyproject.toml")
        content = content[:at] + damage + content[at + 4 :]
        with pytest.raises(PermissionError, match="has not approved this bundle"):
            site_guard.check_bundle(north, content)
        assert [body["why"] for _, body in kinds(north)] == ["not a bundle"]

    @pytest.mark.parametrize("name", ["evil.py", "evenhand/__init__.py", "sitecustomize.py"])
    def test_with_code_of_its_own(self, tmp_path, north, study, name):
        """Not even beside the right project: its folder would come first on the path."""
        content = bundle_of(tmp_path / "app", study.digest, **{name: b"print(1)\n"})
        with pytest.raises(PermissionError):
            site_guard.check_bundle(north, content)
        assert name in kinds(north)[0][1]["why"]

    def test_with_another_component(self, tmp_path, study):
        """The right name and version with another entry point is another bundle."""
        content = bundle_of(tmp_path / "app", study.digest)
        changed = repacked(
            content,
            lambda files: [
                (n, d.replace(b"hospital_app:app", b"client_app:app")) for n, d in files
            ],
        )
        assert bundle_fault(changed, [study.digest]) is not None

    def test_with_a_name_twice(self, tmp_path, study):
        """An archive that shows one file and unpacks another is refused."""
        content = bundle_of(tmp_path / "app", study.digest)
        with pytest.warns(UserWarning, match="Duplicate name"):
            changed = repacked(content, lambda files: [*files, ("pyproject.toml", b"evil = 1")])
        assert bundle_fault(changed, [study.digest]) is not None

    @pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + b"\0" * 50])
    def test_what_is_no_bundle(self, content, study):
        """Rubbish is refused, not stumbled over."""
        assert bundle_fault(content, [study.digest]) == "not a bundle"

    def test_no_study_no_bundle(self, tmp_path, study):
        """A hospital that approved nothing runs nothing."""
        assert bundle_fault(bundle_of(tmp_path / "app", study.digest), []) is not None


class TestPrograms:
    """What Flower's executor finds by name."""

    def test_every_program_that_can_be_started_has_a_wrapper(self, north):
        """A kind of task that a later Flower adds would run unguarded: this test would fail."""
        found = {path.name for path in site_guard.write_programs(north).iterdir()}
        assert found == set(TASK_TYPE_TO_COMMAND.values())

    def test_the_private_seam_is_there(self):
        """The guard stands on this name; where it is gone nothing may run."""
        assert callable(run_clientapp.install_from_fab)

    def test_the_guard_stands_before_the_installation(self, north, study, monkeypatch, tmp_path):
        """Run as Flower runs it, an unapproved bundle is not even unpacked."""
        unpacked = []
        monkeypatch.setattr(run_clientapp, "install_from_fab", unpacked.append)

        def command():
            run_clientapp.install_from_fab(bundle_of(tmp_path / "a", study.digest))
            run_clientapp.install_from_fab(bundle_of(tmp_path / "b", "0" * 64))

        monkeypatch.setattr("flwr.supernode.cli.flwr_clientapp", command)
        monkeypatch.setattr(site_guard.sys, "argv", ["x"])
        with pytest.raises(PermissionError):
            site_guard.main([site_guard.CLIENT_PROGRAM, "--token", "t"])
        assert len(unpacked) == 1

    def test_without_the_seam_nothing_runs(self, north, monkeypatch):
        """Another Flower is refused rather than trusted."""
        monkeypatch.delattr(run_clientapp, "install_from_fab")
        with pytest.raises(Exception, match="cannot be guarded"):
            site_guard.main([site_guard.CLIENT_PROGRAM])

    def test_another_flower_is_refused(self, north, monkeypatch):
        """The seam may still be there and mean something else."""
        monkeypatch.setattr("flwr.__version__", "1.42.0")
        monkeypatch.setattr("flwr.supernode.cli.flwr_clientapp", lambda: None)
        monkeypatch.setattr(site_guard.sys, "argv", ["x"])
        with pytest.raises(FederationError, match="cannot be guarded"):
            site_guard.main([site_guard.CLIENT_PROGRAM])

    def test_an_agent_is_refused_and_written_down(self, north):
        """Flower 1.41 would run an agent's code on a node: the wrapper ends instead."""
        programs = site_guard.write_programs(north)
        done = subprocess.run(
            [programs / "flwr-agentapp", "--token", "t"],
            env=os.environ | {NODE_VARIABLE: str(north.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "is not run at a hospital" in done.stderr
        assert kinds(north)[0][0] == "refused"


def ask(digest, *, arm="federated", number=1, message_id="one", state=None, kind="train"):
    """Send an order through the real ClientApp and return its reply."""

    def node(message):
        message.metadata.__dict__["_message_id"] = message_id
        context = context_of(0)
        context.run_config["study"] = digest
        return hospital_app.app(message, context)

    content = RecordDict(
        {
            "arrays": ArrayRecord(state or state_of(1, 2)),
            "config": ConfigRecord({"arm": arm, "round": number}),
        }
    )
    grid = FakeGrid({10: node})
    grid.push_messages([message := Message(content, 10, kind)])
    del message
    ((_, reply),) = grid._replies.items()
    return reply


@pytest.fixture
def trained(monkeypatch):
    """Replace training; return the orders that reached it."""
    orders = []

    def train_round(self, order, state):
        orders.append((order, self.train_patients))
        figures = {"patients": 2} | ({"epsilon": 0.5} if "private" in order.arm else {})
        return {name: value + 1 for name, value in state.items()}, figures

    monkeypatch.setattr(HospitalNode, "train_round", train_round)
    return orders


class TestMessages:
    """What an approved study may ask, and what is written down of it."""

    def test_what_came_and_what_left(self, north, study, trained):
        """Two lines: with bytes, hash, and what it cost."""
        reply = ask(study.digest)
        (came, one), (left, two) = kinds(north)
        assert (came, left) == ("received", "sent")
        assert two["bytes"] == weigh(reply.content).bytes
        assert two["sha256"] == weigh(reply.content).sha256
        assert one["sha256"] != two["sha256"]
        assert two["charge"].startswith("none")
        assert two["tensors"] == 2
        assert "stayed" not in two
        assert two["figures"] == {"patients": 2}
        assert trained[0][1] == north.train_patients(study)
        assert north.messages().faults() == []

    def test_what_stays_is_written_down_and_held(self, tmp_path, centre, north, trained):
        """The log says what left and what stayed; an answer with more than that does not leave."""
        federation = {"rounds": 3, "local_parts": ["head.b"]}
        study = make_study(centre, tmp_path / "own.toml", arms=["federated"], federation=federation)
        north.approve(study, study.digest)
        shared = {"head.a": state_of(1, 2)["head.a"]}
        assert ask(study.digest, state=shared).has_content()
        assert kinds(north)[1][1]["tensors"] == 1
        assert kinds(north)[1][1]["stayed"] == "head.b"
        # What training gives here is what came, so this answer would bring the part that stays.
        assert ask(study.digest, number=2, message_id="two").has_error()
        assert [kind for kind, _ in kinds(north)][2:] == ["received", "failed"]

    def test_the_charge_of_a_private_round(self, tmp_path, centre, north, trained):
        """A person reads what each round cost the patients."""
        study = make_study(centre, tmp_path / "private.toml", arm="federated-private")
        north.approve(study, study.digest)
        ask(study.digest, arm="federated-private")
        assert kinds(north)[1][1]["charge"] == "epsilon 0.5 spent by this study so far"

    @pytest.mark.parametrize("digest", ["0" * 64, "", "../x"])
    def test_an_unapproved_study(self, north, study, trained, digest):
        """Nothing is trained; the coordinator learns the kind of error, the log the reason."""
        reply = ask(digest)
        assert (reply.error.code, reply.error.reason) == (FAILED, "FederationError")
        assert trained == []
        assert kinds(north)[0][0] == "refused"

    def test_an_approved_study_that_was_altered(self, north, study, trained):
        """The approved copy is looked at with each message; the log says why it is not run."""
        path = north.path / "approved" / f"{study.digest}.toml"
        path.write_bytes(study.content.replace(b"rounds = 3", b"rounds = 9"))
        assert ask(study.digest).error.reason == "FederationError"
        assert trained == []
        ((kind, facts),) = kinds(north)
        assert kind == "refused"
        assert "was altered after it was signed" in facts["why"]

    def test_another_arm_than_approved(self, north, study, trained):
        """A study without privacy is not the private one, nor the other way round."""
        assert ask(study.digest, arm="federated-private").has_error()
        assert trained == []

    def test_a_replayed_message(self, north, study, trained):
        """The same message twice is answered once; a new one for the same round is not a replay."""
        assert ask(study.digest).has_content()
        assert ask(study.digest).has_error()
        assert "replays" in kinds(north)[-1][1]["why"]
        assert ask(study.digest, message_id="two").has_content()

    @pytest.mark.parametrize(
        "kind", ["query.log", "query.messages", "query", "evaluate", "train.x"]
    )
    @pytest.mark.parametrize("whose", ["north", "south"])
    def test_a_request_for_a_log(self, north, study, trained, kind, whose):
        """No message gets at a hospital's log, its own or another's; the asking is written down."""
        reply = ask(study.digest, kind=kind, arm=whose)
        assert (reply.error.code, reply.error.reason) == (FAILED, "FederationError")
        ((entry, facts),) = kinds(north)
        assert (entry, facts["why"]) == ("refused", kind)
        assert trained == []

    def test_the_command_shows_only_the_own_log(self, north):
        """Who names another hospital at this one's folder gets a sentence, and no line."""
        found = CliRunner().invoke(
            command_line, ["federation", "log", "south", "--folder", str(north.path)]
        )
        assert isinstance(found.exception, UsageError)
        assert "is the node of north, not of south" in str(found.exception)
        assert found.output == ""

    def test_a_round_that_is_over(self, north, study, trained):
        """A late message is neither trained nor charged; the same round again may be needed."""
        assert ask(study.digest, number=2).has_content()
        assert ask(study.digest, number=1, message_id="two").has_error()
        assert "Round 1 is over" in kinds(north)[-1][1]["why"]
        assert ask(study.digest, number=2, message_id="three").has_content()

    def test_a_message_whose_time_is_up(self, north, study, trained, monkeypatch):
        """Nobody waits for its answer."""
        real = time.time
        monkeypatch.setattr(hospital_app.time, "time", lambda: real() + 13 * 3600)
        ask(study.digest)
        assert trained == []
        assert "time of this message is up" in kinds(north)[-1][1]["why"]

    def test_another_version(self, north, study, trained, monkeypatch):
        """A hospital that was updated does not train a study of before."""
        monkeypatch.setattr("evenhand_federated.study.__version__", "9.9")
        assert ask(study.digest).error.reason == "FederationError"
        assert "Evenhand" in kinds(north)[0][1]["why"]

    @pytest.mark.parametrize(
        ("error", "code"), [(DataError(REPORT), FAILED), (BudgetError(REPORT), BUDGET_REFUSED)]
    )
    def test_of_an_error_only_the_kind_leaves(self, north, study, monkeypatch, error, code):
        """Neither the coordinator nor the log of messages learns what a file is called."""

        def fail(*_):
            raise error

        monkeypatch.setattr(HospitalNode, "train_round", fail)
        reply = ask(study.digest)
        assert (reply.error.code, reply.error.reason) == (code, type(error).__name__)
        assert REPORT not in north.messages().path.read_text()
        assert REPORT in north.home(study).log_path.read_text()

    def test_nothing_leaves_without_the_log(self, north, study, trained):
        """Where it cannot be written the hospital does not answer."""
        north.messages().path.mkdir()
        assert ask(study.digest).error.reason == "ResourceError"
        assert trained == []

    def test_a_full_disk_leaves_no_half_line(self, north, study, trained, monkeypatch):
        """What could not be written whole is cut off, so the log goes on when there is room."""
        log = north.messages()
        log.add("refused", what="first")
        before = log.path.read_bytes()

        def full(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(ResourceError, match="cannot be written"):
                log.add("refused", what="second")
        assert log.path.read_bytes() == before
        log.add("refused", what="third")
        assert log.faults() == []

    def test_a_changed_line_is_found(self, north, study, trained):
        """Whoever edits the log is told on by the hashes; so is a line that was taken out."""
        ask(study.digest)
        ask(study.digest, number=2, message_id="two")
        path = north.messages().path
        lines = path.read_bytes().splitlines(keepends=True)
        assert len(lines) == 4
        path.write_bytes(b"".join(lines).replace(b'\\"round\\":2', b'\\"round\\":7'))
        assert north.messages().faults()
        path.write_bytes(b"".join([lines[0], *lines[2:]]))
        assert north.messages().faults()
        path.write_bytes(b"".join(lines))
        assert north.messages().faults() == []


def test_weight_depends_on_content_alone():
    """Equal content has an equal hash whatever the order; one bit changes it."""

    def content(value, reverse=False):
        state = state_of(1, value)
        items = sorted(state.items(), reverse=reverse)
        return RecordDict({"arrays": ArrayRecord(dict(items))})

    assert weigh(content(2)) == weigh(content(2, reverse=True))
    assert weigh(content(2)).sha256 != weigh(content(3)).sha256
