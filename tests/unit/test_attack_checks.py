"""Planted bugs are caught, each by name; the correct code passes."""

import random

import numpy as np
import pytest
import torch

from evenhand.privacy import step as step_module
from evenhand.privacy.ledger import Ledger
from evenhand.privacy.step import NoisedSum, PrivateStep
from evenhand.training.private import train_private
from evenhand_audit.attack.checks import (
    check_clipping,
    check_fresh_noise,
    check_noise,
    check_runs_compose,
    check_sampling,
    coin_fault,
    noise_fault,
)
from evenhand_audit.attack.probes import Probe
from evenhand_audit.attack.wiring import LedgerBook, check_training, opened_by_run, self_test


def without_noise_on_one_tensor(monkeypatch):
    """The last tensor's share of the noise is left out."""
    real = NoisedSum.release

    def release(self):
        quiet = self._total.clone()
        noised = real(self)
        if self._noised and len(quiet) == Probe.size():
            part = Probe.parts()[-1]
            noised[part] = quiet[part].double() * self.grid_step
        return noised

    monkeypatch.setattr(NoisedSum, "release", release)
    return PrivateStep


class ClipsSlices(PrivateStep):
    """Bug: every slice is clipped by itself, so a patient counts as often as there are slices."""

    def sampled(self, patients, *, rate, slices_at_most, draw, loss, **_):
        """Hand slices over as if they were patients."""
        drawn = step_module.poisson_sample(patients, rate)
        pieces = [piece for each in drawn for piece in draw(each, slices_at_most)]
        self(pieces, lambda piece: loss([piece]))


class DrawsAFixedNumber(PrivateStep):
    """Bug: sampling without replacement, accounted as Poisson."""

    def sampled(self, patients, *, rate, slices_at_most, draw, loss, **_):
        """Draw as many as are to be expected, always."""
        count = round(rate * len(patients))
        drawn = random.SystemRandom().sample(list(patients), count)
        self(drawn, lambda each: loss(draw(each, slices_at_most)))


class DrawsByEpochs(PrivateStep):
    """Bug: patients are shuffled and handed out in turn; another amplification holds for that."""

    def sampled(self, patients, *, rate, slices_at_most, draw, loss, **_):
        """Half of the draws come from who was not drawn before."""
        late = getattr(self, "_late", [])
        coin = random.SystemRandom()
        drawn = [each for each in patients if coin.random() < (rate / 2 if each in late else rate)]
        self._late = drawn
        self(drawn, lambda each: loss(draw(each, slices_at_most)))


def seeded_alike(monkeypatch):
    """Bug: noise of torch's generator, seeded with one number at the start of each round."""

    def noise(count, bits=step_module.GRID_BITS):
        drawn = torch.randn(count, dtype=torch.float64) * 2**bits
        return drawn.round().to(torch.int64).numpy()

    monkeypatch.setattr(step_module, "discrete_gaussian", noise)
    return PrivateStep


