"""Backbone plus adapter: names, seeds, what is trained, and slices that keep to themselves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import CONFIG, HEAD_SIZE, small_backbone, small_model, wake_lora

from evenhand.errors import AdapterError
from evenhand.model.adapted import AdaptedModel
from evenhand.model.head import HEAD_WIDTHS, PromptHead, box_hints


@pytest.fixture(scope="module")
def model():
    """Everything that an adapter can have, LoRA awake. Read only."""
    own = small_model()
    wake_lora(own)
    return own


@pytest.fixture(scope="module")
def inputs(model):
    """Slices, cached activations and boxes of three slices."""
    generator = torch.Generator().manual_seed(4)
    grid = model.backbone.grid
    slices = torch.rand(3, 3, HEAD_SIZE, HEAD_SIZE, generator=generator)
    hidden = torch.randn(3, 320, grid, grid, generator=generator)
    boxes = torch.tensor([[10.0, 20.0, 60.0, 80.0], [0, 0, 128, 128], [5, 6, 7, 9]])
    return slices, hidden, boxes


class TestTensors:
    """The adapter is known by its names."""

    def test_it_is_the_head_and_the_low_rank_parts(self, model):
        """Decoder attention's q and v, the last encoder block's qkv, the head; nothing else."""
        names = set(model.adapter())
        assert {name.partition(".")[0] for name in names} == {"head", "backbone"}
        low_rank = {name for name in names if name.startswith("backbone.")}
        assert all(name.endswith((".lora_a", ".lora_b")) for name in low_rank)
        layers = {name.rpartition(".")[0] for name in low_rank}
        assert {name.rpartition(".")[2] for name in layers} == {"q_proj", "v_proj", "qkv"}
        encoder = {name for name in layers if "image_encoder" in name}
        assert encoder == {"backbone.image_encoder.layers.3.blocks.1.attn.qkv"}
        assert {n for n in names if n.startswith("head.")} == {
            f"head.{name}" for name, _ in model.head.named_parameters()
        }

    @pytest.mark.parametrize(
        ("changes", "absent"),
        [
            ({"head": "none"}, "head."),
            ({"decoder_lora_rank": 0}, "mask_decoder"),
            ({"encoder_lora_rank": 0}, "image_encoder"),
            ({"encoder_lora_blocks": 0}, "image_encoder"),
        ],
    )
    def test_each_part_can_be_left_out(self, changes, absent):
        """What the config switches off is not there."""
        names = small_model(**changes).adapter()
        assert names
        assert not any(absent in name for name in names)

    def test_too_many_encoder_blocks_are_refused(self):
        """The sentence says how many there are, and which key asks for more."""
        with pytest.raises(AdapterError, match=r"has 2 encoder .* model\.encoder_lora_blocks"):
            small_model(encoder_lora_blocks=3)

    def test_one_seed_one_start(self):
        """Hospitals that train together start from the same adapter; other seeds differ."""
        first, second, other = (small_model(seed=n).adapter_state() for n in (5, 5, 6))
        assert list(first) == list(second)
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)

    def test_building_one_leaves_the_global_seed_alone(self):
        """Elsewhere drawn numbers do not depend on how many models were built."""
        backbone = small_backbone()
        torch.manual_seed(1)
        wanted = torch.rand(3)
        torch.manual_seed(1)
        AdaptedModel(backbone, CONFIG, seed=9)
        assert torch.equal(torch.rand(3), wanted)


class TestState:
    """What travels and is saved."""

    def test_it_is_a_copy(self):
        """Training on does not change what was sent."""
        model = small_model()
        state = model.adapter_state()
        kept = {name: value.clone() for name, value in state.items()}
        with torch.no_grad():
            for parameter in model.adapter().values():
                parameter.add_(1)
        assert all(torch.equal(state[name], kept[name]) for name in kept)

    def test_it_loads_exactly(self, model):
        """Another start, the same adapter afterwards."""
        other = small_model(seed=8)
        other.load_adapter(model.adapter_state())
        loaded = other.adapter_state()
        assert all(torch.equal(loaded[name], v) for name, v in model.adapter_state().items())

    @pytest.mark.parametrize("wrong", ["missing", "extra", "shape"])
    def test_other_tensors_are_refused_and_nothing_is_changed(self, wrong):
        """Strict about names and shapes; refused before the first tensor is copied."""
        model = small_model()
        before = model.adapter_state()
        state = {name: value + 1 for name, value in before.items()}
        name = max(state)
        value = state.pop(name)
        if wrong == "extra":
            state |= {name: value, "head.surplus": value}
        if wrong == "shape":
            state[name] = value[..., None]
        with pytest.raises(AdapterError, match="1 tensors differ"):
            model.load_adapter(state)
        after = model.adapter_state()
        assert all(torch.equal(after[n], before[n]) for n in before)


class TestTrainable:
    """Patterns choose what is trained."""

    def test_all_of_the_adapter_and_nothing_frozen(self):
        """By default everything trainable is the adapter."""
        model = small_model()
        chosen = model.choose_trainable()
        assert list(chosen) == list(model.adapter())
        assert {n for n, p in model.named_parameters() if p.requires_grad} == set(chosen)

    def test_a_choice_replaces_the_one_before(self):
        """Choosing the head alone freezes LoRA; choosing all again wakes it."""
        model = small_model()
        chosen = model.choose_trainable(("head.*",))
        assert all(name.startswith("head.") for name in chosen)
        assert {n for n, p in model.named_parameters() if p.requires_grad} == set(chosen)
        assert len(model.choose_trainable(("head.*", "*lora_b"))) > len(chosen)

    def test_no_match_is_refused(self):
        """The sentence gives the pattern and what names look like."""
        with pytest.raises(AdapterError, match=r"matches tail\.\*; .* backbone, head"):
            small_model().choose_trainable(("tail.*",))


class TestAnswers:
    """Masks from the adapted model."""

    @torch.inference_mode()
    def test_a_fresh_adapter_answers_boxes_as_the_backbone_does(self, inputs):
        """LoRA starts as identity: zero-shot and untrained are the same."""
        _, hidden, boxes = inputs
        bare = small_backbone()
        wanted = bare.decode_boxes(bare.encoder.suffix(hidden, 1), boxes)
        assert torch.equal(small_model().answer_boxes(hidden, boxes), wanted)

    @torch.inference_mode()
    def test_lora_in_either_place_changes_the_answer(self, inputs):
        """Awake, both low-rank parts have an effect."""
        _, hidden, boxes = inputs
        base = small_model().answer_boxes(hidden, boxes)
        for changes in ({"decoder_lora_rank": 0}, {"encoder_lora_rank": 0}):
            one = small_model(**changes)
            wake_lora(one)
            rest = hidden if one.tail_blocks else one.backbone.encoder.suffix(hidden, 1)
            assert (one.answer_boxes(rest, boxes) - base).abs().max() > 1e-4

    @torch.inference_mode()
    def test_slices_of_a_batch_do_not_influence_each_other(self, model, inputs):
        """One patient's slices must not move another's mask: alone, in company, in any company."""
        slices, hidden, boxes = inputs
        foreign = slices.clone(), hidden.clone()
        foreign[0][0] = 1 - foreign[0][0]
        foreign[1][0] *= -3
        proposed, answered = model.propose(slices, hidden), model.answer_boxes(hidden, boxes)
        for n in (1, 2):
            one = slice(n, n + 1)
            torch.testing.assert_close(
                model.propose(slices[one], hidden[one]), proposed[one], atol=1e-5, rtol=1e-5
            )
            torch.testing.assert_close(
                model.answer_boxes(hidden[one], boxes[one]), answered[one], atol=1e-5, rtol=1e-5
            )
        others = model.propose(*foreign)
        torch.testing.assert_close(others[1:], proposed[1:], atol=1e-5, rtol=1e-5)
        assert (others[0] - proposed[0]).abs().max() > 1e-3

    def test_gradients_of_one_slice_stay_with_it_while_training(self, inputs):
        """In training mode too: the loss of one slice reaches no other slice's input."""
        model = small_model()
        model.train()
        slices, hidden, boxes = inputs
        pixels, cached = slices.clone().requires_grad_(), hidden.clone().requires_grad_()
        (
            model.propose(pixels, cached)[1].sum() + model.answer_boxes(cached, boxes)[1].sum()
        ).backward()
        for gradient in (pixels.grad, cached.grad):
            assert gradient[[0, 2]].abs().max() == 0
            assert gradient[1].abs().max() > 0

    def test_without_a_head_there_is_no_automatic_mode(self, inputs):
        """The sentence says what is needed instead."""
        with pytest.raises(AdapterError, match="needs a box"):
            small_model(head="none").propose(*inputs[:2])

    @torch.inference_mode()
    def test_a_model_is_ready_to_predict_as_built_and_as_loaded(self, inputs):
        """Dropout is for training: who only loads an adapter gets the same mask every time."""
        model = small_model()
        assert not any(part.training for part in model.modules())
        first, second = (model.propose(*inputs[:2]) for _ in range(2))
        assert torch.equal(first, second)

    def test_training_mode_does_not_reach_the_backbone(self):
        """Only the adapter is in training mode."""
        model = small_model()
        model.train()
        assert not any(part.training for part in model.backbone.modules())


