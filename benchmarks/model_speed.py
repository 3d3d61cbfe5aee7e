"""How quick training, embedding and answers are, each beside the straightforward way, in one run.

    python benchmarks/model_speed.py training     # a cached step against one through the backbone
    python benchmarks/model_speed.py embedding [--run RUN]   # bfloat16 batches against single fp32
    python benchmarks/model_speed.py answers      # a box on an open case; a volume, NIfTI to mask
    python benchmarks/model_speed.py growth [--slices 100 1000 10000] [--image-size 224]
    python benchmarks/model_speed.py threads      # the same training on one thread and on two

MobileSAM's weights; slices are phantoms, since time does not depend on what is seen. Ratios are
the result, seconds belong to the machine, which is printed. With RUN, a finished run on
patients, `embedding` also says what both embeddings cost in Dice.
"""

import argparse
import multiprocessing
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from evenhand.cases.store import CaseStore
from evenhand.config import ModelConfig, PhantomConfig, TrainingConfig
from evenhand.experiment.layout import RunFolder, model_of_adapter
from evenhand.geometry import Affine
from evenhand.ingest.bids import ingest_bids
from evenhand.ingest.phantom import make_phantoms
from evenhand.metrics import score_case
from evenhand.model.adapted import AdaptedModel
from evenhand.model.adapter_files import save_adapter
from evenhand.model.backbones import load_backbone
from evenhand.model.device import chosen_device, frozen_precision
from evenhand.model.embeddings import EmbeddingCache, FrozenEncoder
from evenhand.model.preprocessing import Letterbox, with_neighbours
from evenhand.predict import OpenCase, SlicePrompt, predict_automatic, predict_prompt
from evenhand.training.data import Batch, TrainingPatient, draw, load_patients
from evenhand.training.loop import Schedule, train
from evenhand.training.loss import mask_loss

CONFIG = ModelConfig(image_size=448, head_hints=True, decoder_lora_rank=0)
STILL = TrainingConfig(
    tumour_slices=4,
    other_slices=4,
    box_share=0,
    box_hints=0,
    mask_hints=0,
    rotation_degrees=0,
    scale_jitter=0,
    intensity_jitter=0,
)
"""Slices as they are: a moved one has no embedding of its own to compare with."""


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["training", "embedding", "answers", "growth", "threads"])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--slices", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--image-size", type=int, default=CONFIG.image_size, help="of growth")
    asked = parser.parse_args()
    print(_machine())
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Callable[[], None]] = {
            "training": lambda: training(Path(folder)),
            "embedding": lambda: embedding(asked.run),
            "answers": lambda: answers(Path(folder)),
            "growth": lambda: growth(asked.slices, asked.image_size),
            "threads": lambda: threads(Path(folder)),
        }
        parts[asked.part]()


def _machine() -> str:
    name = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    device = chosen_device("auto")
    precision = frozen_precision("auto", device)
    return f"{name}, {torch.get_num_threads()} threads, {device}, {precision} where frozen"


def training(folder: Path) -> None:
    """The same steps from the cache and through the whole backbone, forth and back."""
    model = AdaptedModel(load_backbone("mobile-sam", CONFIG.image_size), CONFIG, seed=0)
    patients = _phantoms(folder, model, patients=6)
    straight = _Straight(model)
    steps = 6
    cached_s, cached = _steps(model, patients, steps, lambda batch: batch.hidden)
    straight_s, slow = _steps(model, patients, steps, straight)
    print(f"cached          {1000 * cached_s:8.1f} ms a slice")
    print(f"straightforward {1000 * straight_s:8.1f} ms a slice (fp32, forth and back)")
    print(f"ratio           {straight_s / cached_s:8.1f} (at least 20 is wanted)")
    print("losses, cached:         ", *(f"{loss:.4f}" for loss in cached))
    print("losses, straightforward:", *(f"{loss:.4f}" for loss in slow))


class _Straight:
    """Computes each embedding anew and carries the gradient back through the backbone."""

    def __init__(self, model: AdaptedModel) -> None:
        self.backbone = deepcopy(model.backbone).requires_grad_(requires_grad=True)

    def __call__(self, batch: Batch) -> Tensor:
        square = Letterbox(*batch.slices.shape[-2:], self.backbone.image_size)
        pixels = self.backbone.normalise(square.apply(batch.slices))
        return self.backbone.encoder.prefix(pixels, 0)


