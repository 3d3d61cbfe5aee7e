"""A mask carried on to neighbouring slices by the routes, and which slice the model reads first."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from evenhand.errors import ResourceError
from evenhand.model.adapted import AdaptedModel
from evenhand.model.embeddings import EmbeddingCache, FrozenEncoder
from evenhand_ui import assistant as assistant_module
from evenhand_ui import prompting
from evenhand_ui.drafts import Box
from evenhand_ui.volumes import Canonical, pack
from prompt_desk import PATIENCE_S, desk_of, end_desks
from review_model import answer_box, give_model, install
from review_run import SHAPE, make_review_run, make_run_of, stored_as


@pytest.fixture(autouse=True)
def _alone():
    """No test has another's model beside it."""
    yield
    end_desks()


LESION = (slice(4, 14), slice(6, 16), slice(3, 9))
"""Where the phantom is bright (x, y, z)."""


def answer_within(model, hidden, *, boxes=None, points=None):
    """What lies in the box, less the margin that it was drawn with."""
    x0, y0, x1, y1 = boxes[0].tolist()
    more_x, more_y = (x1 - x0) / 12, (y1 - y0) / 12
    inner = torch.tensor([[x0 + more_x, y0 + more_y, x1 - more_x, y1 - more_y]])
    return answer_box(model, hidden, boxes=inner, points=points)


def phantom_desk(folder, monkeypatch, codes="LPS"):
    """A case with one bright block under review; and how it is stored."""
    image = np.random.default_rng(0).normal(100, 2, (20, 24, 16)).astype(np.float32)
    image[LESION] += 200
    stored, affine = stored_as(image, codes)
    give_model(make_run_of(folder, {"n001": (stored, np.zeros(stored.shape, np.uint8), affine)}))
    install(monkeypatch.setattr, folder)
    monkeypatch.setattr(AdaptedModel, "answer_prompts", answer_within)
    return desk_of(folder), Canonical(stored.shape, affine)


def seed_of(axis, at):
    """The block's mask on one slice along an axis: its box, packed."""
    start = [one.start for one in LESION]
    stop = [one.stop for one in LESION]
    start[axis], stop[axis] = at, at + 1
    box = Box(tuple(start), tuple(stop))
    return box, pack(np.ones(box.shape, dtype=np.uint8))


def carry(desk, box, body):
    """The answer of the route."""
    headers = {"X-Evenhand-Box": str(box)}
    return desk.ask("POST", "carry", content=body, more_headers=headers)


def parts(content):
    """What came: boxes and voxels of slices, and the sentence at the end."""
    found = []
    while True:
        line, _, content = content.partition(b"\n")
        said = json.loads(line)
        if "end" in said:
            assert content == b""
            return found, said["end"]
        voxels = np.frombuffer(content[: said["size"]], np.uint8)
        found.append((said["box"], voxels))
        content = content[said["size"] :]


@pytest.mark.parametrize("codes", ["RAS", "LAI", "LPS", "SPL"])
def test_carried_to_the_ends_of_the_lesion(tmp_path, monkeypatch, codes):
    """Each slice of the block comes, at its place, however the case is stored; nothing is kept."""
    desk, canonical = phantom_desk(tmp_path / "run", monkeypatch, codes)
    desk.wait()
    axis = canonical.slice_axis
    at = LESION[axis].start + 2
    answer = carry(desk, *seed_of(axis, at))
    assert answer.status_code == 200
    found, end = parts(answer.content)
    assert end == ""
    slices = [box[2 * axis] for box, _ in found]
    assert sorted([*slices, at]) == list(range(LESION[axis].start, LESION[axis].stop))
    assert {abs(k - at) for k in slices[:2]} == {1}
    for box, voxels in found:
        for side, wanted in enumerate(LESION):
            if side != axis:
                assert abs(box[2 * side] - wanted.start) <= 2
                assert abs(box[2 * side + 1] - wanted.stop) <= 2
        assert voxels.any()
    assert desk.ask("GET", "draft").status_code == 204


def test_ends_in_time(tmp_path, monkeypatch):
    """When the time is up no further slice is begun, and a sentence says so."""
    desk, canonical = phantom_desk(tmp_path / "run", monkeypatch)
    desk.wait()
    monkeypatch.setattr(prompting, "CARRY_LIMIT_S", 0.0)
    found, end = parts(carry(desk, *seed_of(canonical.slice_axis, 5)).content)
    assert len(found) == 1
    assert end.startswith("Stopped after 0 seconds")


