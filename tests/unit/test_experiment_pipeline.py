"""The whole way on a random backbone: what is kept, what is made anew, what is refused."""

import fcntl
import json
from copy import deepcopy
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import adaptive_avg_pool2d

from evenhand import plugins
from evenhand.artifacts import read_prediction_table
from evenhand.cases.nifti import read_nifti
from evenhand.config import WarmStartConfig
from evenhand.errors import AdapterError, ResourceError, UsageError
from evenhand.experiment import arms, pipeline, stages, warm_start
from evenhand.experiment.layout import RunFolder, build_model
from evenhand.ingest.bids import ingest_bids
from evenhand.model import adapter_files, embeddings
from evenhand.model.adapter_files import read_adapter, save_adapter
from evenhand.model.backbones import Backbone
from tiny_experiment import PATIENTS, config_of, run


@pytest.fixture(scope="module")
def backbone():
    """One random MobileSAM for all, which nothing changes: no config here puts LoRA into it."""
    torch.manual_seed(0)
    backbone = Backbone("mobile-sam", 128, "0" * 64)
    return backbone.requires_grad_(requires_grad=False).eval()


def embed(_encoder, slices):
    """In place of a slow encoder: each slice's own averages, in an embedding's shape."""
    return adaptive_avg_pool2d(slices[:, None], 8).expand(-1, 256, -1, -1).half().numpy()


class Calls(list):
    """What was done, in order."""

    def take(self):
        """Return all since the last time."""
        taken, self[:] = list(self), []
        return taken


@pytest.fixture
def calls(monkeypatch, backbone):
    """Replace weights, report and federation; return a list of the work that is done."""
    calls = Calls()

    def federated(run, arm, model, bar):
        calls.append(f"train {arm}")
        return {"seconds": 1.0, "bytes_moved": 10, "rounds": 2, "epsilon": None}

    def write_report(table, folder, *, config, facts):
        calls.append("report")
        folder.mkdir(exist_ok=True)
        (folder / "facts.json").write_text(json.dumps(facts))
        return folder / "index.html"

    def watched(name, function):
        def call(*args, **kwargs):
            calls.append(name(*args, **kwargs) if callable(name) else name)
            return function(*args, **kwargs)

        return call

    rooms = {"evenhand.arms": federated, "evenhand.reports": write_report}
    monkeypatch.setattr("evenhand.model.backbones.load_backbone", lambda *_: backbone)
    monkeypatch.setattr(pipeline, "fetch", lambda *_, **__: None)
    monkeypatch.setattr(plugins, "load", lambda group, _: rooms[group])
    monkeypatch.setattr(stages, "train", watched("train", stages.train))
    monkeypatch.setattr(
        arms,
        "evaluate_arm",
        watched(lambda _run, _config, arm, **_: f"score {arm}", arms.evaluate_arm),
    )
    monkeypatch.setattr(embeddings.FrozenEncoder, "__call__", watched("embed", embed))
    return calls


CASES = sum(PATIENTS.values())
TESTS = len(PATIENTS)  # a third of three, at each hospital
FRESH = ["embed"] * CASES + ["score box-zero-shot", "train", "score pooled", "report"]


