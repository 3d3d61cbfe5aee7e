"""What a hospital's site policy says of a study, before any round of it."""

import tomllib
from pathlib import Path

import pytest
import tomli_w

from evenhand.errors import PolicyError
from evenhand_federated import hospital
from federation_fakes import state_of
from federation_places import make_coordinator, make_hospital, make_study

EXAMPLE = Path(__file__).resolve().parents[2] / "configs" / "site-policy.toml"


class TinyModel:
    """Two tensors, and no weights."""

    def adapter_state(self):
        """All of it."""
        return state_of(1)

    def choose_trainable(self, patterns):
        """All of it."""
        return state_of(1)


@pytest.mark.parametrize(
    ("local_parts", "refused"), [((), True), (("head.b",), False), (("head.a",), True)]
)
def test_what_may_never_leave_is_held_back_from_the_start(
    tmp_path, tiny_stores, monkeypatch, local_parts, refused
):
    """A study that would send what `leaves.never` names cannot be approved."""
    centre = make_coordinator(tmp_path / "centre")
    north = make_hospital(tmp_path / "north", centre, tiny_stores["north"].path)
    rules = tomllib.loads(EXAMPLE.read_text())
    rules["leaves"]["never"] = ["head.b"]
    rules["training"] |= {"arms": ["federated"], "heads": ["none", "small", "base"]}
    rules["budget"]["minimum_cohort"] = 1
    policy = tmp_path / "policy.toml"
    policy.write_text(tomli_w.dumps(rules))
    monkeypatch.setenv("EVENHAND_SITE_POLICY", str(policy))
    monkeypatch.setattr(hospital, "_model_of", lambda _: TinyModel())
    federation = {"rounds": 3, "local_parts": list(local_parts)}
    study = make_study(centre, tmp_path / "study.toml", arms=["federated"], federation=federation)
    if refused:
        with pytest.raises(PolicyError, match=r"leaves\.never"):
            north.approve(study, study.digest)
    else:
        north.approve(study, study.digest)
    assert north.approved_digests() == ([] if refused else [study.digest])