class TestPlantedBugs:
    """A check that passes a broken mechanism would be worse than none."""

    def test_no_noise_on_one_tensor(self, monkeypatch):
        """The tensor is named."""
        found = check_noise(without_noise_on_one_tensor(monkeypatch))
        assert not found.passed
        assert f"Tensor {len(Probe.parts())} of {len(Probe.parts())}" in found.finding

    def test_too_little_noise(self, monkeypatch):
        """Noise of half the promised size is named with its size."""
        real = step_module.discrete_gaussian
        monkeypatch.setattr(step_module, "discrete_gaussian", lambda count: real(count) // 2)
        found = check_noise()
        assert not found.passed
        assert "0.50 times" in found.finding

    def test_no_noise_when_nobody_was_drawn(self):
        """An empty draw that is passed over tells that nobody was drawn."""

        class Skips(PrivateStep):
            def __call__(self, drawn, loss):
                if drawn:
                    super().__call__(drawn, loss)

        found = check_noise(Skips)
        assert not found.passed
        assert "nobody drawn" in found.finding

    def test_clipping_by_slice(self):
        """A patient with eight slices counts eight times."""
        found = check_clipping(ClipsSlices)
        assert not found.passed
        assert "eight equal slices counts 8.0 times" in found.finding

    def test_clipping_by_slice_only_where_there_is_noise(self):
        """A bug that hides from noise-free tests is seen through the noise."""

        class Hides(ClipsSlices):
            def sampled(self, *args, **kwargs):
                noisy = self._noise_multiplier > 0
                (ClipsSlices if noisy else PrivateStep).sampled(self, *args, **kwargs)

        found = check_clipping(Hides)
        assert not found.passed
        assert found.finding.startswith("With noise")

    def test_clipping_by_tensor(self, monkeypatch):
        """Five tensors clipped one by one let a patient count root-five times."""

        class ByTensor(NoisedSum):
            def add(self, vector, share=1.0):
                for part in Probe.parts():
                    alone = torch.zeros_like(vector)
                    alone[part] = vector[part]
                    super().add(alone, share)

        monkeypatch.setattr(step_module, "NoisedSum", ByTensor)
        found = check_clipping()
        assert not found.passed
        assert "counts 2.2 times" in found.finding

    def test_a_mean_over_those_drawn(self):
        """Divided by the number drawn, what one patient adds depends on the others."""

        class Divides(PrivateStep):
            def __call__(self, drawn, loss):
                self._expected_patients = max(len(drawn), 1)
                super().__call__(drawn, loss)

        found = check_clipping(Divides)
        assert not found.passed
        assert "depends on who else" in found.finding

    def test_noise_seeded_alike_each_round(self, monkeypatch):
        """Two rounds with the same noise are told apart from two with fresh noise."""
        found = check_fresh_noise(seeded_alike(monkeypatch))
        assert not found.passed
        assert "of two rounds" in found.finding

    def test_one_noise_for_all_steps(self, monkeypatch):
        """Within a round too."""
        kept = step_module.discrete_gaussian(Probe.size())
        monkeypatch.setattr(step_module, "discrete_gaussian", lambda _: kept)
        found = check_fresh_noise()
        assert not found.passed
        assert "of one round" in found.finding

    def test_sampling_without_replacement(self):
        """A fixed number of patients a step is not a coin for each."""
        found = check_sampling(DrawsAFixedNumber)
        assert not found.passed
        assert "0.00 times as much" in found.finding

    def test_sampling_that_remembers(self):
        """Whoever was drawn last is drawn less: rates or neighbours in time show it."""
        # 300 steps, the default, miss this one in five times.
        assert not check_sampling(DrawsByEpochs, steps=1200).passed

    def test_sampling_from_a_seed(self, monkeypatch):
        """Draws that repeat when a seed repeats are no secret."""
        monkeypatch.setattr(
            step_module,
            "poisson_sample",
            lambda patients, rate: [each for each in patients if np.random.rand() < rate],  # noqa: NPY002
        )
        found = check_sampling()
        assert not found.passed
        assert "foretold from a seed" in found.finding

    def test_a_second_run_with_a_fresh_ledger(self, tmp_path):
        """Each run its own ledger: the second one knows nothing of the first."""

        def fresh(run):
            ledger = Ledger(run / "ledger.sqlite", "north")
            ledger.grant(50, 1e-5)
            return LedgerBook(ledger, run.name)

        found = check_runs_compose(fresh)
        assert not found.passed
        assert "sees 0.00 of the" in found.finding


class TestTraining:
    """Bugs around a correct step, in the training that uses it."""

    def test_less_noise_than_charged(self, monkeypatch):
        """What is charged and what is run are compared, not two copies of a setting."""

        def half(*args, noise_multiplier, **kwargs):
            return PrivateStep(*args, noise_multiplier=noise_multiplier / 2, **kwargs)

        monkeypatch.setattr("evenhand.training.private.PrivateStep", half)
        found = check_training()
        assert not found.passed
        size = float(found.finding.split("noise has ")[1].split()[0])
        assert size == pytest.approx(0.5, abs=0.05)  # 3000 numbers: 1.3% is one deviation

    def test_a_fixed_number_of_patients(self, monkeypatch):
        """Seen from outside the training as well."""
        monkeypatch.setattr("evenhand.training.private.PrivateStep", DrawsAFixedNumber)
        found = check_training()
        assert not found.passed
        assert "another way of drawing" in found.finding

    def test_charged_afterwards(self, monkeypatch):
        """A round that looks at patients and then pays is caught."""
        calls = []
        real = Ledger.charge

        def late(self, *args, **kwargs):
            calls.append((self, args, kwargs))

        def train(*args, **kwargs):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Ledger, "charge", late)
                train_private(*args, **kwargs)
            for ledger, arguments, named in calls:
                real(ledger, *arguments, **named)

        found = check_training(train)
        assert not found.passed
        assert "before anything was charged" in found.finding


class TestCorrectCode:
    """No alarm about what is right; false alarms come once in a million."""

    def test_everything_passes(self):
        """The installed code, as `evenhand attack --self-test` sees it."""
        heard = []
        checks = self_test(heard.append)
        assert [check.finding for check in checks if not check.passed] == []
        assert heard == checks
        assert len({check.name for check in checks}) == 6

    def test_false_alarms_are_as_rare_as_said(self):
        """At a chance of 5% about 5% of fair draws and true noise fail, not 0 and not 20."""
        source = np.random.default_rng(5)
        trials = 400
        coins = sum(
            bool(coin_fault(source.random((120, 10)) < 0.3, 0.3, chance=0.05))
            for _ in range(trials)
        )
        noise = sum(
            bool(noise_fault(source.standard_normal(300), chance=0.05)) for _ in range(trials)
        )
        assert 4 <= coins <= 40
        assert 8 <= noise <= 36

    def test_two_runs_of_one_hospital_share_a_ledger(self, tmp_path, monkeypatch):
        """The probe opens ledgers as runs do."""
        monkeypatch.setenv("EVENHAND_HOME", str(tmp_path))
        assert check_runs_compose(opened_by_run).passed

    def test_nothing_of_the_home_is_touched(self, tmp_path, monkeypatch):
        """A self-test leaves a hospital's real ledger and policy alone."""
        monkeypatch.setenv("EVENHAND_HOME", str(tmp_path / "home"))
        check_training()
        assert not (tmp_path / "home").exists()
