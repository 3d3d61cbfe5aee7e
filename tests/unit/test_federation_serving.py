"""What the serving process starts and starts again, and when it gives a study up."""

import numpy as np
import pytest
import torch

from evenhand.errors import FederationError
from evenhand.training.moments import write_moments
from evenhand_federated import coordinator_app
from evenhand_federated import serve as serving
from evenhand_federated.checkpoint import kept_start
from evenhand_federated.coordinator import CoordinatorFolder, Member
from evenhand_federated.fixed_point import WIDE
from evenhand_federated.kept_opening import KeptOpening, Opening
from evenhand_federated.masked_sum import Contributor, UnopenedSumError
from evenhand_federated.serve import ATTEMPTS, Coordinator
from evenhand_federated.testing import FakeGrid
from federation_fakes import context_of
from federation_places import admit_by_name, make_coordinator, make_study


@pytest.fixture
def centre(tmp_path, monkeypatch):
    """A coordinator whose SuperLink is a list of the commands that it was given."""
    centre = make_coordinator(tmp_path / "centre")
    (centre.path / "flower").mkdir()
    admit_by_name(centre)
    commands = []

    def operate(_home, *words):
        commands.append(words)
        return {"run-id": str(len(commands)), "node-id": 100 + len(commands)}

    monkeypatch.setattr(serving, "operate", operate)
    object.__setattr__(centre, "commands", commands)
    return centre


def half_opened(folder, answers):
    """What is kept of the first round's sum of two hospitals, opened by those in `answers`."""
    hospitals = {name: Contributor(name, "context", 2) for name in "ab"}
    keys = {name: one.public() for name, one in hospitals.items()}
    sent = {name: one.mask(keys, np.ones(3), ring=WIDE, told="") for name, one in hospitals.items()}
    kept = KeptOpening(folder)
    masked = {name: one.values for name, one in sent.items()}
    kept.begin(Opening(1, "context", 2, ("a", "b"), masked))
    for name in answers:
        shares = {other: one.shares[name] for other, one in sent.items()}
        kept.add(name, hospitals[name].unmask(shares))
    return kept