class TestWholeWay:
    """One run leaves everything that the next room needs."""

    def test_leaves_table_adapter_and_masks(self, calls, tmp_path):
        """Every arm scores every test case in each of its ways; its masks lie ready."""
        outcome = run(config_of(), tmp_path / "out")
        assert calls.take() == FRESH
        table, meta = read_prediction_table(outcome.run.predictions_path)
        assert table.groupby(["arm", "prompt"]).size().to_dict() == {
            ("box-zero-shot", "box"): TESTS,
            ("pooled", "automatic"): TESTS,
        }
        tested = [p for part in outcome.run.split().test.values() for p in part]
        assert sorted(set(table["patient"])) == sorted(tested)
        assert meta["experiment"] == "tiny"
        for arm in ("box-zero-shot", "pooled"):
            assert outcome.run.arm(arm).mask_case_ids() == sorted(set(table["case"]))
        adapter = read_adapter(outcome.run.arm("pooled").adapter_path)
        assert adapter.training["hospitals"] == ["north", "south"]
        assert adapter.training["train_patients"] == CASES - TESTS
        assert not outcome.run.arm("box-zero-shot").adapter_path.exists()

    def test_record_says_what_ran(self, calls, tmp_path):
        """Versions, weights and seconds of each stage."""
        outcome = run(config_of(), tmp_path / "out")
        record = json.loads(outcome.run.record_path.read_text())
        assert record["seconds"].keys() == {"cases", "embeddings", "box-zero-shot", "pooled"}
        assert len(record["weights_sha256"]) == 64
        assert record["commit"] is None or len(record["commit"]) == 40

    def test_no_draft_stays(self, calls, tmp_path):
        """Everything is written beside its place and moved there; nothing stays beside it."""
        run(config_of(), tmp_path / "out")
        strange = [p for p in (tmp_path / "out").rglob("*") if p.suffix == ".tmp"]
        strange += [p for p in (tmp_path / "out").rglob(".*") if p.name != ".lock"]
        assert strange == []


class TestStores:
    """A run over stores that `evenhand ingest` made."""

    def test_sealed_and_plain_stores_give_one_result(self, calls, tmp_path, tiny_tree):
        """Whether a store is encrypted changes no figure; its embeddings are encrypted, too."""
        tables = []
        for sealed in (True, False):
            place = tmp_path / f"sealed-{sealed}"
            report = ingest_bids(tiny_tree, place, sealed=sealed)
            data = {"stores": {own.hospital: str(own.store) for own in report.hospitals}}
            run(config_of(data=data), place / "run")
            tables.append((place / "run" / "predictions.csv").read_bytes())
            cached = {path.suffix for path in (place / "run").glob("hospitals/*/embeddings/*")}
            assert cached == {".sealed" if sealed else ".npy"}
        assert tables[0] == tables[1]


class TestAgain:
    """A second run does what is left, and nothing else."""

    @pytest.fixture
    def done(self, calls, tmp_path, tmp_path_factory):
        """The folder of a finished run, made once for all tests of this module."""
        finished = tmp_path_factory.getbasetemp() / "finished-run"
        if not finished.exists():
            run(config_of(), tmp_path / "first")
            (tmp_path / "first").rename(finished)  # there once it is whole: another test may fail
            calls.take()
        return Path(copytree(finished, tmp_path / "out"))

    def test_nothing_changed(self, calls, done):
        """Only the report is written again; the table stays what it was."""
        before = (done / "predictions.csv").read_bytes()
        outcome = run(config_of(), done)
        assert calls.take() == ["report"]
        assert (done / "predictions.csv").read_bytes() == before
        assert outcome.arms["pooled"]["train_patients"] == CASES - TESTS

    @pytest.mark.parametrize(
        ("change", "work"),
        [
            ({"training__epochs": 2}, ["train", "score pooled"]),
            ({"audit__nsd_tolerance": 1.0}, ["score box-zero-shot", "score pooled"]),
            ({"audit__resamples": 100}, []),
            ({"training__box_jitter": 1}, ["score box-zero-shot", "train", "score pooled"]),
            ({"federation__round_timeout_s": 5.0}, []),
            ({"arms": ["box-zero-shot"]}, []),
            (
                {"arms": ["box-zero-shot", "pooled", "local"]},
                ["train", "score local-north", "train", "score local-south"],
            ),
        ],
        ids=str,
    )
    def test_changed(self, calls, done, change, work):
        """What depends on the change is made anew."""
        run(config_of(**change), done)
        assert calls.take() == [*work, "report"]

    def test_scored_again_from_the_adapter(self, calls, done):
        """To be scored otherwise, an adapter is reloaded: figures of its training stay."""
        before = json.loads(RunFolder(done).arm("pooled").record_path.read_text())
        outcome = run(config_of(audit__nsd_tolerance=1.0), done)
        record = outcome.arms["pooled"]
        for key in ("seconds", "train_patients", "first_loss", "last_loss", "epsilon"):
            assert record[key] == before[key]
        assert record["seconds_scoring"] >= 0
        for old, new in zip(before["rows"], record["rows"], strict=True):
            assert old["dice"] == new["dice"], "the same masks"
            assert new["nsd_tolerance"] == 1.0

    def test_busy_folder(self, calls, tmp_path):
        """Two commands in one folder would charge patients twice: the second is refused."""
        out = RunFolder(tmp_path / "out")
        out.path.mkdir()
        with out.lock_path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(UsageError, match=r"Another command is working.*--out"):
                run(config_of(), out.path)
            assert [path.name for path in out.path.iterdir()] == [out.lock_path.name]
        run(config_of(arms=["box-zero-shot"]), out.path)

    def test_adapter_for_another_backbone(self, calls, done):
        """A file that does not belong there is refused, not trained over."""
        folder = RunFolder(done).arm("pooled")
        model = build_model(config_of())
        model.backbone = deepcopy(model.backbone)
        model.backbone.weights_sha256 = "f" * 64
        save_adapter(folder.adapter_path, model, config_fingerprint="", training={})
        folder.record_path.unlink()
        with pytest.raises(AdapterError, match="was trained on mobile-sam"):
            run(config_of(), done)
        assert "train" not in calls.take()


