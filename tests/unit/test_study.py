"""A study is agreed on by its bytes: whoever changes one of them has another study, or none."""

import hashlib

import pytest
from typer.testing import CliRunner

from evenhand.cli import app
from evenhand.config import ExperimentConfig
from evenhand.errors import ConfigError, FederationError
from evenhand.model.weights import find
from evenhand.privacy.keys import HospitalKey
from evenhand_federated.coordinator import CoordinatorFolder
from evenhand_federated.study import (
    CoordinatorIdentity,
    StudyTerms,
    read_draft,
    read_study,
    sign_study,
    write_draft,
)

CONFIG = """
name = "walk"

[data]
source = "nowhere"
sequences = ["T1w"]

[federation]
rounds = 3
minimum_hospitals = 2

[privacy]
rounds = 5
"""
HOSPITALS = ("north", "south", "west")
KEYS = {name: f"ecdsa-sha2-nistp384 {name.upper()}" for name in HOSPITALS}


@pytest.fixture
def key(tmp_path):
    """The coordinator's key."""
    return HospitalKey.open(tmp_path / "coordinator")


def make_terms(key, **changes):
    """Terms of a small study; `changes` are arguments of `StudyTerms.of`."""
    config = ExperimentConfig.model_validate(
        {"name": "walk", "data": {"source": "nowhere"}, "federation": {"rounds": 3}}
    )
    given = {
        "arm": "federated",
        "hospitals": HOSPITALS,
        "coordinator": CoordinatorIdentity(name="Centre", public_key=key.public),
        "weights_sha256": "ab" * 32,
    }
    return StudyTerms.of(config, **(given | changes))


@pytest.fixture
def signed(tmp_path, key):
    """The path of a signed study."""
    path = tmp_path / "study.toml"
    write_draft(path, make_terms(key))
    sign_study(path, key)
    return path


class TestSigning:
    """What is signed cannot be changed."""

    def test_terms_come_back(self, signed, key):
        """Nothing is lost on the way through the file."""
        assert read_study(signed).terms == make_terms(key)

    def test_hash_is_that_of_the_signed_bytes(self, signed):
        """Anybody can compute a study's hash with a tool of their own."""
        body = signed.read_bytes().partition(b"\n[signature]\n")[0]
        assert read_study(signed).digest == hashlib.sha256(body).hexdigest()

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b"rounds = 3", b"rounds = 4"),
            (b'arm = "federated"', b'arm = "federated-private"'),
            (b'"south"', b'"saute"'),
            (b"abab", b"abac"),
            (b"\n", b"\r\n"),
            (b"rounds = 3", b"rounds = 3 "),
        ],
    )
    def test_an_altered_study_is_refused(self, signed, old, new):
        """Not one byte may differ, wherever it stands."""
        content = signed.read_bytes()
        assert old in content
        signed.write_bytes(content.replace(old, new, 1))
        with pytest.raises(FederationError, match=r"altered after it was signed|is not signed"):
            read_study(signed)

    def test_a_draft_is_not_a_study(self, tmp_path, key):
        """Nobody runs what nobody has signed."""
        write_draft(tmp_path / "draft.toml", make_terms(key))
        with pytest.raises(FederationError, match="is not signed"):
            read_study(tmp_path / "draft.toml")

    def test_another_key_cannot_sign_it(self, tmp_path, key):
        """A study names its coordinator, and only that one signs it."""
        write_draft(tmp_path / "draft.toml", make_terms(key))
        other = HospitalKey.open(tmp_path / "other")
        with pytest.raises(FederationError, match="the key here is"):
            sign_study(tmp_path / "draft.toml", other)

    def test_a_right_signature_by_another_key_is_refused(self, signed, tmp_path):
        """Signing an altered study oneself does not help: the key has to be the named one."""
        other = HospitalKey.open(tmp_path / "other")
        body = signed.read_bytes().partition(b"\n[signature]\n")[0]
        value = other.sign(b"evenhand study " + hashlib.sha256(body).hexdigest().encode())
        table = f'\n[signature]\nkey = "{other.public}"\nvalue = "{value}"\n'
        signed.write_bytes(body + table.encode())
        with pytest.raises(FederationError, match="somebody else"):
            read_study(signed)

    def test_signing_twice_is_refused(self, signed, key):
        """A signed study is not changed in its place."""
        with pytest.raises(FederationError, match="signed already"):
            sign_study(signed, key)


