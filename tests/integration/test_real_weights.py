"""The real MobileSAM: it loads strictly, and it segments."""

import shutil

import numpy as np
import pytest
import torch

from evenhand.cases.records import Patient
from evenhand.cases.store import CaseStore
from evenhand.config import ModelConfig
from evenhand.errors import WeightsError
from evenhand.geometry import Affine
from evenhand.model import weights
from evenhand.model.adapted import AdaptedModel
from evenhand.model.backbones import load_backbone
from evenhand.model.embeddings import EmbeddingCache
from evenhand.predict import OpenCase, boxes_from_reference, predict_boxes

pytestmark = pytest.mark.weights

SHAPE = (200, 160, 1)
"""One slice that is not square: the letterbox is part of what is tried."""


@pytest.fixture(scope="module")
def checkpoint():
    """The published file."""
    try:
        return weights.fetch("mobile-sam")
    except WeightsError as error:
        unreachable = ("no connection", "no answer within", "the proxy did not", "not trusted here")
        tried = [line for line in str(error).splitlines() if line.startswith("  ")]
        if all(any(clause in line for clause in unreachable) for line in tried):
            pytest.skip(f"this machine reaches no source of MobileSAM: {error}")
        raise


@pytest.fixture(scope="module")
def model(checkpoint):
    """MobileSAM at 512 px with an untrained adapter, which changes nothing."""
    config = ModelConfig(image_size=512, head="none", precision="float32")
    backbone = load_backbone("mobile-sam", config.image_size, weights=checkpoint)
    return AdaptedModel(backbone, config, seed=0)


@pytest.fixture(scope="module")
def reference():
    """A tilted ellipse, off the centre."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
    u = (x - 95) * np.cos(0.5) + (y - 80) * np.sin(0.5)
    v = (y - 80) * np.cos(0.5) - (x - 95) * np.sin(0.5)
    return ((u / 38) ** 2 + (v / 22) ** 2 <= 1)[:, :, None].astype(np.uint8)


@pytest.fixture(scope="module")
def masks(model, reference, tmp_path_factory):
    """What the model answers to the ellipse's box, by the precision of the embedding."""
    folder = tmp_path_factory.mktemp("real")
    noise = np.random.default_rng(0).normal(0, 4, SHAPE)
    image = (40 + 120 * reference + noise).astype(np.float32)
    store = CaseStore.create(folder / "store", "north")
    case = store.add(
        case_id="c1",
        patient=Patient(patient_id="p1", hospital="north"),
        affine=Affine(np.eye(4)),
        images={"FLAIR": image},
        mask=reference,
        source="made for this test",
    )
    boxes = boxes_from_reference(reference, jitter=2, seed=1)
    answers = {}
    for precision in (torch.float32, torch.bfloat16):
        cache = EmbeddingCache(
            folder / "embeddings",
            model.backbone,
            tail_blocks=0,
            sequence="FLAIR",
            precision=precision,
        )
        cache.fill(store, [case], lambda _: None)
        answers[precision] = predict_boxes(
            model, OpenCase.of(model, store, cache, case), boxes
        ).mask
    return answers


def dice(a, b):
    """Overlap of two masks."""
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_the_checkpoint_loads_strictly(model, checkpoint):
    """Every tensor of prompt encoder, decoder and neck is the file's own, and all are frozen."""
    state = weights.load_state_dict(checkpoint)
    own = model.backbone.state_dict()
    kept = ("prompt_encoder.", "image_encoder.neck.", "mask_decoder.output_upscaling.")
    compared = [key for key in state if key.startswith(kept)]
    assert len(compared) > 20
    for key in compared:
        assert torch.equal(own[key], state[key]), key
    assert model.backbone.weights_sha256 == weights.find("mobile-sam").sha256
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == set(model.adapter())


def test_a_bright_ellipse_is_segmented_from_its_box(masks, reference):
    """Pixels, embedding, prompt and decoder fit together: random weights would give nothing."""
    assert dice(masks[torch.float32], reference) > 0.9


def test_bfloat16_embeddings_segment_as_well(masks, reference):
    """The faster arithmetic costs at most 0.02 Dice."""
    exact, rough = (dice(masks[p], reference) for p in (torch.float32, torch.bfloat16))
    assert abs(exact - rough) <= 0.02


def test_a_changed_file_is_refused(checkpoint, tmp_path):
    """One byte in forty million: the sentence says what to do."""
    path = tmp_path / checkpoint.name
    shutil.copyfile(checkpoint, path)
    with path.open("r+b") as file:
        file.seek(20_000_000)
        byte = file.read(1)
        file.seek(20_000_000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(WeightsError, match="evenhand weights get mobile-sam"):
        load_backbone("mobile-sam", 512, weights=path)


def test_the_true_file_of_another_backbone_is_refused(checkpoint):
    """MobileSAM given for LiteMedSAM: both are named."""
    with pytest.raises(WeightsError, match=r"holds mobile-sam, not lite-medsam"):
        load_backbone("lite-medsam", 512, weights=checkpoint)
