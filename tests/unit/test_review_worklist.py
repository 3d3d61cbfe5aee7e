"""What is to be reviewed, in which state, and what has been looked at."""

import hashlib
import shutil

import numpy as np
import pytest

from evenhand.cases.hashing import array_sha256
from evenhand.cases.nifti import write_nifti
from evenhand.errors import DataError, StoreError, UsageError
from evenhand.review import Decision, ReviewStore, State, Verdict
from evenhand_ui.readings import Plan, review_all
from evenhand_ui.runs import ReviewRun, days_between
from evenhand_ui.sitting import HEAD_START, PAUSE_LIMIT_S, QUICKEST_S, Sitting
from evenhand_ui.wording import study_text
from evenhand_ui.worklist import build_worklist, count_states, next_open, select
from review_run import AFFINE, make_review_run, make_run_of, proposed_mask


@pytest.fixture
def folder(tmp_path):
    """A run folder that a test may break."""
    return make_review_run(tmp_path / "run", arms=("federated", "pooled", "local-north"))


@pytest.fixture
def store(folder):
    """Its review database."""
    with ReviewStore(folder / "review" / "review.sqlite") as opened:
        yield opened


def accept(case_id):
    """An acceptance of the proposed mask."""
    return Decision(
        case_id=case_id,
        hospital="north",
        arm="federated",
        verdict=Verdict.ACCEPT,
        reader="Dr. Lee",
        proposed_sha256=array_sha256(proposed_mask()),
        seconds=1,
        slices_seen=(2, 3, 4),
    )


def worklist(run, store):
    """The worklist of a reader in a demo."""
    return build_worklist(run, review_all(run, store, Plan.of(run)), person_id="Dr. Lee")


class TestRun:
    """A run folder is checked before a page opens on it."""

    def test_preferred_arm(self, folder):
        """Unless one is named, the federated arm is reviewed."""
        assert ReviewRun.open(folder).arm == "federated"
        assert ReviewRun.open(folder, "pooled").arm == "pooled"

    def test_any_arm_with_masks_will_do(self, tmp_path):
        """A run of local arms only can be reviewed as well."""
        assert ReviewRun.open(make_review_run(tmp_path, arms=("local-north",))).arm == "local-north"

    def test_unknown_arm(self, folder):
        """An arm that is not there is refused, and those that are there are named."""
        with pytest.raises(UsageError, match="federated, local-north, pooled"):
            ReviewRun.open(folder, "federated-private")

    def test_no_folder(self, tmp_path):
        """A folder that is not there is named, with the command that makes one."""
        with pytest.raises(UsageError, match=r"no run folder '.*gone'.*evenhand run"):
            ReviewRun.open(tmp_path / "gone")

    def test_no_masks(self, tmp_path):
        """A run without masks has not finished."""
        with pytest.raises(DataError, match="no proposed masks"):
            ReviewRun.open(tmp_path)

    def test_no_stores(self, folder):
        """Masks without cases cannot be shown."""
        shutil.rmtree(folder / "hospitals")
        with pytest.raises(DataError, match="no case stores"):
            ReviewRun.open(folder)

    def test_damaged_store(self, folder):
        """A store that cannot be read is refused at the door."""
        (folder / "hospitals" / "north" / "store" / "store.json").write_text("{", encoding="utf-8")
        with pytest.raises(StoreError, match="damaged"):
            ReviewRun.open(folder)

    def test_mask_of_no_case(self, folder):
        """A mask that belongs to no case is an error, not a hole in the list."""
        write_nifti(folder / "arms/federated/masks/x009.nii.gz", proposed_mask(), AFFINE)
        with pytest.raises(DataError, match=r"'x009' .* belongs to no hospital"):
            _ = ReviewRun.open(folder).hospital_of

    def test_units(self, folder):
        """Millilitres are shown only where the run says that its spacing is true."""
        assert ReviewRun.open(folder).units == "mm"
        (folder / "config.json").write_text('{"data": {"units": "voxel"}}', encoding="utf-8")
        assert ReviewRun.open(folder).units == "voxel"
        (folder / "config.json").unlink()
        assert ReviewRun.open(folder).units == "voxel"


