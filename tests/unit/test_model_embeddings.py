"""The embedding cache: computed once, named by what it depends on, whole or absent."""

import os
from types import MappingProxyType

import numpy as np
import pytest
import torch
from small_models import IMAGE_SIZE, small_backbone, small_model

from evenhand.errors import DataError, ResourceError
from evenhand.model import embeddings
from evenhand.model.embeddings import EmbeddingCache
from evenhand.model.preprocessing import Letterbox, display_range


@pytest.fixture(scope="module")
def backbone():
    """Random weights. Read only."""
    return small_backbone()


@pytest.fixture
def cache(backbone, tmp_path):
    """An empty cache of final embeddings."""
    return EmbeddingCache(
        tmp_path / "embeddings",
        backbone,
        tail_blocks=0,
        sequence="FLAIR",
        precision=torch.float32,
    )


@pytest.fixture
def case(tiny_store):
    """A case of six slices."""
    return tiny_store.case(tiny_store.case_ids()[0])


def fill(cache, store, cases):
    """Fill and return what `advance` was told."""
    told = []
    cache.fill(store, cases, told.append)
    return told


def files(cache):
    """What lies in the folder."""
    return sorted(path.name for path in cache.folder.iterdir()) if cache.folder.exists() else []


@torch.inference_mode()
def test_it_holds_what_the_encoder_says_of_each_slice(cache, tiny_store, case, backbone):
    """Slice by slice: z-1, z, z+1 as channels, letterboxed, normalised, encoded; fp16."""
    assert fill(cache, tiny_store, [case]) == [6]
    held = cache.read(case)
    assert held.shape == (6, 256, backbone.grid, backbone.grid)
    assert held.dtype == np.float16
    slices = display_range(tiny_store.volumes(case).images["FLAIR"])
    box = Letterbox(32, 32, IMAGE_SIZE)
    for z in (0, 3, 5):
        channels = torch.stack([slices[max(z - 1, 0)], slices[z], slices[min(z + 1, 5)]])
        pixels = backbone.normalise(box.apply(channels[None]))
        wanted = backbone.encoder.prefix(pixels, 0)[0]
        torch.testing.assert_close(torch.tensor(held[z]).float(), wanted, atol=5e-3, rtol=5e-3)


@torch.inference_mode()
def test_adapted_blocks_are_not_cached(tiny_store, case, tmp_path):
    """With LoRA in the last block the cache ends before it; the rest gives the embedding."""
    model = small_model()
    tail = EmbeddingCache.of_model(tmp_path / "tail", model, "FLAIR")
    bare = EmbeddingCache.of_model(tmp_path / "bare", small_model(encoder_lora_rank=0), "FLAIR")
    for cache in (tail, bare):
        fill(cache, tiny_store, [case])
    assert (tail.tail_blocks, bare.tail_blocks) == (1, 0)
    rest = model.embed_rest(torch.tensor(tail.read(case)).float())
    torch.testing.assert_close(rest, torch.tensor(bare.read(case)).float(), atol=1e-2, rtol=1e-2)


def test_a_second_filling_computes_nothing(cache, tiny_store, monkeypatch):
    """What is there is kept; only missing cases are computed."""
    cases = list(tiny_store)
    assert fill(cache, tiny_store, cases[:2]) == [6, 6]
    assert cache.missing(cases) == cases[2:]
    before = {name: (cache.folder / name).stat().st_mtime_ns for name in files(cache)}
    assert fill(cache, tiny_store, cases) == [6]
    monkeypatch.setattr(cache.backbone.image_encoder, "prefix", lambda *_: pytest.fail("computed"))
    assert fill(cache, tiny_store, cases) == []
    assert cache.missing(cases) == []
    assert all((cache.folder / name).stat().st_mtime_ns == when for name, when in before.items())