class TestInterrupted:
    """Ctrl-C at any place leaves a state that the same command goes on from."""

    def test_in_the_middle_of_embedding(self, calls, tmp_path, monkeypatch):
        """Finished cases are not computed again."""
        whole = embeddings.FrozenEncoder.__call__

        def stop_at_the_third(*args):
            if len(calls) == 2:
                raise KeyboardInterrupt
            return whole(*args)

        with monkeypatch.context() as patch:
            patch.setattr(embeddings.FrozenEncoder, "__call__", stop_at_the_third)
            with pytest.raises(KeyboardInterrupt):
                run(config_of(), tmp_path / "out")
        assert calls.take() == ["embed"] * 2
        run(config_of(), tmp_path / "out")
        assert calls.take() == FRESH[2:]

    def test_in_the_middle_of_training(self, calls, tmp_path, monkeypatch):
        """Embeddings and finished arms are kept; the interrupted arm is trained."""

        def interrupt(*args, **kwargs):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(stages, "train", interrupt)
            with pytest.raises(KeyboardInterrupt):
                run(config_of(), tmp_path / "out")
        assert calls.take() == ["embed"] * CASES + ["score box-zero-shot"]
        outcome = run(config_of(), tmp_path / "out")
        assert calls.take() == ["train", "score pooled", "report"]
        whole = run(config_of(), tmp_path / "whole")
        for name, record in whole.arms.items():
            assert outcome.arms[name]["rows"] == record["rows"], "as if never interrupted"

    def test_in_the_middle_of_scoring(self, calls, tmp_path, monkeypatch):
        """A trained adapter is not trained again for want of its figures."""

        def interrupt(run, config, arm, **kwargs):
            if arm == "pooled":
                raise KeyboardInterrupt
            return []

        with monkeypatch.context() as patch:
            patch.setattr(arms, "evaluate_arm", interrupt)
            with pytest.raises(KeyboardInterrupt):
                run(config_of(), tmp_path / "out")
        assert "train" in calls.take()
        run(config_of(), tmp_path / "out")
        assert "train" not in calls.take()