def _steps(
    model: AdaptedModel,
    patients: list[TrainingPatient],
    steps: int,
    embed: Callable[[Batch], Tensor],
) -> tuple[float, list[float]]:
    """Median seconds a slice, and the losses, of steps from one start over one order."""
    model = deepcopy(model)
    model.train()
    optimiser = torch.optim.AdamW(model.choose_trainable().values(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # of dropout
    times, losses = [], []
    for step in range(steps):
        batch = draw(patients[step % len(patients)], STILL, generator, image_size=CONFIG.image_size)
        started = time.perf_counter()
        loss = mask_loss(model.propose(batch.slices, embed(batch)).float(), batch.masks)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        times.append((time.perf_counter() - started) / len(batch.masks))
        losses.append(loss.item())
    return statistics.median(times[1:]), losses


def _phantoms(folder: Path, model: AdaptedModel, patients: int) -> list[TrainingPatient]:
    config = PhantomConfig(patients={"north": patients}, shape=(256, 256, 16))
    ingest_bids(make_phantoms(config, folder / "source", seed=0), folder / "stores")
    store = CaseStore(folder / "stores" / "north")
    cache = EmbeddingCache.of_model(folder / "embeddings", model, "FLAIR")
    cache.fill(store, store, lambda _: None)
    return load_patients(store, cache, [c.patient.patient_id for c in store], model)


def embedding(run: Path | None) -> None:
    """Slices a second, in turns; with a run also Dice from both embeddings."""
    backbone = load_backbone("mobile-sam", CONFIG.image_size)
    slices = torch.rand(16, 256, 256)
    ours = FrozenEncoder(backbone, 0, frozen_precision("auto", backbone.device))
    plain_s, ours_s = [], []
    for _ in range(3):
        plain_s.append(_seconds(lambda: _plain(backbone, slices)))
        ours_s.append(_seconds(lambda: ours(slices)))
    plain, quick = (len(slices) / statistics.median(s) for s in (plain_s, ours_s))
    print(f"plain fp32 loop {plain:6.2f} slices a second")
    print(f"ours            {quick:6.2f} slices a second, ratio {quick / plain:.2f} (2 is wanted)")
    if run is not None:
        _dice_of_both(RunFolder(run))


def _plain(backbone: torch.nn.Module, slices: Tensor) -> np.ndarray:
    square = Letterbox(256, 256, backbone.image_size)
    found = []
    with torch.inference_mode():
        for z in range(len(slices)):
            pixels = square.apply(with_neighbours(slices[:, None], torch.tensor([z])))
            found.append(backbone.encoder.prefix(backbone.normalise(pixels), 0).numpy())
    return np.concatenate(found)


def _dice_of_both(run: RunFolder) -> None:
    model = model_of_adapter(run.arm("pooled").adapter_path)
    dice: dict[str, list[float]] = {"fp32": [], "ours": []}
    for home in run.hospitals():
        store = home.store()
        for case in store:
            if case.patient.patient_id not in run.split().test[home.name]:
                continue
            cached = OpenCase.of(model, store, home.cache(model, model.sequences[0]), case)
            raw = store.volumes(case, tuple(s for s in model.sequences if s in case.sequences))
            plain = FrozenEncoder(model.backbone, model.tail_blocks, torch.float32)
            exact = OpenCase.from_images(model, raw.images, encoder=plain)
            for name, opened in (("ours", cached), ("fp32", exact)):
                mask = predict_automatic(model, opened).mask
                score = score_case(mask, raw.mask, spacing=(1.0, 1.0, 1.0), nsd_tolerance=2.0)
                dice[name].append(score.dice)
    first, second = (np.mean(dice[name]) for name in ("fp32", "ours"))
    print(f"Dice of {len(dice['ours'])} test patients: fp32 {first:.4f}, ours {second:.4f}")


def answers(folder: Path) -> None:
    """A box on an open case, and a whole volume by the command, start of Python included."""
    model = AdaptedModel(load_backbone("mobile-sam", CONFIG.image_size), CONFIG, seed=0)
    volume = np.random.default_rng(0).gamma(2.0, 50.0, (256, 256, 40)).astype(np.float32)
    opened = OpenCase.from_images(model, {"FLAIR": volume})
    times = []
    for turn in range(30):
        prompt = SlicePrompt(index=turn, box=(90.0, 80.0, 150.0, 160.0))
        ask = partial(predict_prompt, model, opened, prompt, by_head=True)
        times.append(_seconds(ask))
    print(f"box to mask, open case: median {1000 * statistics.median(times):.0f} ms (100 wanted)")
    save_adapter(folder / "a.safetensors", model, config_fingerprint="speed", training={})
    nib.save(nib.Nifti1Image(volume, Affine(np.eye(4)).ras_from_voxel), folder / "flair.nii.gz")
    command = [sys.executable, "-m", "evenhand", "predict", str(folder / "a.safetensors")]
    command += [str(folder / "flair.nii.gz"), "--out", str(folder / "mask.nii.gz")]
    seconds = [
        _seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))  # noqa: S603
        for _ in range(3)
    ]
    print(f"40 slices, NIfTI to mask, automatic: {statistics.median(seconds):.1f} s (20 wanted)")