class TestServing:
    """What the serving process starts, starts again, and gives up."""

    @pytest.fixture
    def study(self, tmp_path, centre):
        """A submitted study."""
        study = make_study(centre, tmp_path / "study.toml")
        centre.submit(study)
        return study

    def test_starts_what_was_submitted_once(self, centre, study):
        """While its ServerApp starts, and while it runs, it is not started again."""
        coordinator = Coordinator(centre, lambda _: None)
        coordinator.step()
        coordinator.step()
        with centre.running(study.digest):
            coordinator.step()
        assert [words[0] for words in centre.commands] == ["run"]
        assert centre.state(study.digest).run_id == 1

    def test_registers_who_was_admitted(self, tmp_path, centre):
        """A hospital that is admitted while it serves is let in; its node is known by number."""
        centre.keep_member(Member("west", "ecdsa-sha2-nistp384 WEST", "2026-01-01"))
        Coordinator(centre, lambda _: None).step()
        assert centre.commands[0][:2] == ("supernode", "register")
        assert centre.members()["west"].node_id == 101

    def test_a_restarted_coordinator_goes_on(self, centre, study):
        """What was running when the machine died is started again without anybody's command."""
        Coordinator(centre, lambda _: None).step()
        Coordinator(centre, lambda _: None).step()
        assert [words[0] for words in centre.commands] == ["run", "run"]

    def test_gives_up_with_the_reason(self, centre, study):
        """A study that gets nowhere is not started without end; the reason is kept."""
        said = []
        for _ in range(ATTEMPTS + 3):
            Coordinator(centre, said.append).step()
            centre.change_state(study.digest, reason="2 hospitals are needed; missing: south")
        state = centre.state(study.digest)
        assert len(centre.commands) == ATTEMPTS
        assert state.status == "failed"
        assert "missing: south" in " ".join(said)
        centre.submit(study)
        Coordinator(centre, said.append).step()
        assert len(centre.commands) == ATTEMPTS + 1

    def test_progress_resets_the_count(self, centre, study, monkeypatch):
        """A study that finishes a round between two deaths is never given up."""
        done = iter(range(100))
        monkeypatch.setattr(serving, "finished_rounds", lambda _: next(done))
        for _ in range(ATTEMPTS + 3):
            Coordinator(centre, lambda _: None).step()
        assert centre.state(study.digest).status == "submitted"

    def test_a_start_from_phantoms_that_gets_further_is_progress(self, centre, study):
        """Killed over and over while it trains on phantoms, a study goes on as long as it moves."""
        start = kept_start(centre.arm(study.digest))
        start.parent.mkdir(parents=True)
        for number in range(ATTEMPTS + 3):
            Coordinator(centre, lambda _: None).step()
            kept = {"losses": torch.zeros(number + 1)}
            kept |= {name: torch.zeros(1) for name in ("generator", "dropout")}
            write_moments(start, kept)
        assert centre.state(study.digest).status == "submitted"
        for _ in range(ATTEMPTS):
            assert centre.state(study.digest).status == "submitted"
            Coordinator(centre, lambda _: None).step()
        Coordinator(centre, lambda _: None).step()
        assert centre.state(study.digest).status == "failed"

    def test_stopped(self, centre, study):
        """A study that is stopped while it runs is ended, and not started again."""
        coordinator = Coordinator(centre, lambda _: None)
        coordinator.step()
        centre.change_state(study.digest, status="stopped")
        with centre.running(study.digest):
            coordinator.step()
        coordinator.step()
        assert [words[0] for words in centre.commands] == ["run", "stop"]

    def test_stopped_keeps_no_hidden_sum(self, centre, study):
        """Not while its process may still write there; then it goes, opened or not."""
        kept = half_opened(centre.arm(study.digest).path, answers="ab")
        centre.change_state(study.digest, status="stopped")
        with centre.running(study.digest):
            Coordinator(centre, lambda _: None).step()
            assert kept.sum_of(1) is not None
        Coordinator(centre, lambda _: None).step()
        assert list(kept.folder.glob("opening.*")) == []

    @pytest.mark.parametrize(("answers", "left"), [("a", 0), ("ab", 2)])
    def test_given_up_keeps_what_opens_a_hidden_sum(self, centre, study, answers, left):
        """Submitted again it finishes that round unpaid; what opens nothing goes."""
        kept = half_opened(centre.arm(study.digest).path, answers=answers)
        for _ in range(ATTEMPTS + 1):
            assert centre.state(study.digest).status == "submitted"
            assert len(list(kept.folder.glob("opening.*"))) == 2
            Coordinator(centre, lambda _: None).step()
        assert centre.state(study.digest).status == "failed"
        assert len(list(kept.folder.glob("opening.*"))) == left

    def test_a_link_that_does_not_answer(self, centre, study, monkeypatch):
        """The door stays open, it is said once, and after some tries the study is given up."""

        def refuse(*_):
            raise FederationError("The SuperLink did not answer.")

        monkeypatch.setattr(serving, "operate", refuse)
        said = []
        coordinator = Coordinator(centre, said.append)
        for _ in range(ATTEMPTS + 3):
            coordinator.step()
        assert said[0] == "Not done: The SuperLink did not answer."
        assert len(said) == 2
        assert "did not take the run" in said[1]
        assert centre.state(study.digest).status == "failed"

    def test_a_damaged_study_does_not_shut_the_door(self, centre, study):
        """It is named; hospitals that train something else go on."""
        path = centre.study_folder(study.digest) / "study.toml"
        path.write_bytes(path.read_bytes()[:-10])
        said = []
        coordinator = Coordinator(centre, said.append)
        coordinator.step()
        coordinator.step()
        assert len(said) == 1
        assert study.digest in said[0]

    def test_a_damaged_study_does_not_hold_up_another(self, tmp_path, centre, study):
        """Whichever comes first: the one that can be read is started."""
        damaged = centre.path / "studies" / ("0" * 64) / "study.toml"
        damaged.parent.mkdir()
        damaged.write_text("rubbish")
        said = []
        Coordinator(centre, said.append).step()
        assert [words[0] for words in centre.commands] == ["run"]
        assert any("0" * 64 in line for line in said)
        assert centre.find("tiny") == study.digest

    @pytest.mark.parametrize(
        ("arm", "status"), [("federated-private", "failed"), ("federated", "submitted")]
    )
    def test_an_unopened_sum_is_not_paid_for_again(self, tmp_path, monkeypatch, arm, status):
        """Of a private study no round is tried again by itself: each try is charged."""
        own = make_coordinator(tmp_path / "other")
        admit_by_name(own)
        study = make_study(own, tmp_path / "hidden.toml", arm=arm)
        own.submit(study)

        def fails(*_):
            raise UnopenedSumError("no sum")

        monkeypatch.setattr(CoordinatorFolder, "of_environment", lambda: own)
        monkeypatch.setattr(coordinator_app, "_end_with_server", lambda _: None)
        monkeypatch.setattr(coordinator_app, "_run", fails)
        context = context_of(0)
        context.run_config["study"] = study.digest
        with pytest.raises(UnopenedSumError):
            coordinator_app.main(FakeGrid({}), context)
        assert (own.state(study.digest).status, own.state(study.digest).reason) == (
            status,
            "no sum",
        )

    def test_one_at_a_time(self, tmp_path, centre, study):
        """A second study waits: hospitals train one thing at a time."""
        other = make_study(centre, tmp_path / "other.toml", name="other")
        centre.submit(other)
        coordinator = Coordinator(centre, lambda _: None)
        coordinator.step()
        assert len(centre.commands) == 1


class TestOneServer:
    """One process serves a coordinator, and what it started ends with it."""

    def test_a_second_one_is_refused(self, centre):
        """Two SuperLinks on one database would break it."""
        with (
            centre.serving(),
            pytest.raises(FederationError, match="served already"),
            centre.serving(),
        ):
            pytest.fail("two serve")

    def test_what_it_started_knows_when_it_is_gone(self, centre):
        """A ServerApp whose SuperLink was killed would hold its study for ever."""
        with centre.serving() as token:
            assert centre.is_served_by(token)
            assert not centre.is_served_by("another")
        assert not centre.is_served_by(token)
        with centre.serving() as later:
            assert not centre.is_served_by(token)
            assert centre.is_served_by(later)
