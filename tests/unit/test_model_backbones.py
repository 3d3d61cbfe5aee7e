"""Backbones behind one interface: the decoder, the pixels, and what `load_backbone` accepts."""

import pytest
import torch
from small_models import IMAGE_SIZE, small_backbone
from torch import nn

from evenhand.errors import WeightsError
from evenhand.model import backbones, weights
from evenhand.model.backbones import Backbone, load_backbone


@pytest.fixture(scope="module")
def backbone():
    """MobileSAM's shape, random weights. Read only."""
    return small_backbone()


@pytest.fixture(scope="module")
def embedding(backbone):
    """Embeddings of three images."""
    return torch.randn(
        3, 256, backbone.grid, backbone.grid, generator=torch.Generator().manual_seed(2)
    )


BOXES = torch.tensor([[10.0, 20.0, 60.0, 80.0], [0.0, 0.0, 128.0, 128.0], [5.0, 6.0, 7.0, 9.0]])


def stock_answer(backbone, embedding, box):
    """segment-anything's own decoder on one image, one mask asked for."""
    sparse, dense = backbone.prompt_encoder(points=None, boxes=box[None], masks=None)
    masks, _ = backbone.mask_decoder(
        image_embeddings=embedding[None],
        image_pe=backbone.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return masks[0, 0]


def test_boxes_are_decoded_as_segment_anything_does(backbone, embedding):
    """A batch of images with a box each equals the stock decoder, image by image."""
    answers = backbone.decode_boxes(embedding, BOXES)
    assert answers.shape == (3, 4 * backbone.grid, 4 * backbone.grid)
    for answer, one, box in zip(answers, embedding, BOXES, strict=True):
        torch.testing.assert_close(answer, stock_answer(backbone, one, box), atol=1e-5, rtol=1e-5)


def test_images_do_not_influence_each_others_masks(backbone, embedding):
    """Honest gradients per patient need masks that are the same alone and in company."""
    answers = backbone.decode_boxes(embedding, BOXES)
    changed = embedding.clone()
    changed[0] += 5
    company = backbone.decode_boxes(changed, BOXES)
    torch.testing.assert_close(company[1:], answers[1:], atol=1e-5, rtol=1e-5)
    assert (company[0] - answers[0]).abs().max() > 1e-3


def test_one_images_gradient_is_its_own(backbone, embedding):
    """The loss of one image reaches the embedding of that image only."""
    inputs = embedding.clone().requires_grad_()
    backbone.decode_boxes(inputs, BOXES)[1].sum().backward()
    assert inputs.grad[[0, 2]].abs().max() == 0
    assert inputs.grad[1].abs().max() > 0


def test_a_box_decides_its_mask(backbone, embedding):
    """Another box on the same image gives another mask."""
    same = embedding[:1].expand(3, -1, -1, -1)
    answers = backbone.decode_boxes(same, BOXES)
    assert (answers[0] - answers[1]).abs().max() > 1e-4
    assert (answers[1] - answers[2]).abs().max() > 1e-4


def test_a_frozen_model_stays_in_eval_mode(backbone):
    """`train()` of whatever holds the backbone must not wake its norms."""
    holder = nn.Sequential(backbone)
    holder.train()
    assert not any(part.training for part in backbone.modules())


def test_pixels_are_normalised_as_the_authors_do(backbone):
    """SAM: 0 to 255, minus and by ImageNet's figures. MedSAM's kin: 0 to 1 as they are."""
    pixels = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    deviation = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    wanted = (pixels * 255 - mean) / deviation
    torch.testing.assert_close(backbone.normalise(pixels), wanted, atol=1e-5, rtol=1e-5)
    lite = Backbone("lite-medsam", 64, "0" * 64)
    assert torch.equal(lite.normalise(pixels), pixels)
    assert lite.grid == 16


@pytest.fixture
def small_vit(monkeypatch):
    """SAM ViT-B with its recipe made small; any file passes for its checkpoint."""
    recipe = backbones._Recipe(stride=16, imagenet_pixels=True, vit=(32, 3, 2, (1,)))
    monkeypatch.setitem(backbones._RECIPES, "sam-vit-b", recipe)
    monkeypatch.setattr(backbones, "verify", lambda _: weights.REGISTRY["sam-vit-b"])


def checkpoint(path, size, change=lambda _: None):
    """Write what SAM's authors would publish for a square of this size."""
    torch.manual_seed(0)
    state = Backbone("sam-vit-b", size, "0" * 64).state_dict()
    state = {key.replace("image_encoder.vit.", "image_encoder."): v for key, v in state.items()}
    state["image_encoder.pos_embed"] = torch.randn(state["image_encoder.pos_embed"].shape)
    change(state)
    torch.save(state, path)
    return state


@pytest.mark.usefixtures("small_vit")
class TestPositions:
    """ViT checkpoints are made for one size and used at others."""

    def test_at_its_own_size_nothing_is_touched(self, tmp_path):
        """Every tensor of the file is in the model, bit for bit."""
        state = checkpoint(tmp_path / "sam.pth", 256)
        loaded = load_backbone("sam-vit-b", 256, weights=tmp_path / "sam.pth").state_dict()
        assert len(loaded) == len(state)
        for key, value in state.items():
            own = key.replace("image_encoder.", "image_encoder.vit.", 1)
            assert torch.equal(loaded[own], value), key

    def test_tables_are_resized_in_the_right_order(self, tmp_path):
        """A table that falls along the rows still does at half the size; constants stay so."""

        def ramps(state):
            rows = torch.linspace(-1, 1, 16)[None, :, None, None].expand(1, 16, 16, 32)
            state["image_encoder.pos_embed"] = rows.clone()
            offsets = torch.linspace(-1, 1, 31)[:, None].expand(31, 16)
            state["image_encoder.blocks.1.attn.rel_pos_h"] = offsets.clone()
            state["image_encoder.blocks.1.attn.rel_pos_w"] = torch.full((31, 16), 0.5)

        state = checkpoint(tmp_path / "sam.pth", 256, ramps)
        loaded = load_backbone("sam-vit-b", 128, weights=tmp_path / "sam.pth")
        vit = loaded.image_encoder.vit
        assert vit.pos_embed.shape == (1, 8, 8, 32)
        line = vit.pos_embed[0, :, 0, 0]
        assert (line.diff() > 0).all()
        assert torch.allclose(line, -line.flip(0), atol=1e-6)
        assert torch.allclose(vit.pos_embed[0, :, 3, 7], line, atol=1e-6)
        attention = vit.blocks[1].attn
        assert attention.rel_pos_h.shape == (15, 16)
        assert (attention.rel_pos_h[:, 3].diff() > 0).all()
        assert torch.allclose(attention.rel_pos_w, torch.full((15, 16), 0.5))
        windowed = "image_encoder.blocks.0.attn.rel_pos_h"
        assert torch.equal(vit.blocks[0].attn.rel_pos_h, state[windowed])  # windows stay 14
        with torch.inference_mode():
            assert loaded.encoder.prefix(torch.zeros(1, 3, 128, 128), 0).shape == (1, 256, 8, 8)

    def test_it_comes_frozen_and_in_eval_mode(self, tmp_path):
        """Nothing of a backbone is trained, unless an adapter is put on it."""
        checkpoint(tmp_path / "sam.pth", 128)
        loaded = load_backbone("sam-vit-b", 128, weights=tmp_path / "sam.pth")
        assert not any(p.requires_grad for p in loaded.parameters())
        assert not loaded.training
        assert loaded.weights_sha256 == weights.find("sam-vit-b").sha256

    @pytest.mark.parametrize("wrong", ["missing", "extra", "shape"])
    def test_keys_are_strict(self, tmp_path, wrong):
        """A file with other tensors than it should have is refused, with the way out."""

        def spoil(state):
            key = "image_encoder.blocks.0.attn.qkv.weight"
            value = state.pop(key)
            if wrong == "extra":
                state[key], state["image_encoder.surplus"] = value, value
            if wrong == "shape":
                state[key] = value[:-1]

        checkpoint(tmp_path / "sam.pth", 128, spoil)
        with pytest.raises(WeightsError, match="evenhand weights get sam-vit-b"):
            load_backbone("sam-vit-b", 128, weights=tmp_path / "sam.pth")


class TestGivenFiles:
    """A checkpoint given by hand is held to its published hash."""

    def test_other_bytes_are_refused(self, tmp_path):
        """The hash goes into every adapter: what is not the published file must not bear it."""
        path = tmp_path / "mobile_sam.pt"
        torch.save({"image_encoder.neck.0.weight": torch.zeros(1)}, path)
        with pytest.raises(WeightsError, match="evenhand weights get mobile-sam"):
            load_backbone("mobile-sam", IMAGE_SIZE, weights=path)

    def test_a_file_of_no_known_name_or_content_is_refused(self, tmp_path):
        """The sentence says where known ones are listed."""
        path = tmp_path / "mine.pt"
        torch.save({"x": torch.zeros(1)}, path)
        with pytest.raises(WeightsError, match="evenhand weights list"):
            load_backbone("mobile-sam", IMAGE_SIZE, weights=path)

    def test_another_backbones_file_is_refused(self, tmp_path, monkeypatch):
        """A true file of another model names both."""
        monkeypatch.setattr(backbones, "verify", lambda _: weights.REGISTRY["lite-medsam"])
        with pytest.raises(WeightsError, match="holds lite-medsam, not mobile-sam"):
            load_backbone("mobile-sam", IMAGE_SIZE, weights=tmp_path / "lite_medsam.pth")

    def test_a_missing_file_is_refused(self, tmp_path):
        """The sentence names it."""
        with pytest.raises(WeightsError, match="nowhere"):
            load_backbone("mobile-sam", IMAGE_SIZE, weights=tmp_path / "nowhere.pt")

    def test_an_unknown_backbone_names_the_nearest(self):
        """Typing errors get a hint."""
        with pytest.raises(WeightsError, match="Did you mean 'mobile-sam'"):
            load_backbone("mobil-sam", IMAGE_SIZE)


def test_every_known_checkpoint_can_be_built():
    """Whatever `evenhand weights list` names has a recipe."""
    assert set(backbones._RECIPES) == set(weights.REGISTRY)