def test_the_name_follows_everything_that_the_content_depends_on(cache, case, backbone):
    """Other weights, size, cut, arithmetic, preprocessing or pixels: another file."""

    def variant(**changes):
        own = EmbeddingCache(
            cache.folder, small_backbone(), tail_blocks=0, sequence="FLAIR", precision=torch.float32
        )
        for key, value in changes.items():
            setattr(own.backbone if hasattr(own.backbone, key) else own, key, value)
        return own.path(case)

    own = cache.path(case)
    assert variant() == own
    others = {
        variant(weights_sha256="1" * 64),
        variant(image_size=192),
        variant(tail_blocks=1),
        variant(precision=torch.bfloat16),
    }
    repainted = MappingProxyType({"FLAIR": "f" * 64})
    others.add(cache.path(_replace(case, sequences=repainted)))
    assert len(others | {own}) == 6


def _replace(case, **changes):
    from dataclasses import replace

    return replace(case, **changes)


def test_a_new_preprocessing_makes_new_files(cache, case, monkeypatch):
    """Older files are then not used."""
    own = cache.path(case)
    monkeypatch.setattr(embeddings, "PREPROCESSING_VERSION", embeddings.PREPROCESSING_VERSION + 1)
    assert cache.path(case) != own


def test_equal_pixels_share_a_file(cache, case):
    """The name says nothing about who the patient is."""
    other = _replace(case, case_id="another")
    assert cache.path(other) == cache.path(case)
    assert case.case_id not in cache.path(case).name
    assert case.patient.patient_id not in cache.path(case).name


def test_a_full_disk_leaves_nothing_half_written(cache, tiny_store, monkeypatch):
    """Finished cases stay, the broken one leaves no file and no draft; filling goes on later."""
    cases = list(tiny_store)
    fill(cache, tiny_store, cases[:1])
    kept = files(cache)

    def full(file, _):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(embeddings.np, "save", full)
        with pytest.raises(ResourceError, match="No space left on device"):
            fill(cache, tiny_store, cases)
    assert files(cache) == kept
    assert fill(cache, tiny_store, cases) == [6, 6]


def test_a_crash_while_writing_leaves_nothing_half_written(cache, tiny_store, monkeypatch):
    """Ctrl-C in the middle of a file: the next run computes it again."""

    def interrupted(file, _):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(embeddings.np, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(cache, tiny_store, tiny_store)
    assert files(cache) == []


def test_a_folder_that_cannot_be_made_is_named(cache, tiny_store):
    """A sentence, not a traceback."""
    cache.folder.write_text("in the way")
    with pytest.raises(ResourceError, match="embedding cache"):
        fill(cache, tiny_store, tiny_store)


def test_only_the_owner_reads_the_folder(cache, tiny_store, case):
    """Cached activations are patient data."""
    fill(cache, tiny_store, [case])
    assert cache.folder.stat().st_mode & 0o777 == 0o700


def test_a_missing_file_says_what_to_do(cache, case):
    """Reading before filling is an error in words, without the patient's name."""
    with pytest.raises(ResourceError, match="run the same command again") as caught:
        cache.read(case)
    assert case.case_id not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5])
def test_a_damaged_file_says_what_to_do(cache, tiny_store, case, share):
    """A file cut off by a dying disk is named, so that it can be deleted."""
    fill(cache, tiny_store, [case])
    path = cache.path(case)
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(ResourceError, match=path.name):
        cache.read(case)


def test_a_case_without_the_sequence_says_which_it_has(cache, tiny_store, case):
    """The key in the config is named."""
    cache.sequence = "T2w"
    with pytest.raises(DataError, match=r"no sequence 'T2w' .*FLAIR.*data\.sequences"):
        fill(cache, tiny_store, [case])


@torch.inference_mode()
def test_bfloat16_is_close_and_leaves_the_backbone_as_it_was(tiny_store, case, tmp_path):
    """Casting works on a copy: the weights that decode later are not rounded."""
    backbone = small_backbone()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    held = {}
    for precision in (torch.float32, torch.bfloat16):
        cache = EmbeddingCache(
            tmp_path, backbone, tail_blocks=0, sequence="FLAIR", precision=precision
        )
        fill(cache, tiny_store, [case])
        held[precision] = torch.tensor(cache.read(case)).float()
    after = backbone.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    difference = (held[torch.float32] - held[torch.bfloat16]).abs().mean()
    assert 0 < difference < 0.05 * held[torch.float32].abs().mean()
