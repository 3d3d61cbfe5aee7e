"""A model for a run under review: MobileSAM's shape at its smallest, with random weights.

Random weights answer anything. Where a test is about the page and not about the model, `answer_box`
takes the place of the decoder: what lies in the box, or around the points inside.
"""

import torch

from evenhand.config import DataConfig, ExperimentConfig, ModelConfig
from evenhand.experiment.layout import RunFolder
from evenhand.model.adapted import AdaptedModel
from evenhand.model.adapter_files import save_adapter
from evenhand.model.backbones import Backbone
from evenhand_ui import assistant

SIDE = 128


def small(config):
    """Stand in for `build_model`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = Backbone("mobile-sam", SIDE, "0" * 64)
    backbone.requires_grad_(requires_grad=False).eval()
    return AdaptedModel(backbone, config.model, seed=0)


def give_model(folder, arm="federated", sequence="FLAIR"):
    """Put a config and an adapter into a run folder."""
    config = ExperimentConfig(
        name="small",
        data=DataConfig(source=folder, sequences=(sequence,)),
        model=ModelConfig(image_size=SIDE, head="none", precision="float32"),
    )
    run = RunFolder(folder)
    run.config_path.write_text(config.model_dump_json(), encoding="utf-8")
    save_adapter(
        run.arm(arm).adapter_path, small(config), config_fingerprint="test", training={"arm": arm}
    )
    return folder


def install(patch, folder):
    """Let the page find that model instead of the published weights; `patch`: setattr-like."""
    patch(assistant, "build_model", small)
    patch(assistant, "path_of", lambda _: folder / "config.json")


def answer_box(_, hidden, *, boxes=None, points=None):
    """Logits on the square: 5 inside the box, or within 6 pixels of a point inside."""
    at = torch.arange(SIDE) + 0.5
    x, y = at[None, :], at[:, None]
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    if boxes is not None:
        x0, y0, x1, y1 = boxes[0]
        inside |= (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    if points is not None:
        for (px, py), label in zip(points[0][0], points[1][0], strict=True):
            near = (x - px - 0.5) ** 2 + (y - py - 0.5) ** 2 <= 36
            inside = inside | near if label else inside & ~near
    return torch.where(inside, 5.0, -5.0)[None].expand(len(hidden), -1, -1)
