"""The routes between viewer and server: what they deliver, what they take, what they refuse."""

import asyncio
import errno
import gzip
import json
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from evenhand.cases.hashing import array_sha256
from evenhand.cases.nifti import write_nifti
from evenhand.metrics import score_case
from evenhand.review import ReviewStore, Verdict, claim_case
from evenhand_ui import deciding, drafts, sitting
from evenhand_ui import routes as module
from evenhand_ui.drafts import Box
from evenhand_ui.masks import read_mask
from evenhand_ui.office import office_of
from evenhand_ui.routes import BODY_LIMIT_BYTES, make_routes, viewer_sources, viewer_version
from evenhand_ui.tickets import LIFETIME_S, READ, WRITE
from evenhand_ui.volumes import pack
from review_run import AFFINE, SHAPE, TUMOUR_SLICES, make_review_run, proposed_mask

SEEN = list(TUMOUR_SLICES)
"""In the test's cases k runs upwards, so the viewer counts as the file does."""


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A run behind its routes, and a reader's requests to it."""
    monkeypatch.setattr(sitting, "HEAD_START", 1000)
    office = office_of(make_review_run(tmp_path / "run", empty=("n002",)), None, None)
    transport = httpx.ASGITransport(Starlette(routes=make_routes(lambda: office)))

    async def send(method, path, **more):
        async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
            return await client.request(method, path, **more)

    def request(method, path, **more):
        return asyncio.run(send(method, path, **more))

    def ask(
        method, path, *, case="n001", reader="Dr. Lee", action=WRITE, ticket=None, head=None, **more
    ):
        opaque = office.tickets.opaque(case)
        if ticket is None:
            ticket = office.tickets.issue(reader, opaque, action, now_s=time.time())
        headers = {"X-Evenhand-Ticket": ticket, **(head or {})}
        return request(method, f"/evenhand/case/{opaque}/{path}", headers=headers, **more)

    return types.SimpleNamespace(office=office, request=request, ask=ask)


def volume_of(response, shape, dtype=np.uint8):
    """A packed volume as (x, y, z)."""
    return np.frombuffer(response.content, dtype=dtype).reshape(shape[::-1]).T


def turned(mask):
    """A stored mask as the viewer gets it: i runs to the patient's left in these cases."""
    return mask[::-1]


def painted():
    """The proposal with some voxels more and one less, as stored."""
    mask = proposed_mask()
    mask[20:22, 15, 5] = 1
    mask[8, 8, 3] = 0
    return mask


def save(desk, mask, *, base=0, strokes=2, box=None, body=None, **more):
    """Save a stored mask as the viewer does."""
    view = turned(mask)
    box = box or Box.around(view)
    head = {
        "If-Match": f'"{base}"',
        "X-Evenhand-Box": str(box),
        "X-Evenhand-Strokes": str(strokes),
    }
    content = pack(view[box.slices]) if body is None else body
    return desk.ask("PUT", "draft", content=content, head=head, **more)


def decide(desk, verdict, *, reason="", comment="", revision=0, **more):
    """Decide as the viewer does."""
    said = {"verdict": verdict, "reason": reason, "comment": comment, "revision": revision}
    return desk.ask("POST", "decision", json=said, **more)


def see(desk, slices=SEEN, **more):
    """Report slices as the viewer does; what is missing then."""
    return desk.ask("POST", "seen", json={"slices": list(slices)}, **more).json()["missing"]


def entries(desk):
    """All that was recorded."""
    with ReviewStore(desk.office.run.database) as store:
        return store.entries()


