"""Several labels, the whole way: ingest, training, prediction, audit; and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import HEAD_SIZE, small_model
from test_experiment_pipeline import backbone, calls, config_of, run  # noqa: F401 - fixtures
from typer.testing import CliRunner

from evenhand.artifacts import read_prediction_table
from evenhand.cases.nifti import read_nifti, write_nifti
from evenhand.cases.store import CaseStore
from evenhand.cli import app
from evenhand.config import DataConfig
from evenhand.errors import AdapterError, DataError, UsageError
from evenhand.experiment.layout import model_of_adapter
from evenhand.geometry import Affine
from evenhand.model.adapter_files import load_onto, read_adapter, save_adapter
from evenhand.predict import OpenCase, predict_labels, together
from evenhand.training.data import TrainingPatient, _by_label, draw, load_patients
from evenhand.training.loss import label_loss, mask_loss
from evenhand_ui.runs import ReviewRun

LABELS = ("oedema", "core")
SHAPE = (32, 32, 4)


def two_rings(folder: Path, patients: int, seed: int) -> Path:
    """An nnU-Net data set: a bright core in a less bright ring, on noise. Numbers 3 and 1."""
    rng = np.random.default_rng(seed)
    names = {"background": 0, "core": 1, "vessel": 2, "oedema": 3}
    content = {"channel_names": {"0": "FLAIR"}, "labels": names, "file_ending": ".nii.gz"}
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    for number in range(patients):
        x, y = rng.integers(9, 23, 2)
        i, j = np.mgrid[: SHAPE[0], : SHAPE[1]]
        far = np.maximum(abs(i - x), abs(j - y))[:, :, None] + np.zeros(SHAPE)
        labels = np.where(far < 4, 1, np.where(far < 8, 3, 0)).astype(np.uint8)
        labels[:, :, 0] = 0
        image = 100 + 100 * (labels == 3) + 200 * (labels == 1) + rng.normal(0, 5, SHAPE)
        path = folder / "imagesTr" / f"s{seed}p{number}_0000.nii.gz"
        write_nifti(path, image.astype(np.float32), Affine(np.eye(4)))
        write_nifti(folder / "labelsTr" / f"s{seed}p{number}.nii.gz", labels, Affine(np.eye(4)))
    return folder


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Stores of two hospitals that `evenhand ingest` made, labels apart. Read only."""
    place = tmp_path_factory.mktemp("labels")
    for seed, name in enumerate(("north", "south")):
        source = two_rings(place / "source" / name, 5, seed)
        command = ["ingest", str(source), "--into", str(place), "--hospital", name, "--jobs", "1"]
        command += ["--keep-names", "--body-part", "other"]
        command += ["--label", "oedema", "--label", "core"]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    return {name: place / name for name in ("north", "south")}


def experiment(stores, **changes):
    """An experiment on these stores."""
    data = {"stores": {name: str(path) for name, path in stores.items()}, "labels": LABELS}
    return config_of(arms=["pooled"], **{"data": data, **changes})


def test_labels_come_in_by_the_order_that_was_asked_for(stores):
    """3 and 1 of the source are 1 and 2 of the store; what was not asked for is background."""
    store = CaseStore(stores["north"])
    for case in store:
        assert case.labels == LABELS
        mask = store.volumes(case).mask
        image = store.volumes(case).images["FLAIR"]
        assert np.unique(mask).tolist() == [0, 1, 2]
        assert image[mask == 2].mean() > image[mask == 1].mean() > image[mask == 0].mean()


