"""What privacy costs in time: a private epoch over a plain one, the same adapter and slices.

Usage: python benchmarks/private_epoch.py [PATIENTS] [PAIRS]

Phantom activations and random weights: time does not depend on what is in them. Plain and
private epochs take turns, so that a busy machine slows both. A private epoch is as many
steps as a plain one; that Poisson draws another number of patients is taken out by counting
seconds a patient. Expected: a ratio of at most 1.2.
"""

import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit"))

from small_models import small_model, toy_case

from evenhand.config import TrainingConfig
from evenhand.model.adapted import AdaptedModel
from evenhand.privacy.noise import discrete_gaussian
from evenhand.privacy.step import PrivateStep
from evenhand.training.data import TrainingPatient, draw
from evenhand.training.loop import Schedule, loss_of, train

TRAINING = TrainingConfig(tumour_slices=6, other_slices=6, patients_per_step=4)
SLICES = TRAINING.tumour_slices + TRAINING.other_slices


def plain_s(model: AdaptedModel, patients: list[TrainingPatient]) -> float:
    """Seconds a patient of an epoch without privacy."""
    started = time.perf_counter()
    train(model, patients, TRAINING, epochs=1, schedule=Schedule(1e-3), seed=0)
    return (time.perf_counter() - started) / len(patients)


def private_s(model: AdaptedModel, patients: list[TrainingPatient]) -> float:
    """Seconds a patient of as many private steps, at a rate that expects as many patients."""
    parameters = list(model.choose_trainable().values())
    generator = torch.Generator().manual_seed(0)
    rate = TRAINING.patients_per_step / len(patients)
    step = PrivateStep(
        parameters,
        torch.optim.SGD(parameters, lr=1e-3),
        noise_multiplier=1.0,
        clip_norm=1.0,
        expected_patients=TRAINING.patients_per_step,
    )
    drawn = 0
    model.train()
    started = time.perf_counter()
    for _ in range(-(-len(patients) // TRAINING.patients_per_step)):

        def slices(patient: TrainingPatient, at_most: int) -> object:
            nonlocal drawn
            drawn += 1
            size = model.config.image_size
            return draw(patient, TRAINING, generator, image_size=size, slices_at_most=at_most)

        step.sampled(
            patients,
            rate=rate,
            slices_at_most=SLICES,
            draw=slices,
            loss=lambda batch: loss_of(model, batch),
            count=lambda batch: len(batch.masks),
        )
    return (time.perf_counter() - started) / max(1, drawn)


def main() -> None:
    """Epochs in turns, then medians."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    pairs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    model = small_model()
    patients = [
        TrainingPatient(f"p{n}", (toy_case(model, n, depth=16, tumours=tuple(range(4, 12))),))
        for n in range(count)
    ]
    plain_s(model, patients[:4])  # the first one warms up
    plain, private = [], []
    for _ in range(pairs):
        plain.append(plain_s(model, patients))
        private.append(private_s(model, patients))
    numbers = sum(parameter.numel() for parameter in model.choose_trainable().values())
    started = time.perf_counter()
    discrete_gaussian(500_000)
    noise_s = time.perf_counter() - started
    ratio = statistics.median(private) / statistics.median(plain)
    print(f"{count} patients of {SLICES} slices, {numbers} trained numbers, {pairs} pairs")
    print(f"plain    {1000 * statistics.median(plain):7.1f} ms a patient")
    print(f"private  {1000 * statistics.median(private):7.1f} ms a patient")
    print(f"ratio    {ratio:7.3f} (at most 1.2 is wanted)")
    print(f"noise for 500,000 numbers: {noise_s:.3f} s")


if __name__ == "__main__":
    main()