class TestVoxels:
    """What goes out is the case, turned to RAS."""

    def test_image(self, desk, monkeypatch):
        """Numbers, slope and intercept give the image's values, in the viewer's order."""
        answer = desk.ask("GET", "image/0", action=READ)
        how = json.loads(answer.headers["X-Evenhand-Image"])
        values = volume_of(answer, SHAPE, "<i2") * how["slope"] + how["intercept"]
        case = desk.office.run.case("n001")
        stored = desk.office.run.stores["north"].volumes(case).images["FLAIR"]
        assert np.abs(values - turned(stored)).max() < np.ptp(stored) / 60_000
        assert answer.headers["Cache-Control"] == "no-store"
        # On one machine it is sent plain, and Streamlit is kept from packing it slowly.
        assert answer.headers["Content-Encoding"] == "identity"
        monkeypatch.setattr(module, "_THIS_MACHINE", frozenset())
        packed = desk.ask("GET", "image/0", action=READ)
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.content == answer.content

    def test_proposal(self, desk):
        """The mask comes as the box that holds it."""
        answer = desk.ask("GET", "proposal", action=READ)
        box = Box.parse(answer.headers["X-Evenhand-Box"], SHAPE)
        whole = np.zeros(SHAPE, dtype=np.uint8)
        whole[box.slices] = volume_of(answer, box.shape)
        assert np.array_equal(whole, turned(proposed_mask()))

    def test_empty_proposal(self, desk):
        """No tumour is a box without a voxel."""
        answer = desk.ask("GET", "proposal", case="n002")
        assert answer.headers["X-Evenhand-Box"] == "0,0,0,0,0,0"
        assert answer.content == b""

    def test_uncertainty(self, desk):
        """One bit where the model was even, nothing where it was sure; 204 where none was kept."""
        assert desk.ask("GET", "uncertainty").status_code == 204
        values = np.zeros(SHAPE, dtype=np.uint8)
        values[20, 15, 5], values[21, 15, 5], values[1, 1, 1] = 127, 230, 1
        path = desk.office.run.probability_path("n001")
        path.parent.mkdir()
        write_nifti(path, values, AFFINE)
        answer = desk.ask("GET", "uncertainty")
        box = Box.parse(answer.headers["X-Evenhand-Box"], SHAPE)
        whole = np.zeros(SHAPE, dtype=np.uint8)
        whole[box.slices] = volume_of(answer, box.shape)
        p = 230 / 255
        bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
        assert turned(whole)[20, 15, 5] == 255
        assert turned(whole)[21, 15, 5] == round(255 * bits)
        assert np.count_nonzero(whole) == 2
        write_nifti(path, values[:-1], AFFINE)
        assert desk.ask("GET", "uncertainty").status_code == 422

    def test_viewer_code(self, desk):
        """The viewer's own files come by name and version, with no case in them, and last."""
        for name, content in viewer_sources().items():
            answer = desk.request("GET", f"/evenhand/viewer/{viewer_version()}/{name}")
            assert answer.content == content
            assert "immutable" in answer.headers["Cache-Control"]
        for path in (
            "0/main.js",
            f"{viewer_version()}/routes.py",
            f"{viewer_version()}/..%2Fcli.py",
        ):
            assert desk.request("GET", f"/evenhand/viewer/{path}").status_code == 404