class TestFullDisk:
    """No space left: one sentence, and nothing half-written."""

    def test_while_saving_an_adapter(self, calls, tmp_path, monkeypatch):
        """The arm is not taken for a trained one; afterwards the same command goes on."""

        def cut_off(state, path, metadata):
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(adapter_files, "save_file", cut_off)
            with pytest.raises(ResourceError, match="No space left"):
                run(config_of(), tmp_path / "out")
        folder = RunFolder(tmp_path / "out").arm("pooled")
        assert [path.name for path in folder.path.iterdir()] == ["fingerprint"]
        calls.take()
        run(config_of(), tmp_path / "out")
        assert calls.take() == ["train", "score pooled", "report"]

    def test_while_writing_a_mask(self, calls, tmp_path, monkeypatch):
        """A mask appears whole or not at all."""

        def cut_off(path, voxels, affine):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device", str(path))

        monkeypatch.setattr("evenhand.cases.nifti.write_nifti", cut_off)
        with pytest.raises(ResourceError, match=r"No space left on device.*Free space"):
            run(config_of(), tmp_path / "out")
        arm = tmp_path / "out" / "arms" / "box-zero-shot"
        assert [path for path in arm.rglob("*") if path.name.count(".nii")] == []

    def test_probabilities_are_kept_beside_the_mask(self, calls, tmp_path):
        """What a mask was cut from is kept with it, so that doubt can be shown."""
        run(config_of(), tmp_path / "out")
        arm = RunFolder(tmp_path / "out").arm("box-zero-shot")
        assert arm.mask_case_ids()
        for case_id in arm.mask_case_ids():
            mask, _ = read_nifti(arm.mask_path(case_id), name="mask")
            probability, _ = read_nifti(arm.probability_path(case_id), name="probability")
            assert probability.dtype == np.uint8
            assert (probability[mask == 1] >= 127).all()
            assert (probability[mask == 0] <= 128).all()


class TestWarmStart:
    """Arms that start from phantoms."""

    @pytest.fixture
    def begun(self, monkeypatch):
        """Small phantoms; return the adapters that trainings begin with."""
        monkeypatch.setattr(warm_start, "_SHAPE", (64, 64, 4))
        begun, train = [], stages.train

        def watched(model, *args, **kwargs):
            begun.append(model.adapter_state())
            return train(model, *args, **kwargs)

        monkeypatch.setattr(stages, "train", watched)
        return begun

    def test_all_arms_start_at_what_phantoms_taught(self, calls, begun, tmp_path):
        """Phantoms are trained on once; every arm begins there, and so does its calibration."""
        config = config_of(
            arms=["pooled", "federated"],
            warm_start={"phantoms": 4, "epochs": 1},
            training__calibration_share=0.5,
        )
        out = run(config, tmp_path / "out").run
        learned = read_adapter(out.arm("warm-start").adapter_path).state
        assert len(begun) == 3  # phantoms, pooled, pooled to calibrate
        assert any(not torch.equal(one, learned[name]) for name, one in begun[0].items())
        for start in begun[1:]:
            assert all(torch.equal(one, learned[name]) for name, one in start.items())
        assert read_adapter(out.arm("federated").start_path).state.keys() == learned.keys()

    def test_only_the_arms_that_are_named(self, calls, begun, tmp_path):
        """Who is not named starts at random, as without phantoms."""
        start = {"phantoms": 4, "epochs": 1, "arms": ["federated"]}
        run(config_of(arms=["pooled", "federated"], warm_start=start), tmp_path / "out")
        fresh = build_model(config_of()).adapter_state()
        pooled = begun[0]
        assert all(torch.equal(one, fresh[name]) for name, one in pooled.items())

    def test_runs_of_before_are_read(self):
        """Keys of the time when only the private arm could start there mean what they meant."""
        old = config_of(privacy={"warm_start_phantoms": 8, "warm_start_epochs": 2})
        assert old.warm_start == WarmStartConfig(phantoms=8, epochs=2, arms=("federated-private",))
        assert config_of(privacy={"warm_start_phantoms": 0}).warm_start == WarmStartConfig()

    def test_other_images_are_refused(self):
        """Heads on FLAIR teach nothing about other images: said before anything is trained."""
        with pytest.raises(ValidationError, match="set it to 0"):
            config_of(warm_start={"phantoms": 4}, data__sequences=["T2w"])