class TestOtherStudies:
    """What stands beside a case is the same patient's, and nobody else's."""

    def test_order(self, tmp_path):
        """The latest earlier study comes first, then later ones, then those without a date."""
        voxels = np.zeros((4, 4, 2), np.float32)
        mask = np.zeros((4, 4, 2), np.uint8)
        names = ("now", "later", "undated", "long-ago", "before", "same-day")
        days = ("20200301", "20200401", None, "20190101", "20200229", "20200301")
        folder = make_run_of(
            tmp_path / "run",
            {**dict.fromkeys(names, (voxels, mask, AFFINE)), "other": (voxels, mask, AFFINE)},
            patients=dict.fromkeys(names, "p-one"),
            dates={name: day for name, day in zip(names, days, strict=True) if day},
        )
        run = ReviewRun.open(folder)
        now = run.case("now")
        others = run.others(now)
        assert [one.case_id for one in others] == [
            "same-day",
            "before",
            "long-ago",
            "later",
            "undated",
        ]
        texts = [study_text(one.case_id, days_between(now, one)) for one in others]
        assert texts == [
            "same day (same-day)",
            "1 day earlier (before)",
            "425 days earlier (long-ago)",
            "31 days later (later)",
            "undated",
        ]
        assert run.others(run.case("other")) == []


class TestWorklist:
    """States, filters, and the way through the list."""

    def test_all_open_at_first(self, folder, store):
        """Every case with a mask is on the list, by hospital and id, and open."""
        items = worklist(ReviewRun.open(folder), store)
        assert [(i.hospital, i.case_id) for i in items] == [
            ("north", "n001"),
            ("north", "n002"),
            ("south", "s001"),
        ]
        assert {item.state for item in items} == {State.OPEN}

    def test_decision_changes_state(self, folder, store):
        """A decision moves its case, in its arm, and no other."""
        store.append(accept("n002"))
        items = worklist(ReviewRun.open(folder), store)
        assert [item.state for item in items] == [State.OPEN, State.ACCEPTED, State.OPEN]
        assert count_states(items) == {
            State.OPEN: 2,
            State.ACCEPTED: 1,
            State.CORRECTED: 0,
            State.REJECTED: 0,
            State.NOT_JUDGED: 0,
            State.HALF_READ: 0,
            State.DISPUTED: 0,
        }
        others = worklist(ReviewRun.open(folder, "pooled"), store)
        assert {item.state for item in others} == {State.OPEN}

    def test_new_mask_reopens(self, folder, store):
        """When an arm was trained again, an old acceptance does not cover its new mask."""
        store.append(accept("n002"))
        mask = proposed_mask()
        mask[0, 0, 0] = 1
        write_nifti(folder / "arms/federated/masks/n002.nii.gz", mask, AFFINE)
        items = worklist(ReviewRun.open(folder), store)
        (item,) = [one for one in items if one.case_id == "n002"]
        assert item.state is State.OPEN
        assert item.latest is not None, "what was decided before stays visible"

    def test_select(self, folder, store):
        """Filters combine; an empty one lets all through."""
        store.append(accept("n002"))
        items = worklist(ReviewRun.open(folder), store)
        assert select(items) == items
        chosen = select(items, states=[State.OPEN], hospitals=["north"])
        assert [item.case_id for item in chosen] == ["n001"]
        assert [item.case_id for item in select(items, readers=["Dr. Lee"])] == ["n002"]

    def test_next_open_goes_round(self, folder, store):
        """After the last case comes the first open one; a decided case is passed over."""
        store.append(accept("n001"))
        items = worklist(ReviewRun.open(folder), store)
        assert next_open(items) == "n002"
        assert next_open(items, "n002") == "s001"
        assert next_open(items, "s001") == "n002"
        assert next_open(select(items, hospitals=["south"]), "s001") is None


