"""`secure-sum`: noise shared by hospitals, priced over the union, and refused where it is bare."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import small_model, toy_patients

from evenhand.config import ExperimentConfig, PrivacyConfig, TrainingConfig
from evenhand.errors import ConfigError, PolicyError, PrivacyError
from evenhand.privacy import step as step_module
from evenhand.privacy.accounting import epsilon_of
from evenhand.privacy.ledger import Ledger
from evenhand.privacy.policy import Proposal, open_policy
from evenhand.privacy.secure_sum import Together, noise_share, require_trust
from evenhand.privacy.step import NoisedSum, PrivateStep
from evenhand.training.private import PrivacyPlan, Study, train_private

PRIVACY = PrivacyConfig(
    epsilon=8,
    delta=1 / 480,
    trust="secure-sum",
    tolerated=1,
    sampling_rate=0.5,
    rounds=6,
    steps_per_round=1,
)
FOUR = Together(patients=48, hospitals=4, carrier="trusted-sum")


class TestShares:
    """What is left of the noise is enough, whoever is gone."""

    @given(
        noise=st.floats(0.3, 20),
        hospitals=st.integers(2, 40),
        data=st.data(),
    )
    def test_those_who_are_left_make_the_whole_noise(self, noise, hospitals, data):
        """With the tolerated gone, one that takes its own share away still sees all the noise."""
        tolerated = data.draw(st.integers(0, hospitals - 2))
        shared = noise_share(noise, hospitals=hospitals, tolerated=tolerated)
        left = math.sqrt(shared.fewest - 1) * shared.share
        assert left == pytest.approx(noise)
        assert math.sqrt(shared.fewest - 2) * shared.share < noise

    @pytest.mark.parametrize(("hospitals", "tolerated"), [(4, 3), (4, 5), (2, 1), (1, 0), (4, -1)])
    def test_somebody_has_to_be_left(self, hospitals, tolerated):
        """Shares of infinite size, or none, are refused in a sentence."""
        with pytest.raises(PrivacyError, match="somebody has to be left"):
            noise_share(1.0, hospitals=hospitals, tolerated=tolerated)

    def test_the_noise_that_is_really_drawn_adds_up(self):
        """Three of four answer, one of them looks: the two others have added sigma C."""
        sigma, clip, size = 2.0, 0.7, 20_000
        shared = noise_share(sigma, hospitals=4, tolerated=1)
        total = sum(
            NoisedSum(size, noise_multiplier=shared.share, clip_norm=clip).release()
            for _ in range(shared.fewest - 1)
        )
        assert float(total.std()) == pytest.approx(sigma * clip, rel=0.03)

    def test_all_hospitals_have_one_grid(self):
        """Integers of different grids could not be added up."""
        shared = noise_share(2.0, hospitals=4, tolerated=1)
        steps = {
            NoisedSum(size, noise_multiplier=shared.share, clip_norm=0.7).grid_step
            for size in (3, 3)
        }
        assert len(steps) == 1


class TestPlan:
    """One noise over the union of patients."""

    def test_the_sum_is_priced_over_the_union(self):
        """Delta is the agreed one, and the noise before everybody's eyes is sigma."""
        plan = PrivacyPlan.make(PRIVACY, 7, together=FOUR)
        assert plan.delta == pytest.approx(1 / 480)
        whole = plan.whole(PRIVACY)
        assert whole.steps == 6
        assert 7.9 < epsilon_of([whole], plan.delta) <= 8
        assert plan.added_noise == pytest.approx(
            plan.mechanism_of_round.noise_multiplier / math.sqrt(2)
        )

    def test_a_hospital_adds_less_than_alone(self):
        """That is what it is for."""
        alone = PrivacyPlan.make(PRIVACY.model_copy(update={"trust": "local"}), 12)
        assert alone.shared is None
        assert PrivacyPlan.make(PRIVACY, 12, together=FOUR).added_noise < alone.added_noise

    def test_the_union_counts_for_delta(self):
        """1/N is that of all patients: a delta that would do for one hospital is refused."""
        privacy = PRIVACY.model_copy(update={"delta": 0.05})
        with pytest.raises(PrivacyError, match="at least 1 / 48"):
            PrivacyPlan.make(privacy, 7, together=FOUR)

    @pytest.mark.parametrize("together", [None, Together(patients=6, hospitals=4)])
    def test_an_unknown_union_is_refused(self, together):
        """Nor can a union have fewer patients than one of its hospitals."""
        with pytest.raises(PrivacyError, match="not known with how many"):
            PrivacyPlan.make(PRIVACY, 7, together=together)