class TestDraft:
    """What was painted comes back voxel for voxel."""

    def test_comes_back(self, desk):
        """A saved draft is read as it was sent, with revision and strokes, by its reader only."""
        assert desk.ask("GET", "draft").status_code == 204
        assert save(desk, painted()).json() == {"revision": 1}
        answer = desk.ask("GET", "draft")
        box = Box.parse(answer.headers["X-Evenhand-Box"], SHAPE)
        assert np.array_equal(volume_of(answer, box.shape), turned(painted())[box.slices])
        assert (answer.headers["ETag"], answer.headers["X-Evenhand-Strokes"]) == ('"1"', "2")
        assert desk.ask("GET", "draft", reader="Dr. No", action=READ).status_code == 204

    def test_two_windows(self, desk):
        """The window that is behind is told so, and which revision there is."""
        save(desk, painted())
        answer = save(desk, proposed_mask())
        assert answer.status_code == 412
        assert answer.json()["revision"] == 1
        assert "Nothing was overwritten" in answer.json()["error"]

    def test_taken_over(self, desk):
        """Who lost the case to another reader saves nothing more, and is told who has it."""
        save(desk, painted())
        claim_case(
            desk.office.store, "federated", "n001", "Dr. No", now_s=time.time(), take_over=True
        )
        answer = save(desk, proposed_mask(), base=1)
        assert answer.status_code == 409
        assert "Dr. No has taken this case over; your draft is kept." in answer.json()["error"]

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            ({"box": Box((0, 0, 0), (25, 1, 1))}, 422),
            ({"body": gzip.compress(b"\0" * 10)}, 422),
            ({"body": gzip.compress(b"\2" * 24 * 20 * 6), "box": Box((0, 0, 0), SHAPE)}, 422),
            ({"body": gzip.compress(bytes(256 << 20), 9)}, 422),
            ({"body": b"x" * (BODY_LIMIT_BYTES + 1)}, 413),
            ({"base": "one"}, 422),
            ({"strokes": -1}, 422),
        ],
    )
    def test_bad_masks(self, desk, change, status):
        """Too large, outside, bombs, other values, no revision: refused, and the draft stays."""
        save(desk, painted())
        answer = save(desk, painted(), **({"base": 1} | change))
        assert answer.status_code == status
        assert answer.json()["error"].endswith(".")
        assert desk.ask("GET", "draft").headers["ETag"] == '"1"'

    def test_full_disk_can_be_tried_again(self, desk, monkeypatch):
        """A full disk is the server's trouble, not the mask's: 503, and the draft stays."""
        save(desk, painted())

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(drafts, "_write", full)
            answer = save(desk, painted(), base=1)
        assert answer.status_code == 503
        assert "free some disk space" in answer.json()["error"]
        assert save(desk, painted(), base=1).json() == {"revision": 2}

    def test_body_without_a_length(self, desk):
        """A body that does not say how long it is is cut off where the limit is."""
        sent = []

        async def endless():
            for _ in range(64):
                sent.append(1)
                yield b"x" * (1 << 20)

        answer = save(desk, painted(), body=endless())
        assert answer.status_code == 413


class TestProtection:
    """Nothing without a ticket of this page, nothing from another site."""

    ALL = (
        ("GET", "image/0"),
        ("GET", "other/0"),
        ("GET", "proposal"),
        ("GET", "draft"),
        ("GET", "prompt"),
        ("GET", "uncertainty"),
        ("PUT", "draft"),
        ("POST", "seen"),
        ("POST", "prompt"),
        ("POST", "decision"),
    )

    @pytest.mark.parametrize(("method", "path"), ALL)
    def test_no_ticket(self, desk, method, path):
        """Every route wants one."""
        assert desk.ask(method, path, ticket="").status_code == 403
        assert desk.ask(method, path, ticket="eyJ9.00").status_code == 403

    @pytest.mark.parametrize(("method", "path"), ALL)
    def test_ticket_of_another_case(self, desk, method, path):
        """A ticket opens its case only: nobody sees another's case or draft."""
        tickets = desk.office.tickets
        other = tickets.issue("Dr. Lee", tickets.opaque("s001"), WRITE, now_s=time.time())
        assert desk.ask(method, path, ticket=other).status_code == 403

    @pytest.mark.parametrize(("method", "path"), ALL)
    @pytest.mark.parametrize(
        "head",
        [
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://["},
            {"Origin": "http://page.evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ],
    )
    def test_foreign_origin(self, desk, method, path, head):
        """Another site's page gets nothing, even with a ticket."""
        assert desk.ask(method, path, head=head).status_code == 403

    def test_own_origin(self, desk):
        """The page itself is let in."""
        head = {"Origin": "http://page", "Sec-Fetch-Site": "same-origin"}
        assert desk.ask("GET", "proposal", head=head).status_code == 200

    @pytest.mark.parametrize(("method", "path"), ALL[6:])
    def test_looking_only(self, desk, method, path):
        """A ticket to look does not change anything."""
        assert desk.ask(method, path, action=READ).status_code == 403

    def test_expired(self, desk):
        """A ticket that is too old is told apart, so that the page can renew it."""
        tickets, opaque = desk.office.tickets, desk.office.tickets.opaque("n001")
        old = tickets.issue("Dr. Lee", opaque, WRITE, now_s=time.time() - LIFETIME_S - 1)
        assert desk.ask("GET", "proposal", ticket=old).status_code == 401

    @pytest.mark.parametrize("case", ["n001", "..%2F..%2Fetc", "0" * 20, "%00"])
    def test_case_that_was_never_handed_out(self, desk, case):
        """A case is looked up, not put into a path: its true name opens nothing either."""
        ticket = desk.office.tickets.issue("A", case, WRITE, now_s=time.time())
        path = f"/evenhand/case/{case}/proposal"
        answer = desk.request("GET", path, headers={"X-Evenhand-Ticket": ticket})
        assert answer.status_code in {403, 404}

    @pytest.mark.parametrize("number", ["1", "99", "-1", "x"])
    def test_no_such_sequence(self, desk, number):
        """A sequence that the case does not have is refused."""
        assert desk.ask("GET", f"image/{number}").status_code == 404

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "null", "[" * 10_000, '{"slices": [true]}', '{"slices": "all"}']
    )
    def test_nonsense(self, desk, text):
        """What cannot be read is refused, and nothing is recorded."""
        assert desk.ask("POST", "seen", content=text).status_code == 400
        assert desk.ask("POST", "decision", content=text).status_code == 400
        assert entries(desk) == []

    def test_endless_revision(self, desk):
        """A revision that is no number of this world is refused as the browser's fault."""
        said = '{"verdict": "accept", "revision": 1e999}'
        answer = desk.ask("POST", "decision", content=said)
        assert answer.status_code == 400
        assert "cannot be read" in answer.json()["error"]

    def test_broken_file_shows_no_path(self, desk, tmp_path):
        """An error names the file, never where it lies."""
        desk.office.run.mask_path("n001").write_bytes(b"broken")
        answer = desk.ask("GET", "proposal")
        assert answer.status_code == 422
        assert str(tmp_path) not in answer.text


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

    def test_readers_look_for_themselves(self, desk):
        """What one reader has seen, another has not."""
        assert see(desk) == []
        desk.office.reading("n001", "Dr. No")
        assert desk.office.reading("n001", "Dr. No").sitting.missing == SEEN


