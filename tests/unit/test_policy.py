"""The site policy: strict to read, and what it does not allow is refused in a sentence."""

import dataclasses
from pathlib import Path

import pytest

from evenhand.config import ExperimentConfig
from evenhand.errors import ConfigError, PolicyError
from evenhand.home import HOME_VARIABLE, evenhand_home
from evenhand.privacy.policy import Proposal, load_policy, open_policy
from evenhand.privacy.site import POLICY_FILE, POLICY_VARIABLE, Site

EXAMPLE = Path(__file__).resolve().parents[2] / "configs" / "site-policy.toml"

FINE = Proposal(
    hospital="north",
    arm="federated-private",
    backbone="mobile-sam",
    head="small",
    strategy="fedavg",
    patients=40,
    tensors=("head.leave.weight",),
    epsilon=3.0,
    delta=1e-3,
    trust="local",
)
"""What the example allows."""


@pytest.fixture(scope="module")
def policy():
    """The example in configs/."""
    return load_policy(EXAMPLE)


def changed(tmp_path, old, new):
    """The example with one change, as a file."""
    text = EXAMPLE.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "policy.toml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


class TestReading:
    """A policy that is not understood whole is not read at all."""

    def test_an_unknown_key_names_the_nearest(self, tmp_path):
        """A limit that was misspelt would otherwise not hold."""
        path = changed(tmp_path, "maximum_epsilon", "maximum_epsilom")
        with pytest.raises(ConfigError, match=r"budget\.maximum_epsilom.*maximum_epsilon"):
            load_policy(path)

    @pytest.mark.parametrize(
        "key",
        ["maximum_epsilon", "maximum_delta", "minimum_cohort", "arms", "trust", "tables", "by"],
    )
    def test_a_missing_key_is_refused(self, tmp_path, key):
        """What the officer did not think of is not decided by a default."""
        lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
        path = tmp_path / "policy.toml"
        path.write_text("\n".join(line for line in lines if not line.startswith(f"{key} =")))
        with pytest.raises(ConfigError, match=rf"\.{key}: Field required"):
            load_policy(path)

    @pytest.mark.parametrize("value", ["0", "-1.0", "inf", "nan", "'much'"])
    def test_a_limit_that_bounds_nothing_is_refused(self, tmp_path, value):
        """Zero, endless, or no number."""
        old = next(
            line for line in EXAMPLE.read_text().splitlines() if line.startswith("maximum_epsilon")
        )
        with pytest.raises(ConfigError, match=r"budget\.maximum_epsilon"):
            load_policy(changed(tmp_path, old, f"maximum_epsilon = {value}"))

    def test_training_needs_the_number_of_patients(self, tmp_path):
        """Averaging weighs by it; the way out is in the sentence."""
        path = changed(tmp_path, '"patients", ', "")
        with pytest.raises(ConfigError, match=r"training\.arms = \[\]"):
            load_policy(path)


class TestTraining:
    """Each rule, broken by itself."""

    def test_what_is_allowed_passes(self, policy):
        """The tests below would mean nothing otherwise."""
        policy.check(FINE)

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"hospital": "south"}, "site policy is that of hospital north, not of south"),
            ({"arm": "federated"}, r"training\.arms allows federated-private; 'federated'"),
            ({"backbone": "sam-vit-h"}, r"training\.backbones .*'sam-vit-h'"),
            ({"head": "base"}, r"training\.heads .*'base'"),
            ({"strategy": "fedadam"}, r"training\.strategies .*'fedadam'"),
            ({"tensors": ("head.a", "backbone.x.lora_a")}, r"training\.adapters .*lora_a"),
            ({"trust": "trusted-sum"}, r"training\.trust allows local; 'trusted-sum'"),
            ({"patients": 19}, r"minimum_cohort asks for 20 patients; the cohort has 19"),
            ({"epsilon": 8.5}, r"maximum_epsilon of the site policy is 8; 8\.5"),
            ({"delta": 0.02}, r"maximum_delta of the site policy is 0\.01; 0\.02"),
            ({"epsilon": float("nan")}, "maximum_epsilon"),
        ],
    )
    def test_what_breaks_a_rule_is_refused(self, policy, change, sentence):
        """The sentence names the key, what it allows, and what came."""
        limited = policy.model_copy(update={"hospital": "north"})
        with pytest.raises(PolicyError, match=sentence):
            limited.check(dataclasses.replace(FINE, **change))

    def test_a_proposal_says_what_a_config_would_do(self):
        """Epsilon counts in the private arm alone."""
        config = ExperimentConfig.model_validate(
            {"name": "tiny", "data": {"source": "x"}, "privacy": {"epsilon": 2, "delta": 1e-3}}
        )
        private = Proposal.of(config, "federated-private", hospital="north", patients=7)
        assert (private.epsilon, private.delta, private.patients) == (2, 1e-3, 7)
        plain = Proposal.of(config, "federated", hospital="north", patients=7, tensors=["a"])
        assert (plain.epsilon, plain.delta, plain.tensors) == (None, None, ("a",))

    def test_without_a_policy_everything_is_allowed(self):
        """Simulated hospitals have none."""
        open_policy().check(dataclasses.replace(FINE, arm="federated", patients=1, epsilon=900.0))


