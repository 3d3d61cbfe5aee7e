"""Adapter files: exact, whole, and only for what they were trained on."""

import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import CONFIG, HEAD_SIZE, small_backbone, small_model, wake_lora

from evenhand.errors import AdapterError, ResourceError
from evenhand.model import adapter_files
from evenhand.model.adapted import AdaptedModel
from evenhand.model.adapter_files import load_onto, read_adapter, save_adapter, state_sha256
from evenhand.model.backbones import Backbone

RECORD = {"arm": "federated-private", "epsilon": 7.93, "hospitals": ["north", "south"]}


@pytest.fixture(scope="module")
def model():
    """A model whose adapter is not the fresh one. Read only."""
    own = small_model(seed=3)
    wake_lora(own)
    return own


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """Its adapter file. Read only."""
    path = tmp_path_factory.mktemp("adapters") / "new" / "adapter.safetensors"
    save_adapter(path, model, config_fingerprint="abcdef0123456789", training=RECORD)
    return path


def test_everything_comes_back(saved, model):
    """Tensors bit for bit, the [model] section, the record of the training."""
    adapter = read_adapter(saved)
    wanted = model.adapter_state()
    assert adapter.state.keys() == wanted.keys()
    assert all(torch.equal(adapter.state[name], value) for name, value in wanted.items())
    assert adapter.model == CONFIG
    assert adapter.training == RECORD
    assert adapter.config_fingerprint == "abcdef0123456789"
    assert (adapter.backbone, adapter.backbone_sha256) == ("mobile-sam", "0" * 64)


def test_a_reloaded_adapter_predicts_bit_for_bit(saved, model):
    """Another process with another start gives the same masks after loading."""
    # Made outside inference mode as `model` was: torch chooses kernels by that, too.
    other = small_model(seed=77)
    generator = torch.Generator().manual_seed(0)
    slices = torch.rand(2, 3, HEAD_SIZE, HEAD_SIZE, generator=generator)
    hidden = torch.randn(2, 320, 8, 8, generator=generator)
    boxes = torch.tensor([[10.0, 20.0, 60.0, 80.0], [5.0, 6.0, 70.0, 90.0]])
    with torch.inference_mode():
        assert not torch.equal(other.propose(slices, hidden), model.propose(slices, hidden))
        assert load_onto(saved, other).training == RECORD
        assert torch.equal(other.propose(slices, hidden), model.propose(slices, hidden))
        assert torch.equal(other.answer_boxes(hidden, boxes), model.answer_boxes(hidden, boxes))


def test_the_file_is_written_whole_or_not_at_all(model, tmp_path, monkeypatch):
    """A full disk leaves the older file as it was and no draft beside it."""
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(b"the older one")

    def full(_, name, metadata):
        name.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adapter_files, "save_file", full)
    with pytest.raises(ResourceError, match="No space left"):
        save_adapter(path, model, config_fingerprint="", training={})
    assert path.read_bytes() == b"the older one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(model, tmp_path):
    """The folder cannot be made: a sentence, not a traceback."""
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"adapter\.safetensors"):
        save_adapter(
            tmp_path / "file" / "adapter.safetensors", model, config_fingerprint="", training={}
        )


