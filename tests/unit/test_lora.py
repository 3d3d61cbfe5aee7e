"""Low-rank parts beside frozen layers."""

import pytest
import torch
from torch import nn

from evenhand.model.lora import LoraLinear, add_lora


class Attention(nn.Module):
    """Layers with names like those of the real ones."""

    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(4, 6)
        self.k_proj = nn.Linear(4, 6)
        self.mlp_q_proj = nn.Linear(4, 6)
        self.v_proj = nn.Conv1d(4, 6, 1)


@pytest.fixture
def two_layers():
    """Two attentions, one deeper than the other."""
    return nn.ModuleDict({"a": Attention(), "deep": nn.Sequential(nn.ReLU(), Attention())})


@pytest.mark.parametrize("bias", [True, False])
def test_a_fresh_one_changes_nothing(bias):
    """Training starts from the frozen model, bit for bit."""
    frozen = nn.Linear(5, 7, bias=bias)
    x = torch.randn(3, 2, 5)
    wanted = frozen(x).detach()
    assert torch.equal(LoraLinear(frozen, 3)(x), wanted)


def test_it_adds_the_product_to_the_weight():
    """The layer becomes W + B A."""
    frozen = nn.Linear(5, 7)
    lora = LoraLinear(frozen, 2)
    nn.init.normal_(lora.lora_b)
    x = torch.randn(4, 5)
    whole = frozen.weight + lora.lora_b @ lora.lora_a
    torch.testing.assert_close(lora(x), x @ whole.T + frozen.bias)
    assert torch.linalg.matrix_rank(whole - frozen.weight, tol=1e-5) == 2


def test_only_the_low_rank_part_is_trained():
    """The frozen layer gets no gradient; B gets one at once, A as soon as B is not zero."""
    lora = LoraLinear(nn.Linear(5, 7), 2)
    lora(torch.randn(4, 5)).pow(2).sum().backward()
    assert lora.frozen.weight.grad is None
    assert lora.frozen.bias.grad is None
    assert lora.lora_b.grad.abs().sum() > 0
    assert lora.lora_a.abs().min() > 0  # else both would stay zero for ever


def test_the_named_layers_are_replaced_and_no_others(two_layers):
    """Whole last names count, and linear layers only."""
    replaced = add_lora(two_layers, 2, ("q_proj", "v_proj"))
    assert replaced == ["a.q_proj", "deep.1.q_proj"]
    kinds = {name: type(part) for name, part in two_layers.named_modules()}
    assert kinds["a.q_proj"] is kinds["deep.1.q_proj"] is LoraLinear
    assert kinds["a.k_proj"] is kinds["a.mlp_q_proj"] is nn.Linear
    assert kinds["a.v_proj"] is nn.Conv1d


def test_a_layer_is_not_adapted_twice(two_layers):
    """Adding again finds nothing: the frozen layer inside does not carry the name."""
    add_lora(two_layers, 2, ("q_proj",))
    assert add_lora(two_layers, 2, ("q_proj",)) == []


def test_nothing_to_replace(two_layers):
    """A name that no layer has replaces none."""
    assert add_lora(two_layers, 2, ("qkv",)) == []
