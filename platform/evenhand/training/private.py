"""Private training: patient-level DP-SGD, for one hospital and one piece of a run."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from evenhand.config import PrivacyConfig, TrainingConfig
from evenhand.errors import DataError
from evenhand.model.adapted import AdaptedModel
from evenhand.privacy.accounting import Mechanism, default_delta, noise_for
from evenhand.privacy.ledger import Ledger, Spending
from evenhand.privacy.step import PrivateStep, poisson_sample
from evenhand.training.data import TrainingPatient, draw
from evenhand.training.loop import loss_of

__all__ = ["PrivacyPlan", "train_private"]


@dataclass(frozen=True)
class PrivacyPlan:
    """The noise with which one hospital reaches its epsilon over the whole run."""

    delta: float
    mechanism_of_round: Mechanism

    @classmethod
    def make(cls, config: PrivacyConfig, patients: int) -> "PrivacyPlan":
        """Plan for `patients` training patients; their number is public, agreed in the study."""
        delta = config.delta if config.delta is not None else default_delta(patients)
        steps = config.rounds * config.steps_per_round
        noise = noise_for(config.epsilon, delta, config.sampling_rate, steps)
        return cls(delta, Mechanism(config.sampling_rate, noise, config.steps_per_round))


def train_private(
    model: AdaptedModel,
    patients: Sequence[TrainingPatient],
    privacy: PrivacyConfig,
    training: TrainingConfig,
    *,
    learning_rate: float,
    ledger: Ledger,
    purpose: str,
    advance: Callable[[int], None] = lambda _: None,
) -> Spending:
    """Charge one round to the ledger, then take its private steps.

    The charge comes first: if the process dies in between, too much was charged, never
    too little. No loss is returned: it would be a release of its own.

    Args:
        model: its adapter is changed in place.
        patients: of this hospital.
        privacy: epsilon, sampling and clipping.
        training: batch composition and jitter.
        learning_rate: of the plain gradient steps.
        ledger: of this hospital; gets its grant on first use.
        purpose: what the charge is for, in words.
        advance: told 1 after each step.

    Raises:
        BudgetError: the ledger refuses; the model is unchanged.
        DataError: there is no patient; nothing is charged.
    """
    if not patients:
        raise DataError("There is no patient to train on; lower data.test_fraction or add cases.")
    plan = PrivacyPlan.make(privacy, len(patients))
    if ledger.spent() is None:  # what the hospital has granted before is not ours to change
        ledger.grant(privacy.epsilon, plan.delta)
    spending = ledger.charge(plan.mechanism_of_round, purpose)
    parameters = list(model.choose_trainable(privacy.trainable).values())
    step = PrivateStep(
        parameters,
        torch.optim.SGD(parameters, lr=learning_rate, momentum=0.0),
        noise_multiplier=plan.mechanism_of_round.noise_multiplier,
        clip_norm=privacy.clip_norm,
        expected_patients=privacy.sampling_rate * len(patients),
    )
    generator = torch.Generator().manual_seed(secrets.randbits(63))
    model.train()
    for _ in range(plan.mechanism_of_round.steps):
        step(
            poisson_sample(patients, privacy.sampling_rate),
            lambda patient: loss_of(
                model,
                draw(
                    patient,
                    training,
                    generator,
                    image_size=model.config.image_size,
                    slices_at_most=privacy.slices_per_patient,
                ),
            ),
        )
        advance(1)
    model.eval()
    return spending