class TestDecision:
    """A decision is what was on the screen, or it is none."""

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
                assert go.wait(30)
            write(path, case, mask)

        monkeypatch.setattr(deciding, "keep_correction", slowly)
        save(desk, painted())
        with ThreadPoolExecutor(2) as pool:
            answer = pool.submit(decide, desk, "correct", reason="boundary", revision=1)
            assert begun.wait(30)
            yield types.SimpleNamespace(answer=answer, go=go, pool=pool)
            go.set()

    def test_other_cases_go_on(self, desk, deciding_lee):
        """Meanwhile another reader saves, looks and decides."""

        def other():
            more = {"case": "n002", "reader": "Dr. Roe"}
            see(desk, range(6), **more)
            assert save(desk, painted(), **more).status_code == 200
            return decide(desk, "correct", reason="missed-tumour", revision=1, **more)

        assert deciding_lee.pool.submit(other).result(timeout=20).json() == {"position": 1}
        assert not deciding_lee.answer.done()
        deciding_lee.go.set()
        assert deciding_lee.answer.result(timeout=30).json() == {"position": 2}

    def test_nothing_slips_under_it(self, desk, deciding_lee):
        """A stroke from a second window is not in the decision, and is told so, not lost."""
        later = painted()
        later[2:6, 2:6, 1] = 1
        saving = deciding_lee.pool.submit(save, desk, later, base=1)
        deciding_lee.go.set()
        assert deciding_lee.answer.result(timeout=30).json() == {"position": 1}
        assert saving.result(timeout=30).status_code == 412
        (entry,) = entries(desk)
        assert entry.decision.corrected_sha256 == array_sha256(painted())


def test_routes_are_all_tried():
    """A route that is added is added to the tests of protection."""
    made = {
        (method, route.path.rpartition("{case}/")[2].replace("{number:int}", "0"))
        for route in make_routes(lambda: None)
        for method in route.methods - {"HEAD"}
        if "{case}" in route.path
    }
    assert made == set(TestProtection.ALL)
    assert module.BODY_LIMIT_BYTES == 16 << 20
