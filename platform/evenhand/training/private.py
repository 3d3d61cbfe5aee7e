"""Private training: patient-level DP-SGD, for one hospital and one piece of a run."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from evenhand.config import PrivacyConfig, TrainingConfig
from evenhand.errors import DataError, PrivacyError
from evenhand.model.adapted import AdaptedModel
from evenhand.privacy.accounting import Mechanism, default_delta, noise_for
from evenhand.privacy.cohort import Cohort
from evenhand.privacy.ledger import Ledger, Receipt, Spending
from evenhand.privacy.policy import SitePolicy, open_policy
from evenhand.privacy.secure_sum import NoiseShare, Together, noise_share, require_trust
from evenhand.privacy.step import PrivateStep
from evenhand.training.data import Batch, TrainingPatient, draw
from evenhand.training.loop import loss_of
from evenhand.training.patient_weights import read_patient_shares

__all__ = ["PrivacyPlan", "Study", "grant_from_config", "train_private"]


@dataclass(frozen=True)
class PrivacyPlan:
    """The noise with which one hospital reaches its epsilon over the whole run.

    Attributes:
        delta: of the promise.
        mechanism_of_round: what is charged: the noise that whoever sees results has before them.
        shared: how the noise comes about under `secure-sum`; None under `local`.
    """

    delta: float
    mechanism_of_round: Mechanism
    shared: NoiseShare | None = None

    @property
    def added_noise(self) -> float:
        """Noise multiplier that this hospital adds."""
        return self.shared.share if self.shared else self.mechanism_of_round.noise_multiplier

    @classmethod
    def make(
        cls,
        config: PrivacyConfig,
        patients: int,
        *,
        delta: float | None = None,
        together: Together | None = None,
    ) -> "PrivacyPlan":
        """Plan for `patients` training patients; their number is public, agreed in the study.

        Args:
            config: epsilon, sampling and rounds.
            patients: of the cohort.
            delta: what the hospital has granted; None where nothing was granted yet.
            together: with whom noise is shared; needed under `secure-sum`, else without effect.

        Raises:
            PrivacyError: delta is no promise for so few patients, or not the granted one; or
                noise was to be shared with nobody.
        """
        if config.trust == "secure-sum":
            if together is None or together.patients < patients:
                raise PrivacyError(
                    "privacy.trust = 'secure-sum' shares noise among hospitals, but it is not "
                    "known with how many, or with how many patients. Take trust = 'local'."
                )
            patients = together.patients
        wanted = config.delta
        if wanted is not None and delta is not None and wanted != delta:
            raise PrivacyError(
                f"privacy.delta is {wanted:g}, but the hospital's ledger keeps {delta:g} for all "
                "its studies. Leave privacy.delta out, or have the ledger's lowered: "
                "evenhand ledger grant"
            )
        chosen = next(one for one in (wanted, delta, default_delta(patients)) if one is not None)
        if chosen * patients >= 1:
            raise PrivacyError(
                f"Delta {chosen:g} is at least 1 / {patients}, one in as many as there are "
                "patients: publishing somebody's data outright would count as private. Take a "
                "smaller privacy.delta, or have the ledger's lowered: evenhand ledger grant"
            )
        steps = config.rounds * config.steps_per_round
        noise = noise_for(config.epsilon, chosen, config.sampling_rate, steps)
        shared = None
        if config.trust == "secure-sum" and together is not None:
            hospitals = together.hospitals
            shared = noise_share(noise, hospitals=hospitals, tolerated=config.tolerated)
        mechanism = Mechanism(config.sampling_rate, noise, config.steps_per_round)
        return cls(chosen, mechanism, shared)

    def whole(self, config: PrivacyConfig) -> Mechanism:
        """All steps of all rounds."""
        return replace(self.mechanism_of_round, steps=config.rounds * config.steps_per_round)


@dataclass(frozen=True)
class Study:
    """What a piece of training belongs to, at one hospital.

    Attributes:
        name: under which its charges are counted together.
        cohort: its patients; None counts for every patient of the ledger.
        policy: of the hospital.
        keep: told the receipt of the charge before any patient is looked at.
        together: with whom noise is shared, and who adds up.
    """

    name: str = ""
    cohort: Cohort | None = None
    policy: SitePolicy | None = None
    keep: Callable[[Receipt], None] = lambda _: None
    together: Together | None = None


def grant_from_config(
    ledger: Ledger,
    privacy: PrivacyConfig,
    patients: int,
    policy: SitePolicy,
    together: Together | None = None,
) -> PrivacyPlan:
    """Plan under the hospital's grant; the config grants where nobody has and it may.

    Raises:
        PrivacyError: see `PrivacyPlan.make`.
        PolicyError: delta or epsilon is more than the site policy allows.
    """
    grant = ledger.state().grant
    delta = grant.delta if grant else None
    plan = PrivacyPlan.make(privacy, patients, delta=delta, together=together)
    policy.check_budget(ledger.hospital, privacy.epsilon, plan.delta)
    # What the hospital has granted before is not ours to change.
    if grant is None and policy.grants.from_config:
        ledger.grant(privacy.epsilon, plan.delta, by="config", reason="first use")
    return plan


def train_private(
    model: AdaptedModel,
    patients: Sequence[TrainingPatient],
    privacy: PrivacyConfig,
    training: TrainingConfig,
    *,
    learning_rate: float,
    ledger: Ledger,
    purpose: str,
    study: Study | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Spending:
    """Charge one round to the ledger, then take its private steps.

    The charge comes first: if the process dies in between, too much was charged, never
    too little. No loss is returned: it would be a release of its own.

    Args:
        model: its adapter is changed in place.
        patients: of this hospital, each person once.
        privacy: epsilon, sampling and clipping.
        training: batch composition and jitter.
        learning_rate: of the plain gradient steps.
        ledger: of this hospital.
        purpose: what the charge is for, in words.
        study: what it belongs to; None: no study, all patients, everything allowed.
        advance: told 1 after each step.

    Returns:
        What the study has spent with it.

    Raises:
        BudgetError: the ledger refuses; the model is unchanged.
        DataError: there is no patient, or a table of shares does not fit; nothing is charged.
        PolicyError: fewer patients are left than the site policy wants; nothing is charged.
        PrivacyError: nothing was granted, the plan makes no promise, or a share of the noise
            would be all that stands between a patient and the coordinator; nothing is charged.
    """
    if not patients:
        raise DataError("There is no patient to train on; lower data.test_fraction or add cases.")
    if len({patient.patient_id for patient in patients}) < len(patients):
        raise DataError("A patient stands twice among those to train on, and would count twice.")
    study = study or Study()
    trust = require_trust(privacy.trust, study.together, privacy.tolerated)
    policy = study.policy or open_policy()
    # The split may name some who have no case left: those who are trained on count.
    policy.check_cohort(ledger.hospital, len(patients))
    plan = grant_from_config(ledger, privacy, len(patients), policy, study.together)
    mechanism = plan.mechanism_of_round
    parameters = list(model.choose_trainable(privacy.trainable).values())
    share = read_patient_shares(privacy.patient_shares, [one.patient_id for one in patients])
    study.keep(
        ledger.charge(mechanism, purpose, study=study.name, cohort=study.cohort, trust=trust)
    )
    step = PrivateStep(
        parameters,
        torch.optim.SGD(parameters, lr=learning_rate, momentum=0.0),
        noise_multiplier=plan.added_noise,
        clip_norm=privacy.clip_norm,
        expected_patients=privacy.sampling_rate * len(patients),
        share=lambda patient: share[patient.patient_id],
    )
    generator = torch.Generator().manual_seed(secrets.randbits(63))

    def slices(patient: TrainingPatient, at_most: int) -> Batch:
        return draw(
            patient,
            training,
            generator,
            image_size=model.config.image_size,
            hints=model.config.head_hints,
            slices_at_most=at_most,
        )

    model.train()
    for _ in range(mechanism.steps):
        step.sampled(
            patients,
            rate=mechanism.sampling_rate,
            slices_at_most=privacy.slices_per_patient,
            draw=slices,
            loss=lambda batch: loss_of(model, batch),
            count=lambda batch: len(batch.masks),
        )
        advance(1)
    model.eval()
    spending = ledger.spent(study.name)
    if spending is None:
        raise PrivacyError(f"The grant of hospital {ledger.hospital} is gone; nothing may leave.")
    return spending
