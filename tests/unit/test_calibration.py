"""Temperatures: recovered where one was planted, fitted to held-out training patients alone."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import CONFIG, small_model
from test_experiment_pipeline import backbone, calls, config_of, run  # noqa: F401 - fixtures

from evenhand.cases.store import CaseStore
from evenhand.config import ExperimentConfig
from evenhand.experiment.calibration import held_out
from evenhand.experiment.layout import RunFolder, build_model
from evenhand.metrics import fit_temperature, logit_counts
from evenhand.model.adapter_files import load_onto, read_adapter, save_adapter
from evenhand.predict import NOTHING, Prediction


class TestFit:
    """One number from counted voxels."""

    @pytest.mark.parametrize("planted", [0.7, 1.0, 2.4])
    def test_a_planted_temperature_is_found(self, planted):
        """Tumours that are there as often as logits / planted say."""
        rng = np.random.default_rng(0)
        logits = rng.normal(0, 3, (60, 60, 30))
        reference = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits / planted))).astype("u1")
        counts = logit_counts(1 / (1 + np.exp(-logits)), reference)
        assert fit_temperature(counts) == pytest.approx(planted, rel=0.03)

    def test_every_voxel_of_the_window_counts_once(self):
        """Sure ones too, and none farther than ten voxels from the box around both masks."""
        probability, reference = np.zeros((40, 40, 1)), np.zeros((40, 40, 1), np.uint8)
        reference[20, 20], probability[22, 20] = 1, 1.0
        voxels, tumour = logit_counts(probability, reference)
        assert (voxels.sum(), tumour.sum()) == (25 * 23, 1)  # one voxel of air is in the box

    def test_nothing_there_is_nothing_counted(self):
        """A healthy case where nothing is found says nothing of a temperature."""
        counts = logit_counts(np.zeros((5, 5, 1)), np.zeros((5, 5, 1), np.uint8))
        assert not counts.any()
        with pytest.raises(ValueError, match="no voxel"):
            fit_temperature(counts)


class TestMasks:
    """A temperature changes how sure a model is, and not what it finds."""

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 999), st.floats(0.1, 10))
    def test_masks_at_one_half_stay(self, seed, temperature):
        """Down to logits that are next to nothing; probabilities are those of the divided ones."""
        generator = torch.Generator().manual_seed(seed)
        size = 10 ** (10 * torch.rand(2, 6, 7, generator=generator) - 9)
        logits = size * torch.randn(2, 6, 7, generator=generator)
        plain = Prediction.from_logits(logits, threshold=0.5)
        calm = Prediction.from_logits(logits, threshold=0.5, temperature=temperature)
        assert np.array_equal(plain.mask, calm.mask)
        wanted = (logits / temperature).sigmoid().permute(1, 2, 0).numpy()
        np.testing.assert_allclose(calm.probability.astype(float), wanted, atol=5e-4)

    def test_where_nobody_asked_nothing_is_likely(self):
        """A high temperature does not put tumour onto slices without a box."""
        logits = torch.full((3, 4, 5), NOTHING)
        calm = Prediction.from_logits(logits, threshold=0.5, temperature=10)
        assert not calm.probability.any()


class TestFile:
    """The fitted temperature goes with the adapter."""

    def test_it_comes_back(self, tmp_path):
        """The fitted one, before that of the config."""
        path = tmp_path / "a.safetensors"
        save_adapter(path, small_model(), config_fingerprint="", training={"temperature": 2.25})
        other = small_model(seed=5, temperature=3.0)
        load_onto(path, other)
        assert other.temperature == 2.25

    def test_without_a_fit_the_configs_is_used(self, tmp_path):
        """It is no part of what an adapter is bound to."""
        path = tmp_path / "a.safetensors"
        save_adapter(path, small_model(), config_fingerprint="", training={})
        other = small_model(temperature=3.0)
        load_onto(path, other)
        assert other.temperature == 3.0

    def test_files_from_before_are_read(self):
        """A [model] section without the key is of temperature 1."""
        older = {k: v for k, v in CONFIG.model_dump(mode="json").items() if k != "temperature"}
        assert CONFIG.model_validate_json(json.dumps(older)) == CONFIG
        assert CONFIG.temperature == 1


class TestHeldOut:
    """Who is left out of the training that a temperature is fitted after."""

    @given(st.integers(0, 40), st.floats(0.01, 0.5))
    def test_somebody_trains_and_somebody_is_held_out(self, count, share):
        """The same each time, whatever the order; nobody where there is one patient only."""
        names = [f"p{n}" for n in range(count)]
        out = held_out(names, share)
        assert out == held_out(reversed(names), share)
        assert out <= set(names)
        assert len(out) == (max(1, round(share * count)) if count > 1 else 0)


class TestInARun:
    """A run that fits one."""

    def test_no_test_patient_is_looked_at_before_it_is_scored(
        self,
        calls,  # noqa: F811
        tmp_path,
        monkeypatch,
    ):
        """Neither training nor the temperature reads a volume of a test patient."""
        whole = CaseStore.volumes

        def noted(store, case, sequences=None, **more):
            calls.append(f"read {case.patient.patient_id}")
            return whole(store, case, sequences, **more)

        monkeypatch.setattr(CaseStore, "volumes", noted)
        config = config_of(arms=["pooled"], training__calibration_share=0.5)
        outcome = run(config, tmp_path / "out")
        done = calls.take()
        work = done[max(n for n, what in enumerate(done) if what == "embed") + 1 :]
        before, scored = work[: work.index("score pooled")], work[work.index("score pooled") :]
        split = outcome.run.split()
        train = {f"read {p}" for part in split.train.values() for p in part}
        test = {f"read {p}" for part in split.test.values() for p in part}
        assert before.count("train") == 2, "the arm's own, and one without the held-out"
        assert train <= set(before)
        assert not test & set(before)
        assert test <= set(scored)
        adapter = read_adapter(outcome.run.arm("pooled").adapter_path)
        assert adapter.training["calibration_patients"] == 2  # one of each hospital
        assert 0.3 <= adapter.training["temperature"] <= 5

    def test_another_temperature_is_put_on_without_training(self, calls, tmp_path):  # noqa: F811
        """Only what is scored changes, not its masks; the file tells it to whoever loads it."""
        first = run(config_of(arms=["pooled"]), tmp_path / "out").arms["pooled"]["rows"]
        calls.take()
        config = config_of(arms=["pooled"], model__temperature=4.0)
        again = run(config, tmp_path / "out").arms["pooled"]["rows"]
        assert calls.take() == ["score pooled", "report"]
        assert [row["dice"] for row in first] == [row["dice"] for row in again]
        assert [row["uncertainty"] for row in first] != [row["uncertainty"] for row in again]
        path = RunFolder(tmp_path / "out").arm("pooled").adapter_path
        assert read_adapter(path).model.temperature == 4.0
        model = build_model(config)
        load_onto(path, model)
        assert model.temperature == 4.0

    def test_a_fit_needs_a_head(self):
        """It is fitted to what is found without a prompt."""
        changes = {"model__head": "none", "training__calibration_share": 0.2}
        with pytest.raises(ValueError, match=r"model\.temperature"):
            config_of(**changes)
        assert isinstance(config_of(model__head="none"), ExperimentConfig)


def test_uncertainty_is_of_what_lies_around_the_mask():
    """A million voxels of next to no probability far away promise no second tumour."""
    logits = torch.full((40, 60, 60), -6.0)
    logits[10:14, 10:20, 10:20] = 6.0
    calm = Prediction.from_logits(logits, threshold=0.5, temperature=2)
    near = Prediction(calm.mask[:32, :32, :26], calm.probability[:32, :32, :26])
    assert calm.uncertainty == pytest.approx(near.uncertainty, abs=1e-4)
    nothing = Prediction(np.zeros_like(calm.mask), np.zeros_like(calm.probability))
    assert nothing.uncertainty == 0


def test_uncertainty_follows_the_temperature():
    """Less sure voxels promise less Dice."""
    logits = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0)) * 6
    found = [
        Prediction.from_logits(logits, threshold=0.5, temperature=t).uncertainty for t in (1, 2, 4)
    ]
    assert found[0] < found[1] < found[2]
