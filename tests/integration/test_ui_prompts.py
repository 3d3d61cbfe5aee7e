"""Prompts to the run's model: when it can be asked, what it is asked, what comes back."""

import time

import numpy as np
import pytest
import torch

from evenhand.model.adapted import AdaptedModel
from evenhand.model.preprocessing import Letterbox
from evenhand.predict import OpenCase, SlicePrompt, predict_prompt
from evenhand_ui.assistant import Assistant
from evenhand_ui.drafts import Box
from evenhand_ui.office import office_of
from evenhand_ui.prompting import POINTS_LIMIT
from evenhand_ui.volumes import Canonical
from prompt_desk import PATIENCE_S, desk_of, end_desks
from review_model import answer_box, give_model, install
from review_run import SHAPE, make_review_run, make_run_of, stored_as

KEPT = "hospitals/north/embeddings/*.npy"


@pytest.fixture(autouse=True)
def _alone():
    """No test has another's model beside it."""
    yield
    end_desks()


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A run with a small model of random weights."""
    folder = give_model(make_review_run(tmp_path / "run"))
    install(monkeypatch.setattr, folder)
    return desk_of(folder)


class TestReadiness:
    """The page says why the model cannot be asked, and makes it ready by itself."""

    def test_becomes_ready(self, desk):
        """The embedding is computed in the background, kept, and then there at once."""
        assert desk.ask("GET", "prompt").json()["state"] == "preparing"
        assert desk.ask("POST", "prompt", json={"slice": 3}).status_code == 503
        assert desk.wait() == {"state": "ready", "why": ""}
        folder, until = desk.office.run.folder, time.monotonic() + PATIENCE_S
        while not (files := list(folder.glob(KEPT))) and time.monotonic() < until:
            time.sleep(0.05)
        (kept,) = files
        assert np.load(kept).shape[0] == SHAPE[2]
        again = Assistant(desk.office.run)
        case = desk.office.run.case("n001")
        again.readiness(case)
        written = kept.stat().st_mtime_ns
        until = time.monotonic() + PATIENCE_S
        while again.readiness(case).state != "ready" and time.monotonic() < until:
            time.sleep(0.05)
        assert again.readiness(case).state == "ready"
        assert kept.stat().st_mtime_ns == written

    def test_no_model(self, tmp_path):
        """A folder of masks alone has nothing to ask; the answer is a sentence."""
        desk = desk_of(make_review_run(tmp_path / "run"))
        state = desk.ask("GET", "prompt").json()
        assert state["state"] == "absent"
        assert "without the model" in state["why"]
        assert desk.ask("POST", "prompt", json={"slice": 3}).status_code == 503

    def test_no_weights(self, tmp_path, monkeypatch):
        """Weights are not downloaded from the page: it names the command that does."""
        folder = give_model(make_review_run(tmp_path / "run"))
        monkeypatch.setattr("evenhand_ui.assistant.path_of", lambda _: tmp_path / "nowhere.pt")
        state = desk_of(folder).ask("GET", "prompt").json()
        assert state["state"] == "absent"
        assert "evenhand weights get mobile-sam" in state["why"]

    def test_no_adapter(self, tmp_path, monkeypatch):
        """An arm that was never trained is not answered by another's model."""
        folder = give_model(make_review_run(tmp_path / "run"))
        install(monkeypatch.setattr, folder)
        (folder / "arms/federated/adapter.safetensors").unlink()
        assert "no adapter" in desk_of(folder).ask("GET", "prompt").json()["why"]

    def test_other_sequence(self, tmp_path, monkeypatch):
        """A case without the sequence that the model reads is not guessed at."""
        folder = give_model(make_review_run(tmp_path / "run"), sequence="T1")
        install(monkeypatch.setattr, folder)
        assert "lacks the sequence" in desk_of(folder).ask("GET", "prompt").json()["why"]

    def test_damaged_adapter(self, tmp_path, monkeypatch):
        """What fails in the background is told, not waited for."""
        folder = give_model(make_review_run(tmp_path / "run"))
        install(monkeypatch.setattr, folder)
        (folder / "arms/federated/adapter.safetensors").write_bytes(b"nonsense")
        state = desk_of(folder).wait()
        assert state["state"] == "absent"
        assert state["why"]