class TestFederatedArms:
    """What the pipeline does around the room that federates."""

    def test_warm_start_is_used_only_where_asked_for(self, calls, tmp_path):
        """A warm start that an earlier config left behind is no start for this one."""
        config = config_of(arms=["federated-private"])
        out = RunFolder(tmp_path / "out")
        run(config, out.path)
        model = build_model(config)
        save_adapter(out.arm("warm-start").adapter_path, model, config_fingerprint="", training={})
        run(config_of(arms=["federated-private"], seed=0, privacy__epsilon=4.0), out.path)
        assert calls.count("train federated-private") == 2
        assert not out.arm("federated-private").start_path.exists()

    @pytest.mark.parametrize(
        "change", [{"privacy__clip_norm": 0.5}, {"training__tumour_slices": 2}]
    )
    def test_paid_rounds_are_not_thrown_away(self, calls, tmp_path, change):
        """What used up a privacy budget could not be trained again: refused before any work."""
        config = config_of(arms=["pooled", "federated-private"])
        out = RunFolder(tmp_path / "out")
        run(config, out.path)
        out.arm("federated-private").append_round({"round": 1, "hospitals": {"north": {}}})
        adapter = out.arm("federated-private").adapter_path.read_bytes()
        calls.take()
        with pytest.raises(UsageError, match=r"federated-private'.*privacy budget.*--out"):
            run(config_of(arms=["pooled", "federated-private"], **change), out.path)
        assert calls.take() == []
        assert out.arm("federated-private").adapter_path.read_bytes() == adapter
        run(config, out.path)
        assert calls.take() == ["report"]

    def test_early_end_is_said(self, calls, tmp_path, monkeypatch):
        """An arm that its budget cut short says so in the report."""

        def cut_short(run, arm, model, bar):
            return {"seconds": 1.0, "rounds": 3, "rounds_planned": 4, "epsilon": None}

        write = plugins.load("evenhand.reports", "audit")
        monkeypatch.setattr(
            plugins, "load", lambda group, _: cut_short if group.endswith("arms") else write
        )
        outcome = run(config_of(arms=["federated-private"]), tmp_path / "out")
        note = outcome.arms["federated-private"]["note"]
        assert note.endswith("ended after 3 of 4 rounds, when its privacy budget was used up")
        facts = json.loads((outcome.run.report_folder / "facts.json").read_text())
        assert facts["arms"]["federated-private"]["note"] == note

    def test_what_an_attack_has_proven_stands_beside_the_promise(
        self, calls, tmp_path, monkeypatch
    ):
        """Once `evenhand attack` was asked, the next report tells it of the arm with a promise."""

        def private(run, arm, model, bar):
            return {"seconds": 1.0, "epsilon": {"north": {"epsilon": 2.0, "delta": 0.01}}}

        write = plugins.load("evenhand.reports", "audit")
        monkeypatch.setattr(
            plugins, "load", lambda group, _: private if group.endswith("arms") else write
        )
        config = config_of(arms=["pooled", "federated-private"])
        outcome = run(config, tmp_path / "out")

        def told():
            text = (outcome.run.report_folder / "facts.json").read_text()
            return {name: arm["attack"] for name, arm in json.loads(text)["arms"].items()}

        assert told() == {"pooled": None, "federated-private": None}
        outcome.run.attack_path.parent.mkdir()
        outcome.run.attack_path.write_text(json.dumps({"sentence": "At least 0.5 is lost."}))
        run(config, tmp_path / "out")
        assert told() == {"pooled": None, "federated-private": "At least 0.5 is lost."}