def threads(folder: Path) -> None:
    """Train on phantoms on one thread, again on one, and on two; compare masks, Dice and time."""
    start = AdaptedModel(load_backbone("mobile-sam", CONFIG.image_size), CONFIG, seed=0)
    for precision in ("auto", "float32"):
        start.config = CONFIG.model_copy(update={"training_precision": precision})
        print(f"training in {start.training_precision}")
        seconds = _threads(folder / precision, start)
        print(f"{1000 * seconds:.1f} ms of the processor a slice, on one thread")


def _threads(folder: Path, start: AdaptedModel) -> float:
    """Compare; return seconds of the processor a slice trained on one thread."""
    patients = _phantoms(folder, start, patients=6)
    store = CaseStore(folder / "stores" / "north")
    cache = EmbeddingCache.of_model(folder / "embeddings", start, "FLAIR")
    found: list[tuple[np.ndarray, float]] = []
    seconds = []
    for count in (1, 1, 2):
        torch.set_num_threads(count)
        model = deepcopy(start)
        config = TrainingConfig(tumour_slices=2, other_slices=2, box_share=0)
        started = time.process_time()
        train(model, patients, config, epochs=40, schedule=Schedule(2e-3), seed=0)
        seconds.append((time.process_time() - started) / (40 * len(patients) * 4))
        masks, dice = [], []
        for case in store:
            mask = predict_automatic(model, OpenCase.of(model, store, cache, case)).mask
            reference = store.volumes(case, ()).mask
            score = score_case(mask, reference, spacing=(1.0, 1.0, 1.0), nsd_tolerance=2.0)
            masks.append(mask)
            dice.append(score.dice)
        found.append((np.stack(masks), float(np.mean(dice))))
    (first, dice), (again, _), (two, other) = found
    print(f"one thread twice: {'equal' if np.array_equal(first, again) else 'DIFFERENT'} masks")
    print(f"one and two threads: {int((first != two).sum())} voxels differ of {first.size}")
    print(f"Dice {dice:.5f} and {other:.5f}, apart {abs(dice - other):.1e} (under 1e-4 is wanted)")
    return min(seconds[:2])


def growth(counts: list[int], image_size: int) -> None:
    """Seconds and memory of embedding and segmenting 100, 1,000, ... slices.

    Seconds of the processor, which other work on the machine does not stretch.
    """
    print(f"images of {image_size} pixels")
    print("| slices | CPU seconds | CPU seconds a slice | peak MB |\n|---|---|---|---|")
    for count in counts:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, megabytes = pool.apply(_grow, (count, image_size))
        print(
            f"| {count:,} | {seconds:.0f} | {seconds / count:.3f} | {megabytes:.0f} |", flush=True
        )


def _grow(count: int, image_size: int) -> tuple[float, float]:
    config = CONFIG.model_copy(update={"image_size": image_size})
    model = AdaptedModel(load_backbone("mobile-sam", image_size), config, seed=0)
    rng = np.random.default_rng(0)
    image = rng.gamma(2.0, 50.0, (256, 256, 20)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        store = CaseStore.create(Path(name) / "store", "north")
        from evenhand.cases.records import Patient

        for number in range(count // 20):
            store.add(
                case_id=f"c{number}",
                patient=Patient(patient_id=f"p{number}", hospital="north"),
                affine=Affine(np.eye(4)),
                images={"FLAIR": image + number},
                mask=None,
                source="growth",
            )
        cache = EmbeddingCache.of_model(Path(name) / "embeddings", model, "FLAIR")
        started = time.process_time()
        cache.fill(store, store, lambda _: None)
        for case in store:
            predict_automatic(model, OpenCase.of(model, store, cache, case))
        seconds = time.process_time() - started
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