class TestDamage:
    """A file that is not what was saved is refused."""

    def test_every_changed_byte_is_refused(self, saved, tmp_path):
        """In tensors, names or the record (an epsilon, say): nothing is changed in silence."""
        content = saved.read_bytes()
        header = content.index(b"}}") + 2
        positions = [*range(0, header, 97), *range(header, len(content), len(content) // 40)]
        path = tmp_path / "adapter.safetensors"
        for position in [*positions, len(content) - 1]:
            changed = bytearray(content)
            changed[position] ^= 1
            path.write_bytes(changed)
            with pytest.raises(AdapterError, match=r"adapter\.safetensors"):
                read_adapter(path)

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(share=st.floats(0, 0.9999))
    def test_a_cut_off_file_is_refused(self, saved, tmp_path, share):
        """A broken copy is recognised wherever it ends."""
        path = tmp_path / "cut.safetensors"
        content = saved.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(AdapterError, match=r"cut\.safetensors"):
            read_adapter(path)

    def test_a_better_epsilon_cannot_be_written_in(self, saved, tmp_path):
        """The record that a report quotes is part of what is checked."""
        path = tmp_path / "adapter.safetensors"
        content = saved.read_bytes()
        assert content.count(b"7.93") == 1
        path.write_bytes(content.replace(b"7.93", b"0.93"))
        with pytest.raises(AdapterError, match="changed after it was saved"):
            read_adapter(path)

    def test_a_missing_file_is_named(self, tmp_path):
        """The sentence says which."""
        with pytest.raises(AdapterError, match=r"no adapter file .*none\.safetensors"):
            read_adapter(tmp_path / "none.safetensors")

    @pytest.mark.parametrize(
        "metadata", [None, {"format": "other"}, {"format": adapter_files.FORMAT}]
    )
    def test_other_safetensors_files_are_refused(self, saved, tmp_path, metadata):
        """Tensors alone are no adapter: what they fit is not known."""
        path = tmp_path / "adapter.safetensors"
        save_file(load_file(saved), path, metadata=metadata)
        with pytest.raises(AdapterError, match=r"not an adapter|was changed"):
            read_adapter(path)

    def test_a_model_section_of_another_version_is_refused(self, saved, tmp_path, monkeypatch):
        """Keys that are not known any more get a sentence."""
        monkeypatch.setattr(adapter_files, "_checksum", lambda *_: "same")
        path = tmp_path / "adapter.safetensors"
        metadata = {"format": adapter_files.FORMAT, "model": '{"rank": 3}', "sha256": "same"}
        save_file(load_file(saved), path, metadata=metadata)
        with pytest.raises(AdapterError, match=r"\[model\] section"):
            read_adapter(path)


def test_a_file_of_format_2_is_read(saved, model, tmp_path, monkeypatch):
    """It does not say what it looks at: one sequence, whatever its name here."""
    with safe_open(saved, framework="pt") as file:
        metadata = dict(file.metadata())
    metadata |= {"format": "evenhand-adapter-2"}
    del metadata["sequences"]
    monkeypatch.setattr(adapter_files, "_checksum", lambda *_: metadata["sha256"])
    path = tmp_path / "old.safetensors"
    save_file(load_file(saved), path, metadata=metadata)
    assert read_adapter(path).sequences == ()
    load_onto(path, model)


class TestFit:
    """An adapter goes onto what it was trained on, and onto nothing else."""

    def test_another_backbone_is_refused(self, saved):
        """Equal shapes are not enough: the hash of the weights decides."""
        foreign = small_backbone()
        foreign.weights_sha256 = "1" * 64
        model = AdaptedModel(foreign, CONFIG, seed=0)
        before = model.adapter_state()
        with pytest.raises(AdapterError, match=r"trained on mobile-sam .*Set model\.backbone"):
            load_onto(saved, model)
        after = model.adapter_state()
        assert all(torch.equal(after[name], before[name]) for name in before)

    @pytest.mark.parametrize(
        ("key", "value"),
        [("decoder_lora_rank", 3), ("encoder_lora_rank", 0), ("head", "base"), ("head_size", 96)],
    )
    def test_another_model_section_is_refused(self, saved, key, value):
        """Also where shapes fit: a head is trained for one resolution."""
        model = small_model(**{key: value})
        with pytest.raises(AdapterError, match=rf"model\.{key} "):
            load_onto(saved, model)

    def test_another_image_size_is_refused(self, saved):
        """Nothing in the tensors' shapes would tell."""
        config = CONFIG.model_copy(update={"image_size": 192})
        model = AdaptedModel(Backbone("mobile-sam", 192, "0" * 64), config, seed=0)
        with pytest.raises(AdapterError, match=r"model\.image_size 128; here it is 192"):
            load_onto(saved, model)

    def test_another_precision_is_not_another_adapter(self, saved):
        """Trained on one machine, used on another."""
        load_onto(saved, small_model(precision="bfloat16"))


def test_the_state_hash_knows_names_shapes_types_and_values():
    """Equal only where all of it is equal; order does not count."""
    one, two = torch.arange(4.0), torch.ones(2)
    base = state_sha256({"a": one, "b": two})
    assert base == state_sha256({"b": two, "a": one.clone()})
    others = (
        {"a": one, "c": two},
        {"a": one.view(2, 2), "b": two},
        {"a": one.to(torch.float64), "b": two},
        {"a": one + 1e-6, "b": two},
        {"a": one},
    )
    assert base not in {state_sha256(other) for other in others}


def test_saving_twice_replaces(model, tmp_path):
    """The later adapter stands, alone."""
    path = tmp_path / "adapter.safetensors"
    for arm in ("first", "second"):
        save_adapter(path, model, config_fingerprint="", training={"arm": arm})
    assert read_adapter(path).training == {"arm": "second"}
    assert list(tmp_path.iterdir()) == [path]
    shutil.rmtree(tmp_path)
