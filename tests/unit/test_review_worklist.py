"""What is to be reviewed, in which state, and what has been looked at."""

import shutil

import numpy as np
import pytest

from evenhand.cases.nifti import write_nifti
from evenhand.cases.store import array_sha256
from evenhand.errors import DataError, StoreError, UsageError
from evenhand.review import Decision, ReviewStore, State, Verdict
from evenhand_ui.runs import ReviewRun
from evenhand_ui.sitting import PAUSE_LIMIT_S, Sitting
from evenhand_ui.wording import slices_text
from evenhand_ui.worklist import build_worklist, count_states, next_open, select
from review_run import AFFINE, make_review_run, proposed_mask


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


class TestWorklist:
    """States, filters, and the way through the list."""

    def test_all_open_at_first(self, folder, store):
        """Every case with a mask is on the list, by hospital and id, and open."""
        items = build_worklist(ReviewRun.open(folder), store)
        assert [(i.hospital, i.case_id) for i in items] == [
            ("north", "n001"),
            ("north", "n002"),
            ("south", "s001"),
        ]
        assert {item.state for item in items} == {State.OPEN}

    def test_decision_changes_state(self, folder, store):
        """A decision moves its case, in its arm, and no other."""
        store.append(accept("n002"))
        items = build_worklist(ReviewRun.open(folder), store)
        assert [item.state for item in items] == [State.OPEN, State.ACCEPTED, State.OPEN]
        assert count_states(items) == {
            State.OPEN: 2,
            State.ACCEPTED: 1,
            State.CORRECTED: 0,
            State.REJECTED: 0,
        }
        others = build_worklist(ReviewRun.open(folder, "pooled"), store)
        assert {item.state for item in others} == {State.OPEN}

    def test_new_mask_reopens(self, folder, store):
        """When an arm was trained again, an old acceptance does not cover its new mask."""
        store.append(accept("n002"))
        mask = proposed_mask()
        mask[0, 0, 0] = 1
        write_nifti(folder / "arms/federated/masks/n002.nii.gz", mask, AFFINE)
        items = build_worklist(ReviewRun.open(folder), store)
        assert items[1].state is State.OPEN
        assert items[1].latest is not None, "what was decided before stays visible"

    def test_select(self, folder, store):
        """Filters combine; an empty one lets all through."""
        store.append(accept("n002"))
        items = build_worklist(ReviewRun.open(folder), store)
        assert select(items) == items
        chosen = select(items, states=[State.OPEN], hospitals=["north"])
        assert [item.case_id for item in chosen] == ["n001"]

    def test_next_open_goes_round(self, folder, store):
        """After the last case comes the first open one; a decided case is passed over."""
        store.append(accept("n001"))
        items = build_worklist(ReviewRun.open(folder), store)
        assert next_open(items) == "n002"
        assert next_open(items, "n002") == "s001"
        assert next_open(items, "s001") == "n002"
        assert next_open(select(items, hospitals=["south"]), "s001") is None


class TestSitting:
    """What must be seen before a mask can be accepted, and the time that is counted."""

    def test_slices_with_tumour_must_be_seen(self):
        """Only when each of them was shown is nothing missing."""
        sitting = Sitting.at(np.array([0, 3, 5, 0]))
        assert sitting.missing == [1, 2]
        sitting.look(0, 0.0, mask_shown=True)
        sitting.look(2, 1.0, mask_shown=True)
        assert sitting.missing == [1]
        sitting.look(1, 2.0, mask_shown=True)
        assert sitting.missing == []

    def test_empty_proposal_needs_all(self):
        """Where no tumour is proposed, one may have been missed in any slice."""
        assert Sitting.at(np.zeros(3, dtype=int)).missing == [0, 1, 2]

    def test_hidden_mask_is_not_seen(self):
        """A slice without its mask on it does not count: the mask is what is judged."""
        sitting = Sitting.at(np.array([4]))
        sitting.look(0, 0.0, mask_shown=False)
        assert sitting.missing == [0]

    def test_seconds(self):
        """Time runs between looks, a long pause counts as the limit, absence does not count."""
        sitting = Sitting.at(np.array([1]))
        for now in (100.0, 105.0, 5105.0):
            sitting.look(0, now, mask_shown=True)
        assert sitting.seconds == 5 + PAUSE_LIMIT_S
        sitting.leave()
        sitting.look(0, 9000.0, mask_shown=True)
        assert sitting.seconds == 5 + PAUSE_LIMIT_S


@pytest.mark.parametrize(
    ("indices", "text"), [([], ""), ([0], "1"), ([2, 3, 4, 8], "3-5, 9"), ([1, 3], "2, 4")]
)
def test_slices_text(indices, text):
    """Slices are named as people count them, runs drawn together."""
    assert slices_text(indices) == text
