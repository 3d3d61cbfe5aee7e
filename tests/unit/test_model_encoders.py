"""The image encoders: cut anywhere, folded norms, windows that do not leak."""

from itertools import product

import pytest
import torch
from small_models import random_norms
from torch import nn

from evenhand.model import sam_parts
from evenhand.model.backbones import SplitViT
from evenhand.model.tiny_vit import ConvNorm, TinyViT, WindowAttention, WindowBlock

GRID_8 = (2, 3, 128, 128)
"""A batch whose embedding has 8 x 8 tokens in MobileSAM's encoder and in SAM's."""


@pytest.fixture(scope="module")
def tiny():
    """MobileSAM's encoder with random weights."""
    torch.manual_seed(0)
    encoder = TinyViT(patch_kernel=3, patch_stride=2)
    random_norms(encoder)
    return encoder.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def vit():
    """A small ViT as SAM builds them, with windows, global attention and positions."""
    torch.manual_seed(0)
    encoder = sam_parts.vit_encoder(128, dim=32, depth=4, heads=2, global_blocks=(1, 3))
    for name, parameter in encoder.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            nn.init.normal_(parameter, std=0.1)
    return SplitViT(encoder).eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def pixels():
    """Two images."""
    return torch.randn(GRID_8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tail", [0, 1, 2])
def test_tiny_vit_may_be_cut_anywhere(tiny, pixels, tail):
    """What is cached plus what follows is the whole encoder."""
    whole = tiny.prefix(pixels, 0)
    assert whole.shape == (2, 256, 8, 8)
    torch.testing.assert_close(tiny.suffix(tiny.prefix(pixels, tail), tail), whole)


@pytest.mark.parametrize("tail", [0, 1, 2, 4])
def test_sams_vit_may_be_cut_anywhere(vit, pixels, tail):
    """The same for SAM's own encoder, against its own forward."""
    whole = vit.vit(pixels)
    assert whole.shape == (2, 256, 8, 8)
    torch.testing.assert_close(vit.suffix(vit.prefix(pixels, tail), tail), whole)


def test_the_tail_is_what_the_suffix_runs(tiny, vit, pixels):
    """A change in the last block of `tail` does not reach the cache, and reaches the suffix."""
    for encoder in (tiny, vit):
        calls = []
        hook = encoder.tail[-1].register_forward_hook(lambda *_, own=calls: own.append(1))
        hidden = encoder.prefix(pixels, 1)
        assert not calls
        encoder.suffix(hidden, 1)
        hook.remove()
        assert calls == [1]


def test_images_of_a_batch_do_not_influence_each_other(tiny, vit, pixels):
    """An image alone has the embedding that it has in company."""
    for encoder in (tiny, vit):
        together = encoder.prefix(pixels, 0)
        alone = encoder.prefix(pixels[1:], 0)
        torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)


def test_folding_norms_keeps_the_output(tiny, pixels):
    """Batch norms go into their convolutions: the same output, and no norm is left to drift."""
    torch.manual_seed(0)
    folded = TinyViT(patch_kernel=3, patch_stride=2)
    folded.load_state_dict(tiny.state_dict())
    folded.eval().fuse()
    assert not any(isinstance(part, nn.BatchNorm2d | ConvNorm) for part in folded.modules())
    torch.testing.assert_close(
        folded.prefix(pixels, 0), tiny.prefix(pixels, 0), atol=1e-4, rtol=1e-4
    )
    before = folded.prefix(pixels, 0)
    folded.train()
    torch.testing.assert_close(folded.prefix(pixels, 0), before, atol=1e-5, rtol=1e-5)


def test_lite_medsam_keeps_a_fine_grid():
    """LiteMedSAM's encoder: a quarter of the image's side, not a sixteenth."""
    encoder = TinyViT(patch_kernel=1, patch_stride=1).eval()
    with torch.inference_mode():
        assert encoder.prefix(torch.zeros(1, 3, 64, 64), 0).shape == (1, 256, 16, 16)


def slow_windows(block, x):
    """Window by window, each padded with zeros on its own, as the paper describes."""
    size = block.window
    out = torch.zeros_like(x)
    for top, left in product(range(0, x.shape[2], size), range(0, x.shape[3], size)):
        piece = x[:, :, top : top + size, left : left + size]
        height, width = piece.shape[2:]
        window = torch.zeros(x.shape[0], x.shape[1], size, size)
        window[:, :, :height, :width] = piece
        tokens = window.flatten(2).transpose(1, 2)
        attended = block.attn(tokens).transpose(1, 2).unflatten(2, (size, size))
        out[:, :, top : top + height, left : left + width] = attended[:, :, :height, :width]
    return out


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 4), (6, 5), (3, 3), (4, 9)])
def test_windows_equal_a_slow_loop(height, width):
    """Tokens attend inside their window; the last windows are padded and cut."""
    torch.manual_seed(0)
    block = WindowBlock(8, heads=2, window=4)
    random_norms(block)
    x = torch.randn(2, 8, height, width)
    torch.testing.assert_close(block._attend(x), slow_windows(block, x), atol=1e-5, rtol=1e-5)


def test_window_attention_equals_a_slow_loop():
    """Softmax of scaled products plus the bias of the offset; offsets in order of appearance."""
    torch.manual_seed(0)
    window, heads, dim = 3, 2, 8
    attention = WindowAttention(dim, heads, window)
    random_norms(attention)
    x = torch.randn(2, window * window, dim)
    points = list(product(range(window), repeat=2))
    order = []
    for a, b in product(points, points):
        offset = (abs(a[0] - b[0]), abs(a[1] - b[1]))
        if offset not in order:
            order.append(offset)
    qkv = attention.qkv(attention.norm(x)).view(2, 9, heads, 3, dim // heads)
    mixed = torch.zeros(2, 9, heads, dim // heads)
    for n, h, (t, a) in product(range(2), range(heads), enumerate(points)):
        scores = torch.stack(
            [
                qkv[n, t, h, 0] @ qkv[n, s, h, 1] / (dim // heads) ** 0.5
                + attention.attention_biases[h, order.index((abs(a[0] - b[0]), abs(a[1] - b[1])))]
                for s, b in enumerate(points)
            ]
        )
        mixed[n, t, h] = scores.softmax(0) @ qkv[n, :, h, 2]
    wanted = attention.proj(mixed.flatten(2))
    torch.testing.assert_close(attention(x), wanted, atol=1e-5, rtol=1e-5)