class TestUncertainty:
    """Where the table has a figure, the most uncertain case comes first."""

    def test_order(self, folder, store):
        """Cases are ordered by the column `uncertainty` of this arm's rows."""
        (folder / "predictions.csv").write_text(
            "arm,case,uncertainty\nfederated,n001,0.1\nfederated,n002,0.4\n"
            "federated,s001,0.7\npooled,n001,0.9\n",
            encoding="utf-8",
        )
        items = worklist(ReviewRun.open(folder), store)
        assert [item.case_id for item in items] == ["s001", "n002", "n001"]

    def test_the_masks_that_are_reviewed_are_meant(self, folder, store):
        """Boxes have uncertainties too; those of the first way of prompting order the list."""
        rows = ["automatic,n001,0.1", "box,n001,0.9", "automatic,n002,0.4", "box,n002,0.2"]
        text = "arm,prompt,case,uncertainty\n" + "".join(f"federated,{row}\n" for row in rows)
        (folder / "predictions.csv").write_text(text, encoding="utf-8")
        items = worklist(ReviewRun.open(folder), store)
        assert [item.case_id for item in items] == ["n002", "s001", "n001"]

    @pytest.mark.parametrize(
        "text", ["", "arm,case\nfederated,n001\n", "arm,case,uncertainty\n,,x"]
    )
    def test_without(self, folder, store, text):
        """A table without it, or a broken one, leaves the usual order."""
        (folder / "predictions.csv").write_text(text, encoding="utf-8")
        items = worklist(ReviewRun.open(folder), store)
        assert [item.case_id for item in items] == ["n001", "n002", "s001"]


def test_model_is_named(folder):
    """Decisions name backbone and adapter, so that a mask can be traced to its model."""
    assert (ReviewRun.open(folder).backbone, ReviewRun.open(folder).adapter_sha256) == ("", "")
    (folder / "config.json").write_text('{"model": {"backbone": "mobile_sam"}}', encoding="utf-8")
    (folder / "arms/federated/adapter.safetensors").write_bytes(b"weights")
    run = ReviewRun.open(folder)
    assert run.backbone == "mobile_sam"
    assert run.adapter_sha256 == hashlib.sha256(b"weights").hexdigest()


class TestSitting:
    """What must be seen before a mask can be accepted, and the time that is counted."""

    def test_slices_with_tumour_must_be_seen(self):
        """Only when each of them was shown is nothing missing."""
        sitting = Sitting.at(np.array([0, 3, 5, 0]))
        assert sitting.missing == [1, 2]
        sitting.report([0, 2], 0.0)
        assert sitting.missing == [1]
        sitting.report([0, 1, 2], 1.0)
        assert sitting.missing == []

    def test_empty_proposal_needs_all(self):
        """Where no tumour is proposed, one may have been missed in any slice."""
        assert Sitting.at(np.zeros(3, dtype=int)).missing == [0, 1, 2]

    def test_nobody_sees_a_hundred_slices_at_once(self):
        """A report of more slices than the time allows counts for as many as it does."""
        sitting = Sitting.at(np.ones(100, dtype=int))
        sitting.report(range(100), 0.0)
        assert len(sitting.seen) == HEAD_START
        sitting.report(range(100), 1.0)
        assert len(sitting.seen) == 2 * HEAD_START + round(1.0 / QUICKEST_S)

    def test_slices_that_are_not_there(self):
        """A report of slices outside the volume counts for nothing."""
        sitting = Sitting.at(np.array([1, 1]))
        sitting.report([-1, 2, 10**9], 0.0)
        assert sitting.seen == set()

    def test_goes_on(self):
        """What was seen before a restart is still seen."""
        sitting = Sitting.at(np.array([1, 1]), seen=(0,), seconds=7.5)
        assert (sitting.missing, sitting.seconds) == ([1], 7.5)

    def test_seconds(self):
        """Time runs between reports, a long pause counts as the limit, absence does not count."""
        sitting = Sitting.at(np.array([1]))
        for now in (100.0, 105.0, 5105.0):
            sitting.report([0], now)
        assert sitting.seconds == 5 + PAUSE_LIMIT_S
        sitting.leave()
        sitting.report([0], 9000.0)
        assert sitting.seconds == 5 + PAUSE_LIMIT_S
