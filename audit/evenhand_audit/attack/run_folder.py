"""Attacks on what a finished run has left: its adapters, and the promise it trained under.

Real patients cannot be trained on again and again, so membership is attacked offline: the
losses of training and test patients under each adapter, and how they compare with the losses
under adapters that never saw these patients (other hospitals' own, and the phantoms' warm
start). Canaries and reconstruction use phantoms under the noise of the run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from evenhand.config import PRIVATE_ARM, ExperimentConfig
from evenhand.errors import UsageError
from evenhand.experiment.layout import RunFolder, build_model
from evenhand.model.adapted import AdaptedModel
from evenhand.model.adapter_files import load_onto
from evenhand.privacy.accounting import Mechanism
from evenhand.privacy.ledger_check import LedgerCopy
from evenhand.training.data import TrainingPatient, draw, load_patients
from evenhand.training.loop import loss_of
from evenhand.training.private import PrivacyPlan
from evenhand_audit.attack.membership import Membership, membership_of, offline_scores

__all__ = ["Promise", "attack_arms", "promise_of"]

DRAWS = 4
"""Batches over which a patient's loss is averaged."""

Key = tuple[str, str]
"""Hospital and patient."""


@dataclass(frozen=True)
class Promise:
    """The weakest hospital's promise in the private arm.

    Attributes:
        hospital: with the least noise.
        patients: of that hospital, in training.
        mechanism: all its steps.
        epsilon: that was asked for.
        delta: at which.
    """

    hospital: str
    patients: int
    mechanism: Mechanism
    epsilon: float
    delta: float


def promise_of(run: RunFolder) -> Promise:
    """Plan again what the private arm of a run has promised, from its public settings.

    Raises:
        UsageError: the run has no finished private arm.
    """
    config = run.config()
    if not run.arm(PRIVATE_ARM).adapter_path.exists():
        raise UsageError(
            f"'{run.path}' has no finished arm {PRIVATE_ARM}, so there is no promise to attack. "
            "Add it to the config's arms and run again, or attack phantoms: leave the run out."
        )
    promises = []
    for hospital, people in run.split().train.items():
        delta = _granted_delta(run, hospital)
        plan = PrivacyPlan.make(config.privacy, len(people), delta=delta, together=run.together())
        promises.append(
            Promise(
                hospital,
                len(people),
                plan.whole(config.privacy),
                config.privacy.epsilon,
                plan.delta,
            )
        )
    return min(promises, key=lambda each: each.mechanism.noise_multiplier)


def _granted_delta(run: RunFolder, hospital: str) -> float | None:
    """The delta under which the hospital's ledger stands; None where there is no ledger here."""
    site = run.hospital(hospital).site()
    if not site.ledger_path.exists():
        return None
    grant = LedgerCopy.read(site.ledger_path).state().grant
    return None if grant is None else grant.delta


def attack_arms(
    run: RunFolder, *, on_arm: Callable[[str], None] = lambda _: None
) -> dict[str, tuple[Membership, ...]]:
    """Membership inference against every trained adapter of a run.

    Returns:
        By arm (where parts stay: of what has left): the loss threshold, and the offline likelihood
        ratio where some adapter of the run has seen neither the arm's training patients nor the
        test patients.
    """
    config, split = run.config(), run.split()
    model = build_model(config)
    people = _people(run, model)
    members = _members(run)
    losses: dict[str, dict[Key, float]] = {}
    for arm in members:
        load_onto(run.arm(arm).adapter_path, model)
        losses[arm] = {key: _loss(model, config, each) for key, each in people.items()}
        on_arm(arm)
    tests = [(h, p) for h in split.hospitals for p in split.test[h]]
    found = {}
    for arm, used in members.items():
        if used:
            inside, outside = sorted(used), [key for key in tests if key not in used]
            found[_named(arm, config)] = _attack(arm, inside, outside, losses, members)
    return found


def _named(arm: str, config: ExperimentConfig) -> str:
    """An arm as the report calls it: where parts stay at hospitals, what has left is attacked."""
    parts = config.federation.local_parts
    return f"{arm} (only the part that leaves)" if arm == "federated" and parts else arm


def _attack(
    arm: str,
    inside: list[Key],
    outside: list[Key],
    losses: Mapping[str, Mapping[Key, float]],
    members: Mapping[str, frozenset[Key]],
) -> tuple[Membership, ...]:
    own = losses[arm]
    everybody = [*inside, *outside]
    target = [own[key] for key in everybody]
    scores = torch.tensor(target, dtype=torch.float64).neg().numpy()
    count = len(inside)
    attacks = [membership_of("loss threshold", scores[:count], scores[count:])]
    references = [
        [losses[other][key] for other in _strangers(arm, key, members)] for key in everybody
    ]
    if all(references):
        ratio = offline_scores(target, references)
        name = "likelihood ratio, offline"
        attacks.append(membership_of(name, ratio[:count], ratio[count:]))
    return tuple(attacks)


def _strangers(arm: str, key: Key, members: Mapping[str, frozenset[Key]]) -> list[str]:
    """Adapters that never saw this patient's hospital: the same kind for members and others."""
    hospital, _ = key
    return [
        other
        for other, used in members.items()
        if other != arm and all(place != hospital for place, _ in used)
    ]


def _members(run: RunFolder) -> dict[str, frozenset[Key]]:
    """Whom each trained adapter of the run was trained on; phantoms are nobody."""
    train = run.split().train
    everyone = frozenset((h, p) for h, people in train.items() for p in people)
    found: dict[str, frozenset[Key]] = {}
    for folder in run.arms():
        name = folder.path.name
        if not folder.adapter_path.exists():
            continue
        local = name.removeprefix("local-")
        if name == "warm-start":
            found[name] = frozenset()
        elif name != local and local in train:
            found[name] = frozenset((local, p) for p in train[local])
        else:
            found[name] = everyone
    return found


def _people(run: RunFolder, model: AdaptedModel) -> dict[Key, TrainingPatient]:
    sequence, split = run.config().data.sequences[0], run.split()
    found = {}
    for home in run.hospitals():
        wanted = [*split.train[home.name], *split.test[home.name]]
        cache = home.cache(model, sequence)
        for each in load_patients(home.store(), cache, wanted, model):
            found[home.name, each.patient_id] = each
    return found


@torch.no_grad()
def _loss(model: AdaptedModel, config: ExperimentConfig, patient: TrainingPatient) -> float:
    """Loss over a few draws, the same ones under every adapter."""
    generator = torch.Generator().manual_seed(0)
    total = 0.0
    for _ in range(DRAWS):
        batch = draw(
            patient, config.training, generator, image_size=model.config.image_size,
            slices_at_most=config.privacy.slices_per_patient,
        )  # fmt: skip
        total += float(loss_of(model, batch))
    return total / DRAWS
