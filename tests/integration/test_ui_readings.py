"""Several readings of a case: blind to each other, adjudicated, and without the model first."""

import csv
import json

import numpy as np
import pytest

from evenhand.review import (
    Reason,
    Role,
    Stage,
    State,
    Verdict,
    release_claim,
)
from evenhand_ui.drafts import Box
from evenhand_ui.signing import meaning_at
from evenhand_ui.trail_files import export_run, verify_trail
from evenhand_ui.worklist import build_worklist
from review_people import with_people
from review_run import TUMOUR_SLICES, make_review_run, proposed_mask
from role_desk import decide, make_desk, painted, read_as, save, sign


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """Every case is read twice."""
    folder = with_people(make_review_run(tmp_path / "run"), more="second_share = 1.0")
    return make_desk(folder, monkeypatch)


class TestLesions:
    """Sizes of lesions are measured here, not in the browser, and recorded with the decision."""

    def test_of_the_recorded_mask(self, desk, tmp_path):
        """Two blocks of 2 x 2 x 5 mm voxels: volumes, diameters and slices, the larger first."""
        mask = np.zeros_like(proposed_mask())
        mask[2:6, 2:8, 1:3] = 1
        mask[15:18, 3, 5] = 1
        decision = read_as(desk, "r1", Role.READER, mask=mask).decision
        large, small = decision.lesions
        assert (large.volume_ml, small.volume_ml) == (48 * 0.02, 3 * 0.02)
        assert (large.slice, small.slice) == (1, 5)
        assert small.longest_diameter_mm == 6.0
        assert small.perpendicular_diameter_mm == 2.0
        export_run(desk.folder, tmp_path / "out")
        with (tmp_path / "out" / "decisions.csv").open(encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        assert json.loads(row["lesions"]) == [vars(large), vars(small)]
        page = (tmp_path / "out" / "decisions.html").read_text(encoding="utf-8")
        assert "0.06, 6.0 x\n2.0, 5" in page
        assert "slice (from 0, as stored)" in page, "the viewer counts from 1, and turned"

    def test_of_an_accepted_proposal(self, desk):
        """The proposal that was accepted is what was measured; what was rejected is not."""
        decision = read_as(desk, "r1", Role.READER).decision
        (one,) = decision.lesions
        assert one.volume_ml == round(proposed_mask().sum() * 0.02, 3)
        assert read_as(desk, "r2", Role.SECOND_READER, "reject").decision.lesions is None

    def test_without_millimetres(self, desk):
        """Where nobody knows the spacing, nothing is recorded as if it were millimetres."""
        vars(desk.office.run)["units"] = "voxel"
        assert read_as(desk, "r1", Role.READER).decision.lesions is None


class TestTwice:
    """The second reader is blind to the first, on every route; a third settles what differs."""

    def test_second_reader_sees_nothing_of_the_first(self, desk):
        """Whatever the second reader asks for before deciding, it is the same without a first."""
        second = {"who": "r2", "role": Role.SECOND_READER}
        paths = ("image/0", "proposal", "draft")
        before = [desk.ask("GET", path, **second) for path in paths]
        read_as(desk, "r1", Role.READER, mask=painted())
        after = [desk.ask("GET", path, **second) for path in paths]
        assert [(one.status_code, one.content) for one in before] == [
            (one.status_code, one.content) for one in after
        ]
        assert desk.ask("GET", "draft", **second).status_code == 204
        seen = desk.ask("POST", "seen", json={"slices": []}, **second)
        assert seen.json() == {"missing": list(TUMOUR_SLICES)}

    def test_claims_tell_nothing(self, desk):
        """That the first reader has the case open now keeps nobody from the second reading."""
        assert save(desk, painted()).status_code == 200
        answer = save(desk, painted(4), who="r2", role=Role.SECOND_READER)
        assert answer.status_code == 200

    def test_nobody_reads_twice(self, desk):
        """The first reader is not their own second, whatever roles they have."""
        read_as(desk, "r2", Role.READER)
        answer = desk.ask("GET", "proposal", who="r2", role=Role.SECOND_READER)
        assert answer.status_code == 403
        assert "in another role" in answer.json()["error"]

    def test_agreed(self, desk):
        """Two masks that are near enough: the first reading stands, and both are sealed."""
        near = proposed_mask()
        near[4:10, 6:12, 3] = 1
        near[20, 15, 3] = 1
        read_as(desk, "r1", Role.READER)
        read_as(desk, "r2", Role.SECOND_READER, mask=near)
        standing = desk.office.review("n001").standing
        assert standing.state is State.ACCEPTED
        assert 0.8 <= standing.dice < 1
        answer = decide(desk, "reject", reason="boundary")
        assert "only an adjudicator" in answer.json()["error"]

    def test_disputed_and_adjudicated(self, desk):
        """Too far apart: nobody's stands, until a third person has decided."""
        read_as(desk, "r1", Role.READER)
        read_as(desk, "r2", Role.SECOND_READER, mask=painted())
        assert desk.office.review("n001").standing.state is State.DISPUTED
        answer = desk.ask("GET", "proposal", who="r1", role=Role.ADJUDICATOR)
        assert answer.status_code == 403
        entry = read_as(desk, "adj", Role.ADJUDICATOR, "reject")
        assert entry.decision.stage is Stage.ADJUDICATION
        assert desk.office.review("n001").standing.state is State.REJECTED


@pytest.fixture
def unaided(tmp_path, monkeypatch):
    """Every case is judged before its proposal is shown."""
    folder = with_people(make_review_run(tmp_path / "run"), more="unaided_share = 1.0")
    return make_desk(folder, monkeypatch)


class TestUnaided:
    """Who must judge first gets nothing of the model before."""

    def test_proposal_comes_after(self, unaided):
        """The proposal is empty until the reader has drawn; then it comes, with their drawing."""
        assert unaided.ask("GET", "proposal").headers["X-Evenhand-Box"] == "0,0,0,0,0,0"
        assert save(unaided, painted()).status_code == 200
        answer = decide(unaided, "correct", reason="boundary", revision=1)
        assert answer.json() == {"position": 1}
        (entry,) = unaided.office.store.entries()
        decision = entry.decision
        assert (decision.verdict, decision.reason) == (Verdict.UNAIDED, None)
        assert 0 < decision.dice < 1, "to the true proposal, which was not shown"
        assert unaided.office.review("n001").standing.state is State.OPEN
        assert unaided.ask("GET", "proposal").headers["X-Evenhand-Box"] != "0,0,0,0,0,0"
        draft = unaided.ask("GET", "draft")
        box = Box.parse(draft.headers["X-Evenhand-Box"], (24, 20, 6))
        mine = np.zeros((24, 20, 6), dtype=np.uint8)
        mine[box.slices] = np.frombuffer(draft.content, np.uint8).reshape(box.shape[::-1]).T
        assert np.array_equal(mine[::-1], painted())
        answer = decide(unaided, "correct", reason=Reason.MISSED_TUMOUR, revision=1)
        assert answer.json() == {"position": None}
        assert sign(unaided, "r1").position == 2

    def test_signed_with_the_decision(self, unaided, tmp_path):
        """One signature covers both readings: it names the first by its hash, and says so."""
        save(unaided, painted())
        decide(unaided, "correct", reason="boundary", revision=1)
        (first,) = unaided.office.store.entries()
        assert first.decision.signature is None
        unaided.ask("GET", "proposal")
        decide(unaided, "correct", reason=Reason.MISSED_TUMOUR, revision=1)
        reading = unaided.office.reading("n001", "r1")
        shown = meaning_at(unaided.office, reading, unaided.office.to_sign[reading.place])
        decision = sign(unaided, "r1").decision
        assert decision.unaided_sha256 == first.sha256
        assert decision.signature.meaning == shown
        assert "first reading" in shown
        assert f"{first.decided_at_utc:%Y-%m-%d %H:%M}" in shown
        assert verify_trail(unaided.folder).startswith("2 decisions, chain intact")
        export_run(unaided.folder, tmp_path / "out")
        page = (tmp_path / "out" / "decisions.html").read_text(encoding="utf-8")
        assert "signed with decision\n2" in page
        assert "not signed" not in page

    def test_nothing_is_said_of_what_was_not_shown(self, unaided):
        """Who never got the answer to their unaided reading says nothing of the hidden proposal."""
        save(unaided, painted())
        decide(unaided, "correct", reason="boundary", revision=1)
        again = decide(unaided, "correct", reason="boundary", revision=1)
        stroke = save(unaided, painted(), base=1)
        seen = unaided.ask("POST", "seen", json={"slices": [0]})
        for answer in (again, stroke, seen):
            assert answer.status_code == 409
            assert answer.json()["changed"]
            assert "The proposal has changed; look again" in answer.json()["error"]
        assert len(unaided.office.store.entries()) == 1
        reading = unaided.office.reading("n001", "r1")
        assert reading.place not in unaided.office.to_sign
        assert unaided.office.drafts.read(reading.place).revision == 1
        unaided.ask("GET", "proposal")
        assert decide(unaided, "correct", reason="boundary", revision=1).status_code == 200

    def test_only_ones_own(self, unaided):
        """A case that another has read unaided is no part of one's signature."""
        save(unaided, painted())
        decide(unaided, "correct", reason="boundary", revision=1)
        release_claim(unaided.office.store, "federated", "n001", "r1")
        answer = decide(unaided, "cannot-judge", reason="poor-image", who="r2")
        assert answer.json() == {"position": None}
        decision = sign(unaided, "r2").decision
        assert decision.unaided_sha256 is None
        assert "first reading" not in decision.signature.meaning

    def test_the_model_is_not_asked_before(self, unaided):
        """Neither a prompt nor a heat map tells what the model thinks, before the reader judged."""
        assert unaided.ask("GET", "prompt").status_code == 409
        said = {"slice": 3, "box": [0, 0, 3, 9, 9, 3]}
        assert unaided.ask("POST", "prompt", json=said).status_code == 409
        assert unaided.ask("GET", "uncertainty").status_code == 409

    def test_no_tumour(self, unaided):
        """That there is no tumour wants all slices seen, and is a reading without a voxel."""
        assert decide(unaided, "accept").status_code == 409
        unaided.ask("POST", "seen", json={"slices": list(range(6))})
        assert decide(unaided, "accept").json() == {"position": 1}
        decision = unaided.office.store.entries()[0].decision
        assert (decision.verdict, decision.dice) == (Verdict.UNAIDED, 0.0)

    def test_nothing_to_reject(self, unaided):
        """What was not shown cannot be rejected."""
        answer = decide(unaided, "reject", reason="boundary")
        assert "No proposal was shown yet" in answer.json()["error"]

    def test_each_for_themselves(self, unaided):
        """One reader's drawing does not show the proposal to another."""
        save(unaided, painted())
        decide(unaided, "correct", reason="boundary", revision=1)
        box = unaided.ask("GET", "proposal", who="r2").headers["X-Evenhand-Box"]
        assert box == "0,0,0,0,0,0"

    def test_cannot_judge_is_no_reading(self, unaided):
        """Who says so without having drawn has not read: the proposal stays hidden from them."""
        answer = decide(unaided, "cannot-judge", reason="poor-image")
        assert answer.json() == {"position": None}
        sign(unaided, "r1")
        assert unaided.ask("GET", "proposal").headers["X-Evenhand-Box"] == "0,0,0,0,0,0"
        unaided.ask("POST", "seen", json={"slices": list(range(6))})
        assert decide(unaided, "accept").json() == {"position": 2}
        assert unaided.office.store.entries()[-1].decision.verdict is Verdict.UNAIDED

    def test_nothing_of_anothers(self, unaided):
        """Before their own reading nobody sees what another has said, drawn or come to."""
        save(unaided, painted())
        decide(unaided, "correct", reason="boundary", revision=1)
        unaided.ask("GET", "proposal")
        decide(unaided, "correct", reason="boundary", revision=1)
        sign(unaided, "r1")
        review = unaided.office.review("n001")
        assert review.standing.state is State.CORRECTED
        for who, known in (("r1", True), ("r2", False)):
            items = build_worklist(unaided.office.run, {"n001": review}, person_id=who)
            (item,) = items
            assert (item.latest is not None, item.decided is not None) == (known, known)
            assert item.state is (State.CORRECTED if known else State.OPEN)
            assert bool(review.visible_to(who, Role.READER)) is known
            assert (review.own(who, Role.READER) is not None) is known