def test_the_whole_way(stores, calls, tmp_path):  # noqa: F811
    """Learnt, scored by label, drawn as a label map, audited by label, and nowhere merged."""
    training = {"epochs": 40, "tumour_slices": 2, "other_slices": 1, "calibration_share": 0.25}
    outcome = run(experiment(stores, training=training), tmp_path / "out")
    table, _ = read_prediction_table(outcome.run.predictions_path)
    assert set(table["label"]) == set(LABELS)
    assert table.groupby("case").size().eq(2).all()
    dice = table.groupby("label")["dice"].mean()
    assert (dice > 0.6).all(), dice
    folder = outcome.run.arm("pooled")
    for home in outcome.run.hospitals():
        store = home.store()
        for case_id in set(table["case"]) & set(store.case_ids()):
            drawn, _ = read_nifti(folder.mask_path(case_id), name="mask")
            rows = table[table["case"] == case_id].set_index("label")
            for number, label in enumerate(LABELS, start=1):
                assert (drawn == number).sum() == rows.loc[label, "volume_predicted"]
                wanted = store.volumes(store.case(case_id)).mask == number
                assert wanted.sum() == rows.loc[label, "volume_reference"]
    assert 0.3 <= read_adapter(folder.adapter_path).training["temperature"] <= 5
    model = model_of_adapter(folder.adapter_path)
    assert model.labels == LABELS
    with pytest.raises(UsageError, match="several labels"):
        ReviewRun.open(outcome.run.path)

    command = ["audit", str(outcome.run.predictions_path), "--out", str(tmp_path / "report")]
    result = CliRunner().invoke(app, [*command, "--minimum-group", "2"])
    assert result.exit_code == 0, result.output
    audit = json.loads((tmp_path / "report" / "audit.json").read_text())
    prompts = {arm["prompt"] for arm in audit["audit"]["arms"]}
    assert prompts == {f"automatic · {label}" for label in LABELS}

    image = tmp_path / "image.nii.gz"
    store = CaseStore(stores["south"])
    case = next(iter(store))
    write_nifti(image, store.volumes(case).images["FLAIR"], case.affine)
    command = ["predict", str(folder.adapter_path), str(image), "--out", str(tmp_path / "m.nii.gz")]
    result = CliRunner().invoke(app, [*command, "--probability", str(tmp_path / "p.nii.gz")])
    assert result.exit_code == 0, result.output
    drawn, _ = read_nifti(tmp_path / "m.nii.gz", name="mask")
    assert set(np.unique(drawn)) <= {0, 1, 2}
    for label in LABELS:
        assert f"voxels of {label}" in result.output
        assert (tmp_path / f"p-{label}.nii.gz").is_file()


@pytest.fixture(scope="module")
def two():
    """A model that finds both. Read only."""
    plain = small_model(decoder_lora_rank=0, encoder_lora_rank=0)
    return type(plain)(plain.backbone, plain.config, seed=0, labels=LABELS)


class TestPrediction:
    """Masks of several labels."""

    @pytest.fixture
    def opened(self, two):
        """Noise on five slices."""
        rng = np.random.default_rng(0)
        volume = rng.uniform(1, 9, (24, 20, 5)).astype(np.float32)
        return OpenCase.from_images(two, {"FLAIR": volume})

    def test_they_do_not_overlap(self, two, opened, monkeypatch):
        """The likeliest label has the voxel; together they are numbers."""
        size = two.config.head_size
        logits = torch.randn(5, 2, size, size, generator=torch.Generator().manual_seed(1)) * 5
        monkeypatch.setattr(two, "propose_labels", lambda slices, _: logits[: len(slices)])
        found = predict_labels(two, opened)
        assert list(found) == list(LABELS)
        first, second = (one.mask for one in found.values())
        assert first.any()
        assert second.any()
        assert not (first & second).any()
        both = together(found)
        assert np.array_equal(both.mask, first + 2 * second)
        for one in found.values():
            sure = np.abs(one.probability.astype(float) - 0.5) > 1e-2
            assert (one.probability[(one.mask == 1) & sure] > 0.5).all()

    def test_who_knows_one_label_refuses(self, two, opened):
        """Whatever asks for one mask is told that there are several."""
        with pytest.raises(AdapterError, match="several labels"):
            two.propose(torch.zeros(1, 3, HEAD_SIZE, HEAD_SIZE), torch.zeros(1, 256, 8, 8))

    def test_the_file_names_them(self, two, tmp_path):
        """An adapter of two labels comes back bit for bit, onto a model of the same two only."""
        path = tmp_path / "a.safetensors"
        save_adapter(path, two, config_fingerprint="", training={})
        assert read_adapter(path).labels == LABELS
        other = type(two)(two.backbone, two.config, seed=9, labels=LABELS)
        load_onto(path, other)
        assert all(torch.equal(v, other.adapter_state()[k]) for k, v in two.adapter_state().items())
        turned = type(two)(two.backbone, two.config, seed=0, labels=LABELS[::-1])
        with pytest.raises(AdapterError, match=r"Set data\.labels"):
            load_onto(path, turned)


