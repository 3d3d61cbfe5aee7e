"""A mask carried on through the volume: how long, how far, and how well, on a phantom.

    python benchmarks/review_carry.py [--slices 40] [--repeats 3] [--threads 1]

Needs the weights of MobileSAM (`evenhand weights get mobile-sam`), which answers without a trained
adapter, by boxes. The phantom is a head of 256 x 256 pixels a slice with texture, noise, and one
ellipsoid lesion on 23 slices. A box, 3 pixels larger than the lesion on its middle slice, is
answered and carried on to both ends: with the embedding of the case there before (`carry`), and
with none (`carry_unread`, where each slice is read when it is its turn). Per phantom as one
JSON line: seconds, slices carried on to, slices that have lesion, Dice in 3-D.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from evenhand.carrying import carry_on
from evenhand.config import DataConfig, ExperimentConfig, ModelConfig
from evenhand.experiment.layout import build_model
from evenhand.model.adapted import AdaptedModel
from evenhand.model.embeddings import FrozenEncoder
from evenhand.model.growing import GrowingSlices
from evenhand.predict import OpenCase, SlicePrompt, predict_prompt

SIDE = 256
HEAD, TEXTURE, NOISE, BRIGHT = 400.0, 300.0, 25.0, 200.0


def phantom(slices: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Image and lesion (i, j, k)."""
    rng = np.random.default_rng(seed)
    shape = (SIDE, SIDE, slices)
    x, y, z = np.ogrid[:SIDE, :SIDE, :slices]
    middle = slices // 2 - 2
    head = ((x - 128) / 110) ** 2 + ((y - 128) / 95) ** 2 + ((z - slices / 2) / 60) ** 2 < 1
    lesion = ((x - 100) / 30) ** 2 + ((y - 150) / 22) ** 2 + ((z - middle) / 12) ** 2 < 1
    image = np.where(head, HEAD, 0.0)
    image += ndimage.gaussian_filter(rng.normal(size=shape), (3, 3, 1)) * TEXTURE
    image += rng.normal(0, NOISE, shape) + BRIGHT * lesion
    image = ndimage.gaussian_filter(image, (1, 1, 0.6))
    image[~head] = 0
    return np.clip(image, 0, None).astype(np.float32), np.asarray(lesion)


def carried(
    model: AdaptedModel, case: OpenCase, lesion: NDArray[np.bool_], middle: int
) -> dict[str, float | int]:
    """Ask with a box on one slice and carry the answer on."""
    places = np.argwhere(lesion[:, :, middle])
    (i0, j0), (i1, j1) = places.min(axis=0) - 3, places.max(axis=0) + 4
    box = (float(j0), float(i0), float(j1), float(i1))
    start = time.perf_counter()
    mask = predict_prompt(model, case, SlicePrompt(index=middle, box=box))
    first = time.perf_counter() - start
    found = np.zeros_like(lesion)
    found[:, :, middle] = mask > 0
    start, count = time.perf_counter(), 0
    for k, one in carry_on(model, case, mask, middle):
        found[:, :, k] |= one > 0
        count += 1
    seconds = time.perf_counter() - start
    dice = 2 * float((found & lesion).sum()) / float(found.sum() + lesion.sum())
    return {
        "first_answer_s": round(first, 2),
        "carry_s": round(seconds, 2),
        "slices": count,
        "with_lesion": int(lesion.any(axis=(0, 1)).sum()) - 1,
        "dice": round(dice, 3),
    }


def main() -> None:
    """Read the command line and print one line a phantom."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = ExperimentConfig(
        name="benchmark",
        data=DataConfig(source=Path(), sequences=("FLAIR",)),
        model=ModelConfig(head="none"),
    )
    model = build_model(config)
    encoder = FrozenEncoder(model.backbone, model.tail_blocks, model.precision)
    for seed in range(given.repeats):
        image, lesion = phantom(given.slices, seed)
        whole = OpenCase.from_images(model, {"FLAIR": image}, encoder=encoder)
        unread = OpenCase(
            whole.slices,
            GrowingSlices(encoder, whole.slices[:, 0]),
            whole.square,
        )
        middle = given.slices // 2 - 2
        found = {
            "phantom": seed,
            "shape": list(image.shape),
            "threads": given.threads,
            "load_average": round(os.getloadavg()[0], 1),
            "carry": carried(model, whole, lesion, middle),
            "carry_unread": carried(model, unread, lesion, middle),
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