def hospital_step(patients, *, union, noise=0.0):
    """One private step from zero on patients, each a vector; what moved."""
    weights = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    step = PrivateStep(
        [weights],
        torch.optim.SGD([weights], lr=1.0),
        noise_multiplier=noise,
        clip_norm=1.0,
        expected_patients=0.5 * union,
    )
    step(patients, lambda vector: vector @ weights)
    return weights.detach()


def test_the_weighted_average_of_hospitals_is_the_step_over_their_union():
    """What the federation averages by patients is one step on all patients, to 1e-9."""
    source = np.random.default_rng(3)
    groups = [torch.from_numpy(source.normal(size=(n, 3))) for n in (2, 5, 3)]
    parts = [hospital_step(list(group), union=len(group)) for group in groups]
    average = sum(len(group) / 10 * part for group, part in zip(groups, parts, strict=True))
    together = hospital_step([row for group in groups for row in group], union=10)
    assert torch.allclose(average, together, atol=1e-9)


class TestTraining:
    """Charged as the sum, noised as a share."""

    @pytest.fixture
    def ledger(self, tmp_path):
        """A fresh ledger."""
        return Ledger(tmp_path / "ledger.sqlite", "north")

    def train(self, ledger, together, privacy=PRIVACY, model=None):
        """One round on three toy patients."""
        model = model or small_model()
        return train_private(
            model,
            toy_patients(model, 3),
            privacy,
            TrainingConfig(tumour_slices=3, other_slices=2, box_slices=1),
            learning_rate=0.01,
            ledger=ledger,
            purpose="round 1",
            study=Study("study", together=together),
        )

    def test_what_is_added_is_the_share(self, ledger, monkeypatch):
        """With nobody drawn a round is pure noise, of a share's size and not of the sum's."""
        monkeypatch.setattr(step_module, "poisson_sample", lambda *_: [])
        model = small_model()
        before = model.adapter_state()
        self.train(ledger, FOUR, model=model)
        after = model.adapter_state()
        noise = torch.cat([(after[name] - before[name]).flatten() for name in before])
        share = PrivacyPlan.make(PRIVACY, 3, together=FOUR).added_noise
        assert float(noise.std()) == pytest.approx(0.01 * share / (0.5 * 3), rel=0.05)

    def test_the_ledger_has_the_noise_of_the_sum_and_says_who_is_trusted(self, ledger):
        """A simulation that adds up in the clear is named as such."""
        self.train(ledger, FOUR)
        (charge,) = ledger.state().charges
        plan = PrivacyPlan.make(PRIVACY, 3, together=FOUR)
        assert charge.mechanism == plan.mechanism_of_round
        assert "over 48 patients of 4 hospitals, of whom 1 may drop out" in charge.trust
        assert "SIMULATED" in charge.trust
        assert ledger.state().grant.delta == plan.delta

    def test_the_coordinator_must_not_see_single_updates(self, ledger):
        """Where nothing adds up unseen the round is refused, and nothing is charged or granted."""
        model = small_model()
        before = model.adapter_state()
        with pytest.raises(PrivacyError, match="nothing adds updates up unseen"):
            self.train(ledger, Together(patients=48, hospitals=4), model=model)
        assert ledger.state().charges == ()
        assert ledger.state().grant is None
        assert all(torch.equal(model.adapter_state()[name], before[name]) for name in before)

    def test_local_stays_local(self, ledger):
        """Others in the study change nothing where each hospital hides its own update."""
        self.train(ledger, FOUR, PRIVACY.model_copy(update={"trust": "local"}))
        (charge,) = ledger.state().charges
        assert charge.trust == "local"
        assert ledger.state().grant.delta == pytest.approx(1 / 480)