class TestTraining:
    """What training sees of labels."""

    def test_moved_masks_keep_their_numbers(self):
        """Each label moves as its own picture: no number between two arises at their border."""
        masks = torch.zeros(1, 6, 6, dtype=torch.uint8)
        masks[0, :, :3], masks[0, :, 3:] = 1, 3
        halved = _by_label(masks, 3, lambda each: (each + each.roll(1, -1)) / 2)
        assert set(halved.unique().tolist()) <= {0, 1, 3}
        assert torch.equal(_by_label(masks, 3, lambda each: each), masks.float())

    def test_one_label_is_as_before(self):
        """The sum over one label is its loss to the last bit."""
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(3, 1, 8, 8, generator=generator)
        masks = (torch.rand(3, 8, 8, generator=generator) > 0.7).float()
        assert torch.equal(label_loss(logits, masks), mask_loss(logits[:, 0], masks))

    def test_each_label_is_asked_for(self):
        """A label that is found in the other's place costs as much as one that is not found."""
        masks = torch.zeros(1, 8, 8)
        masks[0, :4], masks[0, 4:] = 1, 2
        right = torch.stack([masks == 1, masks == 2], dim=1) * 40.0 - 20
        assert label_loss(right, masks) < 0.05
        assert label_loss(right.flip(1), masks) > 1

    def test_draws_hold_numbers(self, two, stores):
        """From a store to a batch."""
        store = CaseStore(stores["north"])
        hidden = np.zeros((SHAPE[2], 256, 8, 8), np.float16)
        cache = type("Cache", (), {"read": lambda *_: hidden})()
        names = [case.patient.patient_id for case in store]
        patients = load_patients(store, cache, names, two)
        assert all(isinstance(one, TrainingPatient) for one in patients)
        config = config_of(training={"tumour_slices": 2, "other_slices": 1}).training
        batch = draw(patients[0], config, torch.Generator().manual_seed(0), image_size=128)
        assert set(batch.masks.unique().tolist()) == {0, 1, 2}


class TestRefused:
    """What cannot be is said before anything is computed."""

    def test_a_run_that_asks_for_other_labels(self, stores, calls, tmp_path):  # noqa: F811
        """One label, or others, of masks that have these two."""
        one = {"stores": {name: str(path) for name, path in stores.items()}}
        for data in (one, one | {"labels": ["core", "oedema"]}):
            with pytest.raises(DataError, match="Masks of hospital north have oedema, core"):
                run(config_of(arms=["pooled"], data=data), tmp_path / f"out{len(data)}")

    @pytest.mark.parametrize(
        "changes",
        [
            {"model__head_hints": True},
            {"model__decoder_lora_rank": 4},
            {"model__head": "none"},
            {"arms": ["box-zero-shot", "pooled"]},
        ],
        ids=str,
    )
    def test_boxes(self, stores, changes):
        """A box does not say which label it means."""
        data = {"stores": {name: str(path) for name, path in stores.items()}, "labels": LABELS}
        with pytest.raises(ValueError, match="which label it means"):
            config_of(**{"arms": ["pooled"], "data": data, **changes})

    @pytest.mark.parametrize("labels", [("one",), ("one", "one")])
    def test_names(self, labels):
        """One label needs no name; two need two."""
        with pytest.raises(ValueError, match="two names or more"):
            DataConfig(stores={"north": Path("x")}, labels=labels)

    def test_sources_of_one_label(self):
        """Phantoms and BIDS trees have one."""
        with pytest.raises(ValueError, match="--label"):
            DataConfig(phantom={}, labels=LABELS)

    @pytest.mark.parametrize(
        ("labels", "more"),
        [
            (["core"], []),
            (["core", "core"], []),
            (["core", "bone"], []),
            (["core", "vessel"], ["--tumour", "core"]),
        ],
        ids=str,
    )
    def test_ingest(self, tmp_path, labels, more):
        """Fewer than two, twice the same, one that is not there, or merging and not merging."""
        source = two_rings(tmp_path / "source", 2, 0)
        command = ["ingest", str(source), "--into", str(tmp_path / "s"), "--hospital", "north"]
        command += ["--keep-names", "--body-part", "other", *more]
        for one in labels:
            command += ["--label", one]
        result = CliRunner().invoke(app, command)
        assert isinstance(result.exception, UsageError)
        assert "there are: core, vessel, oedema" in str(result.exception)
        assert not (tmp_path / "s").exists()