def test_what_fails_on_the_way_is_told(tmp_path, monkeypatch):
    """Slices that were found before stay; the end is a sentence, not a cut connection."""
    desk, canonical = phantom_desk(tmp_path / "run", monkeypatch)
    desk.wait()
    calls = []

    def fails_later(model, hidden, **prompt):
        calls.append(1)
        if len(calls) > 2:
            raise ResourceError("The disk is full.")
        return answer_within(model, hidden, **prompt)

    monkeypatch.setattr(AdaptedModel, "answer_prompts", fails_later)
    found, end = parts(carry(desk, *seed_of(canonical.slice_axis, 5)).content)
    assert (len(found), end) == (2, "The disk is full.")


def test_nonsense_is_refused(tmp_path, monkeypatch):
    """Two slices, nothing drawn, no box, a cut or too large mask: a sentence, and no model."""
    desk, canonical = phantom_desk(tmp_path / "run", monkeypatch)
    box, body = seed_of(canonical.slice_axis, 5)
    assert carry(desk, box, body).status_code == 503  # not ready
    desk.wait()
    asked = []
    monkeypatch.setattr(AdaptedModel, "answer_prompts", lambda *_, **__: asked.append(1))
    thick = Box(box.start, (*box.stop[:2], box.stop[2] + 1))
    empty = np.zeros(box.shape, dtype=np.uint8)
    for place, content in (
        (thick, pack(np.ones(thick.shape, dtype=np.uint8))),
        (box, pack(empty)),
        (box, body[:-4]),
        (box, pack(np.ones((40, 40, 1), dtype=np.uint8))),
        ("0,99,0,1,0,1", body),
        ("", body),
    ):
        answer = carry(desk, place, content)
        assert answer.status_code == 422, place
        assert answer.json()["error"]
    assert carry(desk, box, b"x" * (1 << 17)).status_code == 413
    assert asked == []


def test_the_slice_on_the_screen_is_read_first(tmp_path, monkeypatch):
    """A prompt is answered after one slice, not after the volume; then its neighbours are read."""
    folder = give_model(make_review_run(tmp_path / "run"))
    install(monkeypatch.setattr, folder)
    order, original, allowed = [], FrozenEncoder.__call__, threading.Semaphore(1)

    def slow(self, slices, index=None):
        order.extend(index.tolist())
        assert allowed.acquire(timeout=PATIENCE_S)
        return original(self, slices, index)

    monkeypatch.setattr(FrozenEncoder, "__call__", slow)
    desk = desk_of(folder)
    until = time.monotonic() + PATIENCE_S
    while desk.ask("GET", "prompt?slice=4").json()["state"] != "ready":
        assert time.monotonic() < until
        time.sleep(0.01)
    # Another one goes before the rest: slice 0, which is the furthest and would be the last.
    said = {"slice": 0, "box": [4, 6, 0.5, 20, 14, 0.5]}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(desk.ask, "POST", "prompt", json=said)
        _, slices = desk.office.assistant._growing["n001"]
        while not slices._waiting:  # however long the request takes on its way
            assert time.monotonic() < until
            time.sleep(0.01)
        allowed.release(SHAPE[2])
    assert answer.result().status_code == 200
    assert order.index(0) < SHAPE[2] - 1
    case = desk.office.run.case("n001")
    while desk.office.assistant._growing and time.monotonic() < until:
        time.sleep(0.05)
    assert order[0] == 4
    assert sorted(order) == list(range(SHAPE[2]))
    # What was kept is what a whole reading keeps.
    model = desk.office.assistant.demand(case)
    cache = desk.office.assistant._cache(case, model)
    kept = np.asarray(cache.read(case))
    monkeypatch.setattr(FrozenEncoder, "__call__", original)
    cache.path(case).unlink()
    cache.fill(desk.office.run.stores["north"], [case], lambda _: None)
    assert np.allclose(kept, np.asarray(cache.read(case)), atol=2e-3)