class TestRefusals:
    """Said before anything is trained."""

    def config(self, **privacy):
        """An experiment."""
        return ExperimentConfig.model_validate(
            {"name": "tiny", "data": {"source": "x"}, "privacy": privacy}
        )

    def test_several_steps_a_round(self, tmp_path):
        """A second step would build on a sum with a share of the noise."""
        from evenhand.config_files import load_config

        path = tmp_path / "x.toml"
        path.write_text(
            'name = "x"\n[data]\nsource = "x"\n[privacy]\ntrust = "secure-sum"\n'
            "steps_per_round = 4\n"
        )
        with pytest.raises(ConfigError, match="steps_per_round = 1"):
            load_config(path)

    @pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedyogi"])
    def test_optimisers_see_the_mean_alone(self, strategy):
        """What the coordinator does with the sum is its own affair."""
        assert self.with_strategy(strategy).federation.strategy == strategy

    @pytest.mark.parametrize("strategy", ["fedprox", "scaffold", "krum", "qfedavg", "tilted"])
    def test_what_asks_for_more_than_a_mean(self, strategy):
        """Single updates have a share of the noise only."""
        with pytest.raises(ValueError, match="more than a mean"):
            self.with_strategy(strategy)

    def with_strategy(self, strategy):
        """An experiment under secure-sum."""
        return ExperimentConfig.model_validate(
            {
                "name": "tiny",
                "data": {"source": "x"},
                "arms": ["federated"],  # the private one refuses some for another reason
                "privacy": {"trust": "secure-sum", "steps_per_round": 1, "delta": 1e-3},
                "federation": {"strategy": strategy},
            }
        )

    def test_a_delta_of_each_hospital_its_own(self, tmp_path):
        """Shares sized by different deltas do not add up to the noise that is charged."""
        from evenhand.config_files import load_config

        path = tmp_path / "x.toml"
        path.write_text(
            'name = "x"\n[data]\nsource = "x"\n[privacy]\ntrust = "secure-sum"\n'
            "steps_per_round = 1\n"
        )
        with pytest.raises(ConfigError, match=r"wants privacy\.delta"):
            load_config(path)
        with pytest.raises(PrivacyError, match="ledger keeps 1e-05"):
            PrivacyPlan.make(PRIVACY, 7, delta=1e-5, together=FOUR)

    def test_the_policy_decides_whom_to_trust(self):
        """A policy that names `local` alone, or no simulated sum, refuses by name."""
        config = self.config(trust="secure-sum", steps_per_round=1, delta=1e-3)

        def check(allowed, carrier):
            training = open_policy().training.model_copy(update={"trust": allowed})
            policy = open_policy().model_copy(update={"training": training})
            policy.check(
                Proposal.of(
                    config, "federated-private", hospital="north", patients=9, carrier=carrier
                )
            )

        with pytest.raises(PolicyError, match=r"training\.trust allows local; 'secure-sum'"):
            check(("local",), "secure-aggregation")
        with pytest.raises(PolicyError, match="'trusted-sum'"):
            check(("local", "secure-sum"), "trusted-sum")
        check(("local", "secure-sum"), "secure-aggregation")
        check(("trusted-sum",), "trusted-sum")

    def test_the_plain_arm_has_no_trust_to_check(self):
        """What has no privacy has no noise to share."""
        config = self.config(trust="secure-sum", steps_per_round=1, delta=1e-3)
        assert Proposal.of(config, "federated", hospital="north", patients=9).trust is None

    def test_words(self):
        """Local is one word; what is simulated and what is not differ."""
        assert require_trust("local", None, 1) == "local"
        real = Together(48, 4, carrier="secure-aggregation")
        assert require_trust("secure-sum", real, 1).endswith("added up by secure aggregation")
        with pytest.raises(PrivacyError):
            require_trust("secure-sum", None, 1)
