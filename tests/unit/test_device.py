"""Where a model computes: chosen, told, refused; and nothing mixes devices.

No accelerator is needed: PyTorch's fake tensors have a device and a shape, no values, and refuse
to mix devices as real ones do. They know neither indexing nor a way back on a machine without CUDA,
so what a real device makes of those is not seen here.
"""

from contextlib import nullcontext

import pytest
import torch
from small_models import CONFIG, HEAD_SIZE, IMAGE_SIZE, small_model
from torch._subclasses.fake_tensor import FakeTensorMode

from evenhand.errors import ConfigError
from evenhand.model.adapted import AdaptedModel
from evenhand.model.backbones import Backbone
from evenhand.model.device import chosen_device, frozen_precision
from evenhand.training.data import Batch
from evenhand.training.loop import loss_of

CUDA = torch.device("cuda", 0)
PLAIN = CONFIG.model_copy(update={"encoder_lora_rank": 0, "encoder_lora_blocks": 0})


@pytest.mark.parametrize(
    ("wanted", "able", "device"),
    [
        ("auto", True, CUDA),
        ("auto", False, torch.device("cpu")),
        ("cpu", True, torch.device("cpu")),
        ("cuda", True, CUDA),
    ],
)
def test_the_device_is_chosen_or_told(monkeypatch, wanted, able, device):
    """`auto` takes an accelerator where there is one; the user's word goes before."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: able)
    assert chosen_device(wanted) == device


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    """In words, not somewhere in the middle of PyTorch."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"model\.device asks for a CUDA device"):
        chosen_device("cuda")


def test_precision_by_name_and_by_device(monkeypatch):
    """What is asked for is taken; `auto` asks the device that is computed on, not the other one."""
    cpu = torch.device("cpu")
    for device in (cpu, CUDA):
        assert frozen_precision("float32", device) is torch.float32
        assert frozen_precision("bfloat16", device) is torch.bfloat16
    for capabilities, wanted in (
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda own=capabilities: own)
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda own=wanted, **_: own is torch.float32,
        )
        assert frozen_precision("auto", cpu) is wanted
        assert (frozen_precision("auto", CUDA) is torch.bfloat16) == (wanted is torch.float32)


def there(value):
    """A parameter or a buffer, as it would be after a move."""
    if value is None:
        return None
    moved = value.detach().to(CUDA)
    if isinstance(value, torch.nn.Parameter):
        return torch.nn.Parameter(moved, requires_grad=value.requires_grad)
    return moved


class TestNothingMixesDevices:
    """A model on one device, its inputs on another."""

    @pytest.fixture
    def away(self):
        """A model with all that an adapter can have, on a device that is not the CPU; no values."""
        with FakeTensorMode(), torch.no_grad():  # fakes know no way back
            backbone = Backbone("mobile-sam", IMAGE_SIZE, "0" * 64)
            backbone.requires_grad_(requires_grad=False)
            model = AdaptedModel(backbone.eval(), PLAIN, seed=0)
            for module in model.modules():  # `model.to(CUDA)`, which fakes do not know
                for kept in (module._parameters, module._buffers):
                    kept.update({name: there(one) for name, one in kept.items()})
            yield model

    def test_the_fakes_notice(self, away):
        """A mixture is refused here as on a real device: else the tests below mean nothing."""
        with pytest.raises(RuntimeError, match="two devices"):
            away.head(torch.rand(1, 3, HEAD_SIZE, HEAD_SIZE), torch.rand(1, 256, 8, 8))

    def test_asking(self, away, monkeypatch):
        """What a model is asked may lie on the CPU: all of it reaches the device."""
        slices, hidden = torch.rand(2, 3, HEAD_SIZE, HEAD_SIZE), torch.rand(2, 256, 8, 8)
        answer = away.propose_labels(slices, hidden)
        assert (answer.device, answer.cpu().device.type) == (CUDA, "cpu")

        came = []

        def decode(embedding, *, boxes=None, points=None):
            came.extend(
                one.device for one in (embedding, boxes, *(points or ())) if one is not None
            )

        monkeypatch.setattr(away.backbone, "decode_prompts", decode)
        points = torch.rand(2, 1, 2), torch.ones(2, 1)
        away.answer_boxes(hidden, torch.rand(2, 4))
        away.answer_prompts(hidden, points=points)
        assert came == [CUDA] * 5

    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_training(self, away, precision, monkeypatch):
        """A batch from the CPU gives a loss on the device, in that device's arithmetic."""
        asked = []

        def autocast(kind, *, dtype, enabled):
            asked.append((kind, dtype, enabled))
            return nullcontext()

        monkeypatch.setattr(torch, "autocast", autocast)  # which is told to a real device alone
        away.config = PLAIN.model_copy(update={"precision": precision})
        size = (2, HEAD_SIZE, HEAD_SIZE)
        batch = Batch(
            hidden=torch.rand(2, 256, 8, 8),
            slices=torch.rand(2, 3, *size[1:]),
            masks=torch.ones(size),
            boxed=torch.arange(0),
            boxes=torch.rand(0, 4),
        )
        assert loss_of(away, batch).device == CUDA
        assert asked == [("cuda", getattr(torch, precision), precision == "bfloat16")]


def test_a_model_knows_where_it_is():
    """Fresh ones are on the CPU until somebody moves them."""
    assert small_model().device == torch.device("cpu")
