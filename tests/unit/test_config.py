"""Rules of evenhand.config: strict keys, named errors, frozen values."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from evenhand.config import ExperimentConfig
from evenhand.config_files import load_config
from evenhand.errors import ConfigError

PLAIN = """
name = "trial"
[data]
source = "somewhere"
[training]
epochs = 3
"""


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Return a config file that is valid."""
    path = tmp_path / "trial.toml"
    path.write_text(PLAIN, encoding="utf-8")
    return path


def test_values_come_from_the_file_then_from_overrides(plain: Path) -> None:
    """Overrides are TOML values, win over the file, and may open a section of their own."""
    config = load_config(
        plain,
        ["training.epochs=5", "privacy.epsilon=2.5", "name=other", "data.hospitals=['A', 'B']"],
    )
    assert (config.training.epochs, config.privacy.epsilon) == (5, 2.5)
    assert (config.name, config.data.hospitals) == ("other", ("A", "B"))
    assert load_config(plain).training.epochs == 3
    assert load_config(plain).federation == config.federation


def test_a_phantom_section_replaces_the_source(tmp_path: Path) -> None:
    """[data.phantom] alone is a complete source of cases."""
    path = tmp_path / "phantom.toml"
    path.write_text('name = "p"\n[data.phantom.patients]\nnorth = 4\n', encoding="utf-8")
    phantom = load_config(path).data.phantom
    assert phantom is not None
    assert phantom.patients == {"north": 4}


def test_corrections_never_go_into_a_hospitals_own_stores(plain: Path) -> None:
    """A run only links to `data.stores`: it must not overwrite the reference masks in them."""
    plain.write_text('name = "t"\n[data.stores]\nnorth = "stores/north"\n', encoding="utf-8")
    assert load_config(plain).data.stores
    with pytest.raises(ConfigError, match=r"evenhand review feedback RUN --out DIR --store STORE"):
        load_config(plain, ["data.corrections=reviewed"])


@pytest.mark.parametrize(
    ("old", "new"),
    [("warm_start_phantoms", "warm_start.phantoms"), ("warm_start_epochs", "warm_start.epochs")],
)
def test_a_key_that_has_moved_is_shown_its_place(plain: Path, old: str, new: str) -> None:
    """A config of before says what its key is called by now; the way that is named works."""
    section, key = new.split(".")
    with pytest.raises(ConfigError, match=rf"privacy\.{old}', which is '{key}' in \[{section}\]"):
        load_config(plain, [f"privacy.{old}=4"])
    assert getattr(load_config(plain, [f"{new}=4"]).warm_start, key) == 4


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("trainning.epochs=1", "unknown key 'trainning'; did you mean 'training'?"),
        ("training.epoch=1", "unknown key 'training.epoch'; did you mean 'training.epochs'?"),
        ("data.phantom.bias=1", "unknown key 'data.phantom.bias'; did you mean"),
        ("zzz=1", "unknown key 'zzz'; known: name, seed"),
        ("training.epochs=0", "training.epochs: Input should be greater than or equal to 1"),
        ("training.epochs=many", "training.epochs: Input should be a valid integer"),
        ("privacy.epsilon=inf", "privacy.epsilon: Input should be a finite number"),
        ("privacy.epsilon=-1", "privacy.epsilon: Input should be greater than 0"),
        ("arms=['federate']", "arms.0: Input should be 'box-zero-shot'"),
        ("arms=['pooled', 'pooled']", "arms must name at least one arm, and none twice"),
        ("arms=[]", "arms must name at least one arm"),
        ("name=Has Spaces", "name: String should match pattern"),
        ("data.sequences=[]", "data.sequences: Tuple should have at least 1 item"),
        ("data.phantom={}", "data: give exactly one of data.source"),
        ("audit.age_edges=[60, 40]", "audit: age_edges must rise"),
        ("model.image_size=500", "model.image_size: Input should be a multiple of 64"),
        ("training.epochs.more=1", "'epochs' is a value, not a section"),
        ("training", "--set wants key=value"),
        ("=1", "--set wants key=value"),
    ],
)
def test_a_wrong_key_or_value_is_named(plain: Path, override: str, wanted: str) -> None:
    """Each mistake is one sentence with the full key; an unknown key names the nearest."""
    with pytest.raises(ConfigError) as caught:
        load_config(plain, [override])
    assert wanted in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_hospital_cannot_take_part_and_be_left_out(plain: Path) -> None:
    """A contradiction is refused instead of being settled silently."""
    with pytest.raises(ConfigError, match="A is both in hospitals and in left_out"):
        load_config(plain, ["data.hospitals=['A']", "data.left_out={A = 'one patient'}"])


def test_a_missing_name_is_asked_for(tmp_path: Path) -> None:
    """What has no default must be given."""
    path = tmp_path / "nameless.toml"
    path.write_text('[data]\nsource = "x"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="name: Field required"):
        load_config(path)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [(b"name = ", "is not valid TOML"), (b"\xff\xfe", "is not valid TOML")],
)
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes, wanted: str) -> None:
    """A broken file is one sentence."""
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=wanted):
        load_config(path)


def test_no_file_and_a_folder_are_named(tmp_path: Path) -> None:
    """A wrong path is one sentence, whatever is wrong with it."""
    with pytest.raises(ConfigError, match="There is no config file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_a_config_is_frozen(plain: Path) -> None:
    """Nothing changes what an experiment asked for while it runs."""
    config = load_config(plain)
    with pytest.raises(ValidationError):
        config.seed = 1  # type: ignore[misc]


def test_fingerprint_follows_the_named_sections_only(plain: Path) -> None:
    """Work is redone when what it depends on has changed, and only then."""
    one, two = load_config(plain), load_config(plain, ["training.epochs=9"])
    assert one.fingerprint() != two.fingerprint()
    assert one.fingerprint("data", "model") == two.fingerprint("data", "model")
    assert one.fingerprint("training") != two.fingerprint("training")


def test_a_config_survives_json(plain: Path) -> None:
    """config.json of a run gives back the same config."""
    config = load_config(plain)
    assert ExperimentConfig.model_validate_json(config.model_dump_json()) == config
