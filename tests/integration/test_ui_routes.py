"""The routes between viewer and server: what they deliver, what they take, what they refuse."""

import errno
import gzip
import json
import time

import numpy as np
import pytest

from evenhand.cases.nifti import write_nifti
from evenhand.review import claim_case
from evenhand_ui import drafts
from evenhand_ui import routes as module
from evenhand_ui.drafts import Box
from evenhand_ui.routes import BODY_LIMIT_BYTES, make_routes, viewer_sources, viewer_version
from evenhand_ui.tickets import LIFETIME_S, READ, WRITE
from review_run import AFFINE, SHAPE, make_review_run, proposed_mask
from route_desk import entries, make_desk, painted, save, turned, volume_of


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A run with an empty proposal among its three."""
    return make_desk(make_review_run(tmp_path / "run", empty=("n002",)), monkeypatch)


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
        ("POST", "carry"),
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
