"""Decisions by the routes: what must be seen and said before, and what is recorded."""

import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from evenhand.cases.hashing import array_sha256
from evenhand.cases.nifti import write_nifti
from evenhand.metrics import score_case
from evenhand.review import Verdict, claim_case
from evenhand_ui import deciding, routes, sitting
from evenhand_ui.drafts import Draft
from evenhand_ui.masks import read_mask
from evenhand_ui.office import office_of
from review_run import AFFINE, TUMOUR_SLICES, make_review_run, proposed_mask
from route_desk import SEEN, decide, entries, make_desk, painted, save, see


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A run with an empty proposal among its three."""
    return make_desk(make_review_run(tmp_path / "run", empty=("n002",)), monkeypatch)


class TestSeen:
    """The server keeps the account of what was seen."""

    def test_counts_down(self, desk):
        """What is missing is told after each report; it is kept over a restart."""
        assert see(desk, [2, 3]) == [4]
        office_of.cache_clear()
        again = office_of(desk.office.run.folder, None, None)
        reading = again.reading("n001", "Dr. Lee")
        assert reading.sitting.missing == [4]

    def test_nobody_claims_to_have_seen_all_at_once(self, desk, monkeypatch):
        """A forged report of all slices in one moment does not open Accept."""
        monkeypatch.setattr(sitting, "HEAD_START", 1)
        assert see(desk, range(6)) == [2, 3, 4]
        assert decide(desk, "accept").status_code == 409

    def test_what_comes_late_brings_nothing_back(self, desk, monkeypatch):
        """A report or stroke that was on its way during the decision leaves no draft behind."""
        place = desk.office.reading("n001", "Dr. Lee").place
        monkeypatch.setattr(routes, "_hold", lambda office, reading: office.finish(reading))
        for answer in (
            desk.ask("POST", "seen", json={"slices": SEEN}),
            save(desk, painted()),
        ):
            assert answer.status_code == 409
            assert "decided meanwhile" in answer.json()["error"]
        assert desk.office.drafts.read(place) == Draft()

    def test_readers_look_for_themselves(self, desk):
        """What one reader has seen, another has not."""
        assert see(desk) == []
        desk.office.reading("n001", "Dr. No")
        assert desk.office.reading("n001", "Dr. No").sitting.missing == SEEN


class TestDecision:
    """A decision is what was on the screen, or it is none."""

    def test_trained_again_meanwhile(self, desk):
        """Nothing is said, seen or drawn about a new proposal by who still sees the one before."""
        see(desk, [])
        other = proposed_mask()
        other[2:4, 2:4, 1] = 1
        write_nifti(desk.office.run.mask_path("n001"), other, AFFINE)
        late = desk.ask("POST", "seen", json={"slices": SEEN})
        for answer in (decide(desk, "reject", reason="boundary"), save(desk, painted()), late):
            assert answer.status_code == 409
            assert answer.json()["changed"]
        assert entries(desk) == []
        assert desk.ask("GET", "draft").status_code == 204
        desk.ask("GET", "proposal")
        assert decide(desk, "reject", reason="boundary").json() == {"position": 1}

    def test_accept(self, desk):
        """After all slices with tumour: recorded, with what was seen and which model it was."""
        see(desk)
        assert decide(desk, "accept").json() == {"position": 1}
        (entry,) = entries(desk)
        decision = entry.decision
        assert (decision.case_id, decision.reader, decision.verdict) == (
            "n001",
            "Dr. Lee",
            Verdict.ACCEPT,
        )
        assert decision.slices_seen == TUMOUR_SLICES
        assert decision.proposed_sha256 == array_sha256(proposed_mask())

    @pytest.mark.parametrize("seen", [[], [2, 3]])
    def test_accept_opens_late(self, desk, seen):
        """Nobody accepts what nobody has seen, whatever the browser shows."""
        see(desk, seen)
        answer = decide(desk, "accept")
        assert answer.status_code == 409
        assert "Look at all slices" in answer.json()["error"]
        assert entries(desk) == []

    def test_empty_proposal_wants_all(self, desk):
        """Where nothing is proposed, every slice could hold a missed tumour."""
        see(desk, range(5), case="n002")
        assert decide(desk, "accept", case="n002").status_code == 409
        see(desk, range(6), case="n002")
        assert decide(desk, "accept", case="n002").status_code == 200

    def test_correct(self, desk):
        """The painted mask is kept as stored, with strokes, Dice and HD95 to the proposal."""
        save(desk, painted(), strokes=7)
        answer = decide(desk, "correct", reason="boundary", comment="rim", revision=1)
        assert answer.status_code == 200
        (entry,) = entries(desk)
        decision = entry.decision
        case = desk.office.run.case("n001")
        kept = read_mask(desk.office.run.database.parent / decision.corrected_path, case)
        assert np.array_equal(kept, painted())
        assert decision.corrected_sha256 == array_sha256(painted())
        score = score_case(painted(), proposed_mask(), spacing=AFFINE.spacing_mm, nsd_tolerance=1.0)
        assert (decision.dice, decision.hd95) == (score.dice, score.hd95)
        assert (decision.strokes, decision.comment) == (7, "rim")
        assert desk.ask("GET", "draft").status_code == 204, "the draft is done with"

    @pytest.mark.parametrize(
        ("verdict", "reason", "why"),
        [
            ("correct", "", "choose a reason"),
            ("accept", "", "You have changed the mask"),
            ("reject", "boundary", "You have changed the mask"),
            ("cannot-judge", "poor-image", "You have changed the mask"),
        ],
    )
    def test_painted_work_is_not_forgotten(self, desk, verdict, reason, why):
        """Who has painted cannot decide past it; without a reason nothing is kept."""
        see(desk)
        save(desk, painted())
        answer = decide(desk, verdict, reason=reason, revision=1)
        assert answer.status_code == 409
        assert why in answer.json()["error"]
        assert entries(desk) == []
        assert not (desk.office.run.database.parent / "corrected").exists()

    def test_equal_mask_is_no_correction(self, desk):
        """A draft that went back to the proposal is accepted, not recorded as a correction."""
        save(desk, proposed_mask())
        see(desk)
        assert decide(desk, "correct", reason="boundary", revision=1).status_code == 409
        assert decide(desk, "accept", revision=1).status_code == 200

    def test_what_was_on_the_screen(self, desk):
        """A decision about another revision than the latest is refused."""
        save(desk, painted())
        assert decide(desk, "correct", reason="boundary", revision=0).status_code == 412
        assert entries(desk) == []

    @pytest.mark.parametrize("verdict", ["reject", "cannot-judge"])
    def test_needs_a_reason(self, desk, verdict):
        """Without a reason nothing is recorded; with one it is, before all slices were seen."""
        answer = decide(desk, verdict)
        assert (answer.status_code, "choose a reason" in answer.json()["error"]) == (409, True)
        assert decide(desk, verdict, reason="other").status_code == 409
        assert decide(desk, verdict, reason="poor-image", comment=" moved ").status_code == 200
        (entry,) = entries(desk)
        assert (entry.decision.verdict, entry.decision.comment) == (verdict, "moved")

    def test_taken_over(self, desk):
        """Who lost the case decides nothing about it."""
        see(desk)
        claim_case(
            desk.office.store, "federated", "n001", "Dr. No", now_s=time.time(), take_over=True
        )
        answer = decide(desk, "accept")
        assert "Dr. No has taken this case over; nothing was recorded." in answer.json()["error"]
        assert entries(desk) == []

    @pytest.mark.parametrize(
        "said",
        [{"verdict": "withdraw"}, {"verdict": "maybe"}, {"reason": "mood"}, {"revision": "x"}],
    )
    def test_unknown_words(self, desk, said):
        """Codes that do not exist, or not here, are refused."""
        whole = {"verdict": "reject", "reason": "boundary", "revision": 0} | said
        assert desk.ask("POST", "decision", json=whole).status_code == 400

    def test_database_away(self, desk, monkeypatch):
        """When the database cannot be reached the draft stays, and a second try works."""
        save(desk, painted())
        database = desk.office.run.database
        away = database.with_name("away")
        database.rename(away)
        answer = decide(desk, "correct", reason="boundary", revision=1)
        assert answer.status_code == 503, "the viewer keeps its copy and tries again"
        assert "nothing was recorded" in answer.json()["error"]
        assert save(desk, proposed_mask(), base=1).status_code == 503
        for leftover in database.parent.glob("review.sqlite*"):
            leftover.unlink()
        away.rename(database)
        assert decide(desk, "correct", reason="boundary", revision=1).status_code == 200


class TestAtOnce:
    """A decision that takes its time holds up its own case, and no other."""

    @pytest.fixture
    def deciding_lee(self, desk, monkeypatch):
        """Dr. Lee's correction of n001 is being written, until `go`."""
        go, begun = threading.Event(), threading.Event()
        write = deciding.keep_correction

        def slowly(path, case, mask):
            if case.case_id == "n001":
                begun.set()
                assert go.wait(120)
            write(path, case, mask)

        monkeypatch.setattr(deciding, "keep_correction", slowly)
        save(desk, painted())
        with ThreadPoolExecutor(2) as pool:
            answer = pool.submit(decide, desk, "correct", reason="boundary", revision=1)
            assert begun.wait(120)
            yield types.SimpleNamespace(answer=answer, go=go, pool=pool)
            go.set()

    def test_other_cases_go_on(self, desk, deciding_lee):
        """Meanwhile another reader saves, looks and decides."""

        def other():
            more = {"case": "n002", "reader": "Dr. Roe"}
            see(desk, range(6), **more)
            assert save(desk, painted(), **more).status_code == 200
            return decide(desk, "correct", reason="missed-tumour", revision=1, **more)

        assert deciding_lee.pool.submit(other).result(timeout=120).json() == {"position": 1}
        assert not deciding_lee.answer.done()
        deciding_lee.go.set()
        assert deciding_lee.answer.result(timeout=120).json() == {"position": 2}

    def test_nothing_slips_under_it(self, desk, deciding_lee):
        """A stroke from a second window is not in the decision, and is told so, not lost."""
        later = painted()
        later[2:6, 2:6, 1] = 1
        saving = deciding_lee.pool.submit(save, desk, later, base=1)
        deciding_lee.go.set()
        assert deciding_lee.answer.result(timeout=120).json() == {"position": 1}
        assert saving.result(timeout=120).status_code == 412
        (entry,) = entries(desk)
        assert entry.decision.corrected_sha256 == array_sha256(painted())
