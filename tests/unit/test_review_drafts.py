"""Nothing that was painted is lost, and no window overwrites another's work."""

import errno
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from evenhand.cases.erase import erase_patient
from evenhand.errors import DataError, ResourceError
from evenhand_ui import drafts as module
from evenhand_ui.drafts import Box, Draft, DraftConflictError, Drafts
from evenhand_ui.volumes import pack
from review_run import make_review_run

SHAPE = (6, 5, 4)
BOX = Box((1, 1, 1), (3, 4, 2))


@pytest.fixture
def drafts(tmp_path):
    """Drafts of a run."""
    return Drafts(tmp_path / "drafts")


@pytest.fixture
def place(drafts):
    """One reader's draft of one case."""
    return drafts.place("n001", "0123456789abcdef0123", "Dr. Lee", "a" * 64)


def content(value=1):
    """A packed mask that fills `BOX`."""
    return pack(np.full(BOX.shape, value, dtype=np.uint8))


class TestSave:
    """A save is whole, and continues what it was made from."""

    def test_comes_back(self, drafts, place):
        """The mask lies in its box, the rest of the volume is empty."""
        assert drafts.read(place) == Draft()
        saved = drafts.save(place, content(), BOX, base=0, strokes=3)
        assert drafts.read(place) == saved == Draft(1, "1,3,1,4,1,2", 3)
        mask = drafts.mask(place, saved, SHAPE)
        assert mask.sum() == 2 * 3 * 1
        assert mask[1:3, 1:4, 1:2].all()

    def test_two_windows(self, drafts, place):
        """A save that continues an older revision is refused; the newer one stays."""
        drafts.save(place, content(), BOX, base=0, strokes=1)
        with pytest.raises(DraftConflictError, match="Nothing was overwritten") as caught:
            drafts.save(place, content(0), BOX, base=0, strokes=9)
        assert caught.value.revision == 1
        assert drafts.mask(place, drafts.read(place), SHAPE).any()

    @pytest.mark.parametrize("dies_at", ["2.gz", "state.json"])
    def test_death_in_the_middle(self, drafts, place, monkeypatch, dies_at):
        """A server that dies while it saves leaves the draft before, whole."""
        before = drafts.save(place, content(), BOX, base=0, strokes=1)
        real = module._write

        def die(path, *rest):
            if path.name == dies_at:
                path.with_name(f".{path.name}").write_bytes(b"half")
                raise SystemExit
            real(path, *rest)

        monkeypatch.setattr(module, "_write", die)
        with pytest.raises(SystemExit):
            drafts.save(place, content(0), BOX, base=1, strokes=2)
        assert drafts.read(place) == before
        assert drafts.mask(place, before, SHAPE).any()
        monkeypatch.setattr(module, "_write", real)
        assert drafts.save(place, content(0), BOX, base=1, strokes=2).revision == 2

    def test_full_disk(self, drafts, place, monkeypatch):
        """A full disk is told, and what was there stays."""
        before = drafts.save(place, content(), BOX, base=0, strokes=1)

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ResourceError, match=r"No space left.*still in your browser"):
            drafts.save(place, content(0), BOX, base=1, strokes=2)
        assert drafts.read(place) == before
        assert drafts.mask(place, before, SHAPE).any()

    def test_old_masks_go(self, drafts, place):
        """Only the latest mask is kept."""
        for base in range(3):
            drafts.save(place, content(), BOX, base=base, strokes=base)
        assert [path.name for path in place.glob("*.gz")] == ["3.gz"]