class TestTerms:
    """What can be agreed on."""

    def test_unknown_key_names_the_nearest(self, signed):
        """A misspelt term is no term."""
        signed.write_text(signed.read_text().replace("minimum_hospitals", "minimun_hospitals"))
        with pytest.raises(ConfigError, match=r"did you mean 'federation\.minimum_hospitals'"):
            read_draft(signed)

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"hospitals": ("north", "north")}, "names one twice"),
            ({"hospitals": ("north",)}, "minimum_hospitals is 2"),
            ({"hospitals": ("../north", "south")}, "hospitals"),
            ({"arm": "pooled"}, "arm"),
        ],
    )
    def test_what_cannot_be(self, key, changes, reason):
        """A study that could never run is not written."""
        with pytest.raises(ConfigError, match=reason):
            make_terms(key, **changes)

    def test_becomes_an_experiment(self, key):
        """What hospitals train by is what was agreed on, and it names nobody's data."""
        terms = make_terms(key)
        config = terms.config()
        assert (config.federation, config.model, config.seed) == (
            terms.federation,
            terms.model,
            terms.seed,
        )
        assert config.arms == ("federated",)
        assert terms.rounds == 3

    def test_one_noise_wants_the_number_of_patients(self, key):
        """Noise that hospitals share is sized by all patients: agreed on, or no study."""
        raw = {
            "name": "walk",
            "data": {"source": "nowhere"},
            "privacy": {"trust": "secure-sum", "steps_per_round": 1, "delta": 1e-3},
        }
        config = ExperimentConfig.model_validate(raw)
        given = {
            "arm": "federated-private",
            "hospitals": HOSPITALS,
            "coordinator": CoordinatorIdentity(name="Centre", public_key=key.public),
            "weights_sha256": "ab" * 32,
        }
        with pytest.raises(ConfigError, match="wants patients"):
            StudyTerms.of(config, **given)
        nobody = raw | {"privacy": raw["privacy"] | {"tolerated": 0}}
        with pytest.raises(ConfigError, match="of 1 or"):
            StudyTerms.of(ExperimentConfig.model_validate(nobody), **given, patients=48)
        with pytest.raises(ConfigError, match=r"wants keys.*evenhand federation admit"):
            StudyTerms.of(config, **given, patients=48)
        given["keys"] = KEYS
        terms = StudyTerms.of(config, **given, patients=48)
        assert terms.is_hidden
        assert (terms.together.patients, terms.together.carrier) == (48, "secure-aggregation")
        clear = StudyTerms.of(config, **(given | {"arm": "federated"}), patients=48)
        assert not clear.is_hidden
        assert clear.together is None

    @pytest.mark.parametrize("keys", [{}, {"north": KEYS["north"]}, KEYS | {"other": "x"}])
    def test_a_hidden_sum_wants_everybodys_key(self, tmp_path, key, keys):
        """Without it a coordinator could make hospitals up; the sentence says what to do first.

        A signed study of before, which has none, is refused as well.
        """
        config = {"rounds": 3, "secure_sum": True}
        hidden = ExperimentConfig.model_validate(
            {"name": "walk", "data": {"source": "nowhere"}, "federation": config}
        )
        given = {
            "arm": "federated",
            "hospitals": HOSPITALS,
            "coordinator": CoordinatorIdentity(name="Centre", public_key=key.public),
            "weights_sha256": "ab" * 32,
        }
        if "other" in keys:  # of somebody who takes no part
            assert StudyTerms.of(hidden, **given, keys=keys).keys == KEYS
            return
        with pytest.raises(ConfigError, match=r"wants keys.*evenhand federation admit"):
            StudyTerms.of(hidden, **given, keys=keys)
        write_draft(tmp_path / "old.toml", StudyTerms.of(hidden, **given, keys=KEYS))
        text = (tmp_path / "old.toml").read_text()
        (tmp_path / "old.toml").write_text(text.replace("[keys]", "[purpose_of_keys]"))
        with pytest.raises(ConfigError):
            sign_study(tmp_path / "old.toml", key)

    def test_one_key_under_two_names(self, key):
        """Who answers under two names would be two of the fewest that a sum may have."""
        twice = KEYS | {"south": KEYS["north"]}
        with pytest.raises(ConfigError, match="one key of its own for each hospital"):
            make_terms(key, keys=twice)

    def test_another_version_is_refused(self, signed, key, monkeypatch):
        """Two versions may train differently: all sides run the one that was agreed on."""
        study = read_study(signed)
        study.check_version()
        monkeypatch.setattr("evenhand_federated.study.__version__", "9.9")
        with pytest.raises(FederationError, match=r"this is 9\.9"):
            study.check_version()


class TestCommands:
    """As a coordinator types them."""

    def test_the_way_from_config_to_signature(self, tmp_path, monkeypatch):
        """Draft, signature, and a page that a person can read."""
        monkeypatch.setenv("EVENHAND_HOME", str(tmp_path / "home"))
        CoordinatorFolder.make(
            tmp_path / "home" / "coordinator",
            name="Centre",
            host="localhost",
            listen="127.0.0.1",
            port=9400,
        )
        (tmp_path / "my.toml").write_text(CONFIG)
        draft = str(tmp_path / "study.toml")
        names = [part for name in HOSPITALS for part in ("--hospital", name)]
        run = CliRunner().invoke
        made = run(app, ["study", "create", str(tmp_path / "my.toml"), *names, "--out", draft])
        assert made.exit_code == 0, made.output
        signed = run(app, ["study", "sign", draft])
        assert signed.exit_code == 0, signed.output
        shown = run(app, ["study", "show", draft]).output
        digest = read_study(tmp_path / "study.toml").digest
        assert digest in signed.output
        assert digest in shown
        assert "epsilon 8 for each patient" in shown
        terms = read_study(tmp_path / "study.toml").terms
        assert terms.rounds == 5
        assert terms.sequence == "T1w"
        assert terms.weights_sha256 == find("mobile-sam").sha256

    def test_an_unsigned_study_is_shown_and_refused(self, tmp_path, key):
        """One may read a draft; the exit status says that it is none yet."""
        write_draft(tmp_path / "draft.toml", make_terms(key))
        shown = CliRunner().invoke(app, ["study", "show", str(tmp_path / "draft.toml")])
        assert "north, south, west" in shown.output
        assert isinstance(shown.exception, FederationError)