class TestAnswers:
    """The answer is what the model says, at the place that was pointed at."""

    def test_same_as_the_model(self, desk):
        """Box and points reach the model as pixels of the stored slice, and its mask comes back."""
        desk.wait()
        case, office = desk.office.run.case("n001"), desk.office
        # i runs to the patient's left in these cases: x = 24 - i.
        said = {"slice": 3, "box": [4, 6, 3.5, 20, 14, 3.5], "points": [[9, 8, 3.5, True]]}
        answer = desk.ask("POST", "prompt", json=said)
        assert answer.status_code == 200
        prompt = SlicePrompt(index=3, box=(6, 4, 14, 20), points=((8, 15, True),))
        model = office.assistant.demand(case)
        wanted = predict_prompt(model, office.assistant._open(case, model), prompt)
        shown = np.zeros(SHAPE, dtype=np.uint8)
        box = Box.parse(answer.headers["X-Evenhand-Box"], SHAPE)
        shown[box.slices] = np.frombuffer(answer.content, np.uint8).reshape(box.shape[::-1]).T
        assert wanted.any()
        assert np.array_equal(shown[::-1, :, 3], wanted)

    @pytest.mark.parametrize("codes", ["RAS", "LAI", "LPS", "SPL"])
    def test_every_way_to_store(self, tmp_path, monkeypatch, codes):
        """The mask lies in the box that was drawn, however the case is stored."""
        image = np.random.default_rng(0).normal(100, 10, (20, 24, 16)).astype(np.float32)
        stored, affine = stored_as(image, codes)
        mask = np.zeros(stored.shape, np.uint8)
        folder = give_model(make_run_of(tmp_path / "run", {"n001": (stored, mask, affine)}))
        install(monkeypatch.setattr, folder)
        monkeypatch.setattr(AdaptedModel, "answer_prompts", answer_box)
        desk = desk_of(folder)
        desk.wait()
        canonical = Canonical(stored.shape, affine)
        low, high = [4.0, 10.0, 2.0], [11.0, 17.0, 6.0]
        axis = canonical.slice_axis
        low[axis] = high[axis] = 5.5
        answer = desk.ask("POST", "prompt", json={"slice": 5, "box": high + low})
        box = Box.parse(answer.headers["X-Evenhand-Box"], canonical.turned_shape)
        wanted = [(int(a), int(b)) for a, b in zip(low, high, strict=True)]
        wanted[axis] = (5, 6)
        for start, stop, (first, last) in zip(box.start, box.stop, wanted, strict=True):
            assert abs(start - first) <= 1
            assert abs(stop - last) <= 1
        assert (box.start[axis], box.stop[axis]) == (5, 6)

    def test_nothing_found(self, desk, monkeypatch):
        """An empty answer is a box without a voxel."""
        desk.wait()
        nothing = lambda *_, **__: torch.full((1, 32, 32), -5.0)  # noqa: E731
        monkeypatch.setattr(AdaptedModel, "answer_prompts", nothing)
        answer = desk.ask("POST", "prompt", json={"slice": 3, "box": [4, 6, 3, 20, 14, 3]})
        assert (answer.content, answer.headers["X-Evenhand-Box"]) == (b"", "0,0,0,0,0,0")

    @pytest.mark.parametrize(
        "said",
        [
            {},
            {"slice": 6, "box": [0, 0, 0, 4, 4, 0]},
            {"slice": -1, "box": [0, 0, 0, 4, 4, 0]},
            {"slice": True, "box": [0, 0, 0, 4, 4, 0]},
            {"slice": 1},
            {"slice": 1, "points": [[3, 3, 1, False]]},
            {"slice": 1, "points": [[3, 3, 1]]},
            {"slice": 1, "points": [[3, 3, 1, 1]]},
            {"slice": 1, "points": "all"},
            {"slice": 1, "points": [[1, 1, 1, True]] * (POINTS_LIMIT + 1)},
            {"slice": 1, "box": [0, 0, 0, 4, 4]},
            {"slice": 1, "box": [0, 0, 0, 4, 4, "x"]},
            {"slice": 1, "box": {"x": 1}},
        ],
    )
    def test_nonsense(self, desk, said):
        """What is no prompt is refused with a sentence, and the model is not asked."""
        desk.wait()
        answer = desk.ask("POST", "prompt", json=said)
        assert answer.status_code == 422
        assert answer.json()["error"]

    def test_nothing_is_kept(self, desk):
        """A suggestion changes neither draft nor decision: it is the reader who takes it."""
        desk.wait()
        desk.ask("POST", "prompt", json={"slice": 3, "box": [4, 6, 3, 20, 14, 3]})
        assert desk.ask("GET", "draft").status_code == 204


def test_point_is_the_pixel_that_was_clicked(tmp_path, monkeypatch):
    """A click in the middle of a pixel reaches the decoder as that pixel of its square."""
    hidden = np.zeros((4, 256, 8, 8), np.float16)
    case = OpenCase(torch.zeros(4, 1, 64, 64), hidden, Letterbox(32, 64, 64))
    seen = []

    def spy(self, hidden, *, boxes=None, points=None):
        seen.append((boxes, points))
        return answer_box(self, hidden, boxes=boxes, points=points)

    monkeypatch.setattr(AdaptedModel, "answer_prompts", spy)
    folder = give_model(make_review_run(tmp_path / "run"))
    install(monkeypatch.setattr, folder)
    model = office_of(folder, None, None).assistant._loaded()
    prompt = SlicePrompt(index=2, box=(8, 4, 24, 12), points=((0.5, 0.5, True), (10, 20, False)))
    predict_prompt(model, case, prompt)
    ((boxes, (places, labels)),) = seen
    # 64 pixels fill the square of 128: two of its pixels for one of the slice.
    assert boxes.tolist() == [[16, 8, 48, 24]]
    assert places.tolist() == [[[0.5, 0.5], [19.5, 39.5]]]
    assert labels.tolist() == [[1, 0]]


def test_a_head_that_was_taught_boxes_answers_them(tmp_path, monkeypatch):
    """A box alone goes to the head, in the head's pixels; with a point the decoder is asked."""
    case = OpenCase(
        torch.zeros(4, 1, 64, 64), np.zeros((4, 256, 8, 8), np.float16), Letterbox(32, 64, 64)
    )
    folder = give_model(make_review_run(tmp_path / "run"))
    install(monkeypatch.setattr, folder)
    model = office_of(folder, None, None).assistant._loaded()
    monkeypatch.setattr(
        AdaptedModel, "propose", lambda _self, _slices, _hidden, hints: 20 * hints[:, 0] - 10
    )
    boxed = predict_prompt(model, case, SlicePrompt(index=1, box=(8, 4, 24, 12)), by_head=True)
    rows, columns = np.nonzero(boxed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 11, 8, 23)
    asked = []
    monkeypatch.setattr(
        AdaptedModel,
        "answer_prompts",
        lambda *_args, **_kwargs: asked.append(1) or torch.zeros(1, 32, 32),
    )
    pointed = SlicePrompt(index=1, box=(8, 4, 24, 12), points=((9, 8, False),))
    predict_prompt(model, case, pointed, by_head=True)
    assert asked