class TestOthers:
    """Readers do not meet, and what was decided is forgotten."""

    def test_readers_and_masks_have_their_own(self, drafts):
        """Another reader, or another proposal, is another draft."""
        places = {
            drafts.place("n001", case, reader, sha)
            for case in ("1" * 20, "2" * 20)
            for reader in ("A", "B")
            for sha in ("a" * 64, "b" * 64)
        }
        assert len(places) == 8
        assert not any("A" in path.name for path in places), "no reader's name in a path"

    def test_seen_survives(self, drafts, place):
        """Slices seen and seconds are kept beside the mask."""
        drafts.save(place, content(), BOX, base=0, strokes=1)
        drafts.note(place, seen=(2, 3), seconds=4.5)
        draft = drafts.read(place)
        assert (draft.seen, draft.seconds, draft.revision) == ((2, 3), 4.5, 1)

    def test_dropped(self, drafts, place):
        """After a decision nothing is left, and dropping nothing is no error."""
        drafts.drop(place)
        drafts.save(place, content(), BOX, base=0, strokes=1)
        drafts.drop(place)
        assert drafts.read(place) == Draft()
        assert list(place.glob("*.gz")) == []

    @pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"revision": 1, "odd": 2})])
    def test_damaged(self, drafts, place, text):
        """A damaged draft is named, and how to go on."""
        place.mkdir(parents=True)
        (place / "state.json").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match="start anew"):
            drafts.read(place)


def test_forgotten_with_the_patient(tmp_path):
    """When a patient is taken out of a run, drafts and corrected masks of their cases go too."""
    run = make_review_run(tmp_path / "run")
    (run / "splits.json").write_text('{"train": [], "test": []}', encoding="utf-8")
    drafts = Drafts(run / "review" / "drafts")
    kept = {}
    for case_id in ("n001", "n002"):
        place = drafts.place(case_id, "0" * 20, "Dr. Lee", "a" * 64)
        drafts.save(place, content(), BOX, base=0, strokes=1)
        corrected = run / "review" / "corrected" / case_id / "m.nii.gz"
        corrected.parent.mkdir(parents=True)
        corrected.write_bytes(b"mask")
        kept[case_id] = (place / "1.gz", corrected)
    erase_patient("p-n001", stores=(), runs=(run,), nodes=())
    assert [path.exists() for path in kept["n001"]] == [False, False]
    assert [path.exists() for path in kept["n002"]] == [True, True]


class TestBox:
    """A box comes from outside."""

    def test_around(self):
        """The smallest box around a mask; of an empty one, none."""
        mask = np.zeros(SHAPE, dtype=np.uint8)
        assert Box.around(mask).shape == (0, 0, 0)
        mask[1, 2, 3] = mask[4, 2, 0] = 1
        box = Box.around(mask)
        assert str(box) == "1,5,2,3,0,4"
        assert Box.parse(str(box), SHAPE) == box

    @pytest.mark.parametrize(
        "text", ["", "1,2,3", "a,b,c,d,e,f", "0,7,0,1,0,1", "2,1,0,1,0,1", "-1,2,0,1,0,1"]
    )
    def test_refused(self, text):
        """What is not six numbers within the case is refused."""
        with pytest.raises(DataError, match="box"):
            Box.parse(text, SHAPE)


SAVER = """
import sys
from pathlib import Path
import numpy as np
from evenhand_ui.drafts import Box, Drafts
from evenhand_ui.volumes import pack

drafts, place = Drafts(Path(sys.argv[1])), Path(sys.argv[1]) / "n001" / "x"
noise = np.random.default_rng(0).integers(0, 2, (64, 64, 64), dtype=np.uint8)
for revision in range(10_000):
    mask = np.roll(noise, revision)
    drafts.save(place, pack(mask), Box((0, 0, 0), mask.shape), base=revision, strokes=revision + 1)
    print(revision + 1, flush=True)
"""


@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_killed_during_a_save(tmp_path, after):
    """Killed at any moment: what was confirmed is there, whole, or the save after it is."""
    command = [sys.executable, "-c", SAVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(after):
            confirmed = int(process.stdout.readline())
        time.sleep(0.001 * after)
        process.kill()
        confirmed = max([confirmed, *map(int, process.stdout.read().split())])
    drafts, place = Drafts(tmp_path), tmp_path / "n001" / "x"
    draft = drafts.read(place)
    assert draft.revision in {confirmed, confirmed + 1}
    noise = np.random.default_rng(0).integers(0, 2, (64, 64, 64), dtype=np.uint8)
    mask = drafts.mask(place, draft, (64, 64, 64))
    assert np.array_equal(mask, np.roll(noise, draft.revision - 1))
