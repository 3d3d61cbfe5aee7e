"""Dice over five folds by patient: the adapter beside what a user would pick instead.

Folds are stratified by hospital. A test fold is seen by no training and no threshold (0.5
everywhere); settings were chosen before, on some of these patients (docs/results/model.md). Each
row and fold leaves one JSON file in OUT, so a stopped run goes on where it was.

    evenhand run configs/lgg-folds.toml --set data.source=PATH --out RUN \
        --set 'data.sequences=["FLAIR","ce-gd_T1w"]' --set 'data.may_lack=["ce-gd_T1w"]'
    python benchmarks/model_folds.py RUN OUT --row adapter            # all five folds
    python benchmarks/model_folds.py RUN OUT --row unet --fold 0      # one of them
    python benchmarks/model_folds.py RUN OUT --table

Where the config has [warm_start], every row with a prompt head starts from phantoms; what they
taught stays in OUT. Rows: adapter (as configs/lgg-folds.toml says), from-nothing (the same without
that start), prompted (the head told a box or a neighbour's
mask on every slice), two-sequences (the head also sees the contrast-enhanced T1w;
`union`: what it finds with or without it), unet (MONAI's, from scratch, for --seconds of the
processor), decoder-lora and decoder (box prompts to SAM's mask decoder,
low-rank or all of it trained), no-embedding (the head without the foundation model), few-N (N
training patients), without-HOSPITAL (trained on the others, tested on all its patients).
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import model_tables
import numpy as np
import torch
from monai.networks.nets import UNet
from phantom_start import begin_with_phantoms
from torch import nn

from evenhand.cases.records import Case
from evenhand.config import ExperimentConfig
from evenhand.config_files import load_config
from evenhand.experiment.layout import HospitalHome, RunFolder, build_model
from evenhand.metrics import logit_counts, score_case
from evenhand.model.adapted import AdaptedModel
from evenhand.model.preprocessing import with_neighbours
from evenhand.predict import (
    OpenCase,
    Prediction,
    boxes_from_reference,
    predict_automatic,
    predict_boxes,
    predict_from_slice,
    predict_hinted_boxes,
    without_specks,
)
from evenhand.training.data import Batch, TrainingPatient, draw, load_patients
from evenhand.training.loop import Schedule, train
from evenhand.training.loss import mask_loss

FOLDS = 5


@dataclass(frozen=True)
class Task:
    """One fold of one row: who trains, who tests, with which settings."""

    config: ExperimentConfig
    model: AdaptedModel
    patients: list[TrainingPatient]
    tests: list[tuple[HospitalHome, Case]]


def main() -> None:
    """Train and test what is asked for, or print the table of what was."""
    asked = _arguments()
    if asked.table:
        print(model_tables.table(asked.out))
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    folds = [0] if asked.row.startswith("without-") else range(FOLDS)
    for fold in folds if asked.fold is None else [asked.fold]:
        path = asked.out / f"{asked.row}-{fold}.json"
        if not path.exists():
            path.write_text(json.dumps(_result(asked, fold), indent=1))
        print(model_tables.line(path), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder with stores and embeddings")
    parser.add_argument("out", type=Path, help="where results go")
    parser.add_argument("--row", default="adapter")
    parser.add_argument("--fold", type=int, choices=range(FOLDS))
    parser.add_argument("--config", type=Path, default=Path("configs/lgg-folds.toml"))
    parser.add_argument("--set", action="append", default=[], help="as in evenhand run")
    parser.add_argument("--seconds", type=float, default=300, help="of the processor, for unet")
    parser.add_argument("--table", action="store_true", help="print what OUT holds")
    return parser.parse_args()


def _result(asked: argparse.Namespace, fold: int) -> dict[str, object]:
    row, settings = asked.row, list(asked.set)
    if row == "two-sequences":
        settings += ['data.sequences=["FLAIR","ce-gd_T1w"]', 'data.may_lack=["ce-gd_T1w"]']
        settings += ["training.sequence_dropout=0.3"]
    if row == "prompted":
        settings += ["model.head_hints=true", "training.box_hints=0.5", "training.mask_hints=0.5"]
    if row in ("from-nothing", "decoder-lora", "decoder", "no-embedding", "two-sequences"):
        settings += ["warm_start.phantoms=0"]
    if row in ("decoder-lora", "decoder"):
        settings += ["model.head=none", "model.head_hints=false", "model.decoder_lora_rank=4"]
        settings += ["training.box_share=1.0", "training.epochs=40"]
    config = load_config(asked.config, settings)
    task = _task(RunFolder(asked.run), config, row, fold)
    started = time.process_time()
    if row == "unet":
        predict, trained = _train_unet(task, asked.seconds)
    else:
        if config.warm_start.phantoms:
            begin_with_phantoms(task.model, config, asked.out)
        trained = _train_adapter(task, row)
        predict = _adapter_prompts(task.model)
    seconds = time.process_time() - started
    cases = [one for home, case in task.tests for one in _judge(task, home, case, predict)]
    return {
        "row": row,
        "fold": fold,
        "train_patients": len(task.patients),
        "trained": trained,
        "seconds": seconds,
        "cases": cases,
    }


def _task(run: RunFolder, config: ExperimentConfig, row: str, fold: int) -> Task:
    model = build_model(config)
    patients: list[TrainingPatient] = []
    tests: list[tuple[HospitalHome, Case]] = []
    for home in run.hospitals():
        cases = list(home.store())
        names = _ordered({case.patient.patient_id for case in cases})
        if row.startswith("without-"):
            judged = set(names) if home.name == row.removeprefix("without-") else set()
        else:
            judged = set(names[fold::FOLDS])
        others = [name for name in names if name not in judged]
        cache = home.cache(model, config.data.sequences[0])
        patients += load_patients(home.store(), cache, others, model)
        tests += [(home, case) for case in cases if case.patient.patient_id in judged]
    if row.startswith("few-"):
        kept = _ordered({one.patient_id for one in patients})[: int(row.removeprefix("few-"))]
        patients = [one for one in patients if one.patient_id in kept]
    return Task(config, model, patients, tests)


def _ordered(names: set[str]) -> list[str]:
    """Shuffled, the same each time."""
    return sorted(names, key=lambda name: hashlib.sha256(f"fold/{name}".encode()).hexdigest())


def _train_adapter(task: Task, row: str) -> int:
    """Train in place; return how many numbers were trained."""
    model, training = task.model, task.config.training
    if row == "no-embedding" and model.head is not None:
        nn.init.zeros_(model.head.project.weight)
        patients = [_blind(one) for one in task.patients]
    else:
        patients = task.patients
    if row == "decoder":
        every = dict(model.backbone.mask_decoder.named_parameters())
        model.choose_trainable = lambda _patterns=("*",): _awake(every)  # type: ignore[method-assign]
    train(
        model,
        patients,
        training,
        epochs=training.epochs,
        schedule=Schedule(training.learning_rate if row != "decoder" else 1e-4),
        seed=task.config.seed,
    )
    return sum(p.numel() for p in model.choose_trainable().values())


def _awake(parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    for one in parameters.values():
        one.requires_grad_(requires_grad=True)
    return parameters


def _blind(patient: TrainingPatient) -> TrainingPatient:
    """The same patient, of whom the foundation model says nothing."""
    cases = tuple(replace(one, hidden=np.zeros_like(one.hidden)) for one in patient.cases)
    return replace(patient, cases=cases)


Prompts = Callable[[OpenCase, np.ndarray, int], Iterator[tuple[str, Prediction]]]


def _adapter_prompts(model: AdaptedModel) -> Prompts:
    def ask(case: OpenCase, reference: np.ndarray, seed: int) -> Iterator[tuple[str, Prediction]]:
        boxes = boxes_from_reference(reference, jitter=5, seed=seed)
        if model.head is None:
            yield "box", predict_boxes(model, case, boxes)
            return
        if model.head.hints:
            yield "box", predict_hinted_boxes(model, case, boxes)
            z = int((boxes[:, 2:] - boxes[:, :2]).nan_to_num().prod(1).argmax())
            yield "slice", predict_from_slice(model, case, z=z, box=boxes[z])
            return
        whole = predict_automatic(model, case)
        yield "automatic", whole
        if len(model.sequences) > 1:
            alone = case.slices.clone()
            alone[:, 1:] = 0
            first = predict_automatic(model, replace(case, slices=alone))
            either = np.maximum(whole.probability, first.probability)
            mask = (either > 0.5).astype(np.uint8)
            yield "union", Prediction(without_specks(mask, 0.3), either)

    return ask


def _train_unet(task: Task, budget_s: float) -> tuple[Prompts, int]:
    """MONAI's U-Net on the same slices, moves and loss, for a number of processor seconds."""
    config = task.config.training
    channels = 3 * len(task.config.data.sequences)
    torch.manual_seed(task.config.seed)
    net = UNet(
        spatial_dims=2,
        in_channels=channels,
        out_channels=1,
        channels=(16, 32, 64, 128, 256),
        strides=(2, 2, 2, 2),
        num_res_units=2,
        norm="instance",
    )
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=config.weight_decay)
    generator = torch.Generator().manual_seed(task.config.seed)
    patients = [
        replace(
            one,
            cases=tuple(
                replace(c, hidden=np.zeros((len(c.masks), 1, 2, 2), np.float16)) for c in one.cases
            ),
        )
        for one in task.patients
    ]
    started, step = time.process_time(), 0
    while (spent := (time.process_time() - started) / budget_s) < 1:
        order = torch.randperm(len(patients), generator=generator)[: config.patients_per_step]
        size = task.config.model.image_size
        parts = [draw(patients[i], config, generator, image_size=size) for i in order.tolist()]
        batch = Batch.join(parts)
        for group in optimiser.param_groups:
            group["lr"] = Schedule(1e-3).at(spent)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = net(batch.slices)[:, 0]
        loss = mask_loss(logits.float(), batch.masks)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
    net.eval()
    print(f"unet: {step} steps", flush=True)

    @torch.inference_mode()
    def ask(case: OpenCase, _reference: np.ndarray, _: int) -> Iterator[tuple[str, Prediction]]:
        parts = [
            case.square.invert(net(with_neighbours(case.slices, index))[:, 0])
            for index in torch.split(torch.arange(case.depth), 8)
        ]
        found = Prediction.from_logits(torch.cat(parts), threshold=0.5)
        mask = without_specks(found.mask, task.config.model.smallest_component)
        yield "automatic", Prediction(mask, found.probability)

    return ask, sum(p.numel() for p in net.parameters())


def _judge(
    task: Task, home: HospitalHome, case: Case, prompts: Prompts
) -> Iterator[dict[str, object]]:
    store = home.store()
    reference = store.volumes(case, ()).mask
    if reference is None:
        return
    cache = home.cache(task.model, task.config.data.sequences[0])
    opened = OpenCase.of(task.model, store, cache, case)
    seed = int((case.mask_sha256 or "0")[:8], 16)
    for prompt, found in prompts(opened, reference, seed):
        score = score_case(found.mask, reference, spacing=(1.0, 1.0, 1.0), nsd_tolerance=2.0)
        yield {
            "case": case.case_id,
            "hospital": home.name,
            "prompt": prompt,
            "dice": score.dice,
            "hd95": score.hd95,
            "nsd": score.nsd,
            "lesion_f1": score.lesions.f1,
            "uncertainty": found.uncertainty,
            "histogram": logit_counts(found.probability, reference).tolist(),
        }


if __name__ == "__main__":
    main()