class TestLeaving:
    """What is not named does not leave."""

    def test_figures(self, policy):
        """Only those that the example names."""
        figures = {"patients": 4, "seconds": 2.5, "last_loss": 0.3, "epsilon": 1.0, "delta": 0.01}
        assert policy.allowed_figures(figures) == {"patients": 4, "epsilon": 1.0, "delta": 0.01}

    def test_tables(self, policy):
        """Refused as a whole, or with too little noise."""
        with pytest.raises(PolicyError, match="no table leave"):
            policy.check_table("north", 100.0)
        leaves = policy.leaves.model_copy(update={"tables": True, "tables_noise": 4.0})
        admits = policy.model_copy(update={"leaves": leaves})
        admits.check_table("north", 4.0)
        for noise in (3.9, float("nan")):
            with pytest.raises(PolicyError, match="at least 4 patients"):
                admits.check_table("north", noise)


class TestGrants:
    """Who may grant, and how much."""

    def test_only_those_who_are_named(self, policy):
        """The sentence says who they are."""
        (officer,) = policy.grants.by
        policy.check_grant("north", officer, 8.0, 1e-3)
        with pytest.raises(PolicyError, match=f"lets {officer} grant, not 'mallory'"):
            policy.check_grant("north", "mallory", 1.0, 1e-3)

    @pytest.mark.parametrize(("epsilon", "delta"), [(8.1, 1e-3), (1.0, 0.02)])
    def test_not_beyond_the_limits(self, policy, epsilon, delta):
        """Not even by the officer: the policy is changed first."""
        with pytest.raises(PolicyError, match="maximum_"):
            policy.check_grant("north", policy.grants.by[0], epsilon, delta)


class TestSite:
    """Where a hospital's rules and ledger lie."""

    def test_the_home(self, monkeypatch, tmp_path):
        """The variable, else the user's data folder."""
        monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "own"))
        assert evenhand_home() == tmp_path / "own"
        monkeypatch.delenv(HOME_VARIABLE)
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        assert evenhand_home() == tmp_path / "evenhand"

    def test_the_nearest_policy_counts(self, monkeypatch, tmp_path):
        """The hospital's own goes before the home's, and the variable before both."""
        site = Site.of("north", tmp_path)
        assert site.policy() == open_policy()
        (tmp_path / POLICY_FILE).write_text(EXAMPLE.read_text())
        assert site.policy() == load_policy(EXAMPLE)
        site.path.mkdir(parents=True)
        path = changed(tmp_path, "minimum_cohort = 20", "minimum_cohort = 33")
        (site.path / POLICY_FILE).write_text(path.read_text())
        assert site.policy().budget.minimum_cohort == 33
        path = changed(tmp_path, "minimum_cohort = 20", "minimum_cohort = 44")
        monkeypatch.setenv(POLICY_VARIABLE, str(path))
        assert site.policy().budget.minimum_cohort == 44

    def test_a_named_policy_that_is_missing_is_an_error(self, monkeypatch, tmp_path):
        """A wrong path must not mean that everything is allowed."""
        monkeypatch.setenv(POLICY_VARIABLE, str(tmp_path / "nowhere.toml"))
        with pytest.raises(PolicyError, match="which is not there"):
            Site.of("north", tmp_path).policy()

    def test_a_phantom_hospital_has_its_own_place(self, tmp_path):
        """The rules of real patients in the home are not those of phantoms."""
        (tmp_path / POLICY_FILE).write_text(EXAMPLE.read_text())
        site = Site(tmp_path / "hospitals" / "north", "north", synthetic=True)
        assert site.policy() == open_policy()
        assert site.ledger().state().synthetic

    def test_the_policy_limits_the_ledger(self, monkeypatch, tmp_path):
        """A ledger that is opened here knows the policy's maximum."""
        (tmp_path / POLICY_FILE).write_text(EXAMPLE.read_text())
        assert Site.of("north", tmp_path).ledger()._at_most == 8.0