@settings(max_examples=8)
@given(
    size=st.sampled_from(sorted(HEAD_WIDTHS)),
    side=st.sampled_from([64, 80, 144]),
    grid=st.sampled_from([8, 12, 32]),
)
@torch.inference_mode()
def test_the_head_proposes_at_the_slices_resolution(size, side, grid):
    """Whatever the grid of the embedding and the size of the slice that a config admits."""
    head = PromptHead(size, labels=2).eval()
    logits = head(torch.rand(2, 3, side, side), torch.randn(2, 256, grid, grid))
    assert logits.shape == (2, 2, side, side)
    assert logits.isfinite().all()


class TestHints:
    """What a person says about a slice."""

    def test_silence_is_an_empty_hint(self):
        """A head that takes hints gets none in automatic mode."""
        head = PromptHead("small", sequences=2, hints=True).eval()
        slices, embedding = torch.rand(2, 6, 64, 64), torch.randn(2, 256, 8, 8)
        silent, empty = head(slices, embedding), head(slices, embedding, torch.zeros(2, 2, 64, 64))
        assert torch.equal(silent, empty)
        told = head(slices, embedding, torch.ones(2, 2, 64, 64))
        assert not torch.equal(silent, told)

    def test_a_head_that_takes_none_says_so(self):
        """Rather than to answer a box as if nobody had drawn it."""
        model = small_model()
        slices = torch.rand(1, 3, HEAD_SIZE, HEAD_SIZE)
        hidden = torch.randn(1, 320, model.backbone.grid, model.backbone.grid)
        with pytest.raises(AdapterError, match=r"model\.head_hints"):
            model.propose(slices, hidden, torch.zeros(1, 2, HEAD_SIZE, HEAD_SIZE))

    def test_a_box_covers_the_pixels_whose_centres_it_holds(self):
        """X runs along a row; NaN is no box."""
        boxes = torch.tensor([[1.0, 2, 4, 3], [float("nan")] * 4, [0, 0, 8, 8], [2.4, 0, 2.6, 1]])
        hints = box_hints(boxes, 8)
        assert hints.shape == (4, 2, 8, 8)
        assert torch.nonzero(hints[0, 0]).tolist() == [[2, 1], [2, 2], [2, 3]]
        assert hints[:, 0].sum((1, 2)).tolist() == [3, 0, 64, 1]
        assert not hints[:, 1].any()