def test_another_case_does_not_wait_for_the_volume(tmp_path, monkeypatch):
    """Who opens the next case is not kept waiting by the rest of the one before."""
    folder = give_model(make_review_run(tmp_path / "run"))
    install(monkeypatch.setattr, folder)
    order, original, allowed = [], FrozenEncoder.__call__, threading.Semaphore(1)

    def slow(self, slices, index=None):
        order.append(float(slices.sum()))
        assert allowed.acquire(timeout=PATIENCE_S)
        return original(self, slices, index)

    monkeypatch.setattr(FrozenEncoder, "__call__", slow)
    desk = desk_of(folder)
    desk.wait("n001")
    assert desk.ask("GET", "prompt", case="n002").json()["state"] == "preparing"
    allowed.release(2)  # the slice that is being read, and the first of the other case
    desk.wait("n002")
    assert len(order) < SHAPE[2]
    allowed.release(2 * SHAPE[2])
    until = time.monotonic() + PATIENCE_S
    while desk.office.assistant._growing and time.monotonic() < until:
        time.sleep(0.05)
    assert len(order) == 2 * SHAPE[2]
    embeddings = folder / "hospitals" / "north" / "embeddings"
    assert len(list(embeddings.glob("*.npy"))) == 2


def test_nothing_is_read_ahead_while_a_case_opens(tmp_path, monkeypatch):
    """Who waits for an image has the processor; the rest of another case is read afterwards."""
    folder = give_model(make_review_run(tmp_path / "run"))
    install(monkeypatch.setattr, folder)
    order, original = [], FrozenEncoder.__call__

    def noted(self, slices, index=None):
        order.extend(index.tolist())
        return original(self, slices, index)

    monkeypatch.setattr(FrozenEncoder, "__call__", noted)
    desk = desk_of(folder)
    assistant = desk.office.assistant
    with assistant.held():
        assert desk.ask("GET", "prompt").json()["state"] == "preparing"
        until = time.monotonic() + PATIENCE_S
        while assistant._model is None and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.3)
        assert order == []
    assert desk.wait()["state"] == "ready"
    assert order


def test_few_half_read_cases_stay_in_memory(tmp_path, monkeypatch):
    """Who goes from case to case fills no memory: the oldest half-read one is given up."""
    folder = give_model(make_review_run(tmp_path / "run"))
    install(monkeypatch.setattr, folder)
    monkeypatch.setattr(assistant_module, "_KEPT_OPEN", 1)
    allowed, original = threading.Semaphore(0), FrozenEncoder.__call__

    def when_allowed(self, slices, index=None):
        assert allowed.acquire(timeout=PATIENCE_S)
        return original(self, slices, index)

    monkeypatch.setattr(FrozenEncoder, "__call__", when_allowed)
    desk = desk_of(folder)
    assistant = desk.office.assistant
    try:
        allowed.release()
        assert desk.wait("n001")["state"] == "ready"
        assert desk.ask("GET", "prompt", case="n002").json()["state"] == "preparing"
        allowed.release(2)  # the slice that is under way, and one of the next case
        assert desk.wait("n002")["state"] == "ready"
        assert list(assistant._growing) == ["n002"]
        assert desk.ask("GET", "prompt", case="n001").json()["state"] == "preparing"
    finally:
        allowed.release(100)
    assert desk.wait("n001")["state"] == "ready", "it is read again when somebody asks"


def test_a_full_disk_does_not_take_the_model_away(tmp_path, monkeypatch):
    """What is in memory answers prompts; it is written once there is room."""
    folder = give_model(make_review_run(tmp_path / "run"))
    install(monkeypatch.setattr, folder)
    monkeypatch.setattr(assistant_module, "_WRITE_AGAIN_S", 0.05)
    room, failed, original = threading.Event(), threading.Event(), EmbeddingCache.write

    def write(self, case, values):
        if not room.is_set():
            failed.set()
            raise ResourceError("The disk is full.")
        original(self, case, values)

    monkeypatch.setattr(EmbeddingCache, "write", write)
    desk = desk_of(folder)
    assert desk.wait()["state"] == "ready"
    assert failed.wait(PATIENCE_S)
    time.sleep(0.2)  # longer than a second try takes
    said = {"slice": 0, "box": [4, 6, 0.5, 20, 14, 0.5]}
    assert desk.ask("POST", "prompt", json=said).status_code == 200
    room.set()
    until = time.monotonic() + PATIENCE_S
    while desk.office.assistant._growing and time.monotonic() < until:
        time.sleep(0.02)
    assert len(list((folder / "hospitals" / "north" / "embeddings").glob("*.npy"))) == 1
    assert desk.ask("POST", "prompt", json=said).status_code == 200
