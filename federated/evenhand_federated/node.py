"""A hospital's side of the work, without Flower: what is done with a message's content.

The hospital reads its own store, its own split and its own copy of the experiment;
of a message it takes the adapter and the number of the round. What its site policy does not
allow is refused before any data is touched.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from evenhand.config import PRIVATE_ARM, ExperimentConfig, Precision, TrainingConfig
from evenhand.errors import FederationError
from evenhand.experiment.layout import HospitalHome, RunFolder, build_model
from evenhand.model.adapted import AdaptedModel
from evenhand.privacy.ledger_check import write_receipt
from evenhand.privacy.policy import Proposal, SitePolicy
from evenhand.privacy.secure_sum import Together
from evenhand.training import drift as drifting
from evenhand.training import personal
from evenhand.training.data import TrainingPatient, load_patients
from evenhand.training.loop import Schedule, train
from evenhand.training.moments import read_moments, write_moments
from evenhand.training.private import Study, train_private
from evenhand_federated.orders import (
    SIMULATION_VARIABLE,
    RoundOrder,
    precision_of,
    rounds_of,
)

__all__ = ["HospitalNode", "trained_and_leaving"]


@dataclass(frozen=True)
class _Kept:
    """What a hospital kept after a round; number 0 and None: nothing."""

    number: int
    tensors: dict[str, Tensor] | None


@dataclass(frozen=True)
class HospitalNode:
    """One federation member and everything it may see.

    Attributes:
        home: its own place.
        config: its own copy of the experiment.
        train_patients: of its own.
        together: with whom it shares noise under `secure-sum`, and who adds up; None: nobody
            adds up unseen, so such a study is refused.
        digest: of the signed study, under which its charges are counted together: its name may
            be another study's too. Empty in a simulation, which signs none.
    """

    home: HospitalHome
    config: ExperimentConfig
    train_patients: tuple[str, ...]
    together: Together | None = None
    digest: str = ""

    @classmethod
    def of_partition(cls, partition: int) -> "HospitalNode":
        """The hospital that a simulated SuperNode stands for.

        Raises:
            FederationError: no simulation is set up, or it has fewer hospitals.
        """
        folder = os.environ.get(SIMULATION_VARIABLE)
        if not folder:
            raise FederationError(f"{SIMULATION_VARIABLE} is not set: no run folder to serve.")
        run = RunFolder(Path(folder))
        split = run.split()
        if partition >= len(split.hospitals):
            raise FederationError(
                f"SuperNode {partition} has no hospital; the run has {len(split.hospitals)}."
            )
        name = split.hospitals[partition]
        return cls(run.hospital(name), run.config(), split.train[name], run.together())

    def train_round(
        self, order: RoundOrder, state: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, float | int]]:
        """Train one round from the common adapter.

        Args:
            order: which round.
            state: the common adapter, without the parts that stay at hospitals.

        Returns:
            The hospital's adapter without what stays here, and those figures that the site
            policy lets leave: patients always; seconds and losses without privacy; epsilon and
            delta with it.

        Raises:
            FederationError: the order is for an arm or a round that this hospital's own
                copy of the experiment does not have, or `state` has parts that stay at
                hospitals; nothing is trained.
            PolicyError: the site policy does not allow it; no data was touched.
            BudgetError: the ledger refuses.
        """
        started = time.monotonic()
        rounds = rounds_of(self.config, order.arm)
        if not 1 <= order.round <= rounds:
            raise FederationError(
                f"Round {order.round} of {order.arm} was asked for; it has {rounds}."
            )
        model = _model(self.config.model_dump_json())
        policy = self._allowed(order.arm, model)
        kept = self._kept(order)
        model.load_adapter(self._whole(state, kept))
        patients = _patients(self.home, self.train_patients, self.config.model_dump_json())
        figures: dict[str, float | int] = {"patients": len(patients)}
        if order.arm == PRIVATE_ARM:
            figures |= self._train_private(order, model, patients, policy)
        else:
            figures |= self._train_openly(order, model, patients, state, kept)
            figures["seconds"] = time.monotonic() - started
        leaving = personal.shared_part(model.adapter_state(), self._local_parts)
        return leaving, policy.allowed_figures(figures)

    def precision(self, arm: str) -> Precision:
        """In which the numbers of an arm travel."""
        return precision_of(self.config, arm)

    def what_stayed(self) -> str:
        """For the hospital's log, behind what was sent."""
        parts = self._local_parts
        return f"; what matches {', '.join(parts)} stayed here" if parts else ""

    @property
    def _local_parts(self) -> tuple[str, ...]:
        return self.config.federation.local_parts

    def _kept(self, order: RoundOrder) -> "_Kept":
        """What this hospital kept of the last round before this one in which it took part."""
        earlier = [one for one in self.home.rounds_kept(order.arm) if one < order.round]
        if not earlier:
            return _Kept(0, None)
        return _Kept(earlier[-1], read_moments(self.home.moments_path(order.arm, earlier[-1])))

    def _whole(self, state: Mapping[str, Tensor], kept: "_Kept") -> dict[str, Tensor]:
        """The common adapter with this hospital's own part."""
        if not self._local_parts:
            return dict(state)
        if any(personal.stays(name, self._local_parts) for name in state):
            raise FederationError("Parts of the adapter that stay at hospitals came; refused.")
        own = personal.own_part(kept.tensors) or _first_own_part(self.config.model_dump_json())
        return {**state, **own}

    def _train_openly(
        self,
        order: RoundOrder,
        model: AdaptedModel,
        patients: list[TrainingPatient],
        state: Mapping[str, Tensor],
        kept: "_Kept",
    ) -> dict[str, float | int]:
        """Train without privacy, and keep here what the next round starts from; the losses."""
        federation, rounds = self.config.federation, rounds_of(self.config, order.arm)
        schedule = Schedule(
            self.config.training.learning_rate,
            start=(order.round - 1) / rounds,
            end=order.round / rounds,
        )
        drift = None
        if federation.strategy == "scaffold":
            steady = order.steady if kept.number == order.round - 1 else 0
            drift = drifting.learn(kept.tensors, state, steady=steady, mean_rate=schedule.mean())
        report = train(
            model,
            patients,
            self._steps_here(),
            epochs=federation.local_epochs,
            schedule=schedule,
            seed=_seed_of(self.config.seed, self.home.name, order.round, self._own_to),
            proximal=federation.proximal if federation.strategy == "fedprox" else 0.0,
            moments=kept.tensors,
            drift=drift,
            free=self._local_parts,
        )
        after = model.adapter_state()
        keep = report.moments | personal.as_kept(after, self._local_parts)
        if drift is not None:
            shared = {name: after[name] for name in state}
            keep |= drifting.as_kept(drift, shared, schedule.mean())
        write_moments(self.home.moments_path(order.arm, order.round), keep)
        # What this round started from is kept: it may have to be run again.
        for number in self.home.rounds_kept(order.arm):
            if number < kept.number:
                self.home.moments_path(order.arm, number).unlink(missing_ok=True)
        return {"first_loss": report.first_loss, "last_loss": report.last_loss}

    @property
    def _own_to(self) -> str:
        """What draws depend on besides: in a hidden study on its digest.

        Two studies of all hospitals but one must not get the same numbers of the others: the
        difference of their sums would be the update of that one.
        """
        return self.digest if self.config.federation.secure_sum else ""

    def _steps_here(self) -> TrainingConfig:
        """How steps are made up at a hospital."""
        training, patients = self.config.training, self.config.federation.patients_per_step
        return training.model_copy(update={"patients_per_step": patients}) if patients else training

    def _allowed(self, arm: str, model: AdaptedModel) -> SitePolicy:
        """The site policy, once it has been asked."""
        policy = self.home.site().policy()
        tensors, leaving = trained_and_leaving(self.config, arm, model)
        proposal = Proposal.of(
            self.config,
            arm,
            hospital=self.home.name,
            patients=len(self.train_patients),
            tensors=tensors,
            leaving=leaving,
            carrier=self.together.carrier if self.together else None,
        )
        policy.check(proposal)
        return policy

    def _train_private(
        self,
        order: RoundOrder,
        model: AdaptedModel,
        patients: list[TrainingPatient],
        policy: SitePolicy,
    ) -> dict[str, float | int]:
        """Charge and train; what it cost this study, which depends on no patient's data."""
        site = self.home.site()
        study = Study(
            name=f"{self.config.name} {order.arm} {self.digest}".rstrip(),
            cohort=self.home.cohort(self.train_patients, self.config.data.sequences[0]),
            policy=policy,
            keep=lambda receipt: write_receipt(self.home.receipts_path, receipt),
            together=self.together,
        )
        spending = train_private(
            model,
            patients,
            self.config.privacy,
            self.config.training,
            learning_rate=self.config.privacy.learning_rate,
            ledger=site.ledger(),
            purpose=f"round {order.round}",
            study=study,
        )
        # No seconds: how long it took tells how many patients were drawn. Nor what these
        # patients were used for in other studies: that is the ledger's business, and stays.
        return {"epsilon": spending.epsilon, "delta": spending.delta}


def trained_and_leaving(
    config: ExperimentConfig, arm: str, model: AdaptedModel
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the tensors that an arm trains, and of those that leave after it."""
    patterns = config.privacy.trainable if arm == PRIVATE_ARM else ("*",)
    leaving = personal.shared_part(model.adapter_state(), config.federation.local_parts)
    return tuple(model.choose_trainable(patterns)), tuple(leaving)


def _seed_of(seed: int, hospital: str, number: int, own_to: str) -> int:
    """A seed of its own for each hospital and round, the same on every machine."""
    import hashlib

    text = f"{seed}/{hospital}/{number}" + (f"/{own_to}" if own_to else "")
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:7], "big")


@lru_cache(maxsize=4)
def _patients(
    home: HospitalHome, names: tuple[str, ...], config_json: str
) -> list[TrainingPatient]:
    # A simulation's worker serves many rounds of a few hospitals, whose cases do not change.
    config, model = ExperimentConfig.model_validate_json(config_json), _model(config_json)
    cache = home.cache(model, config.data.sequences[0])
    return load_patients(home.store(), cache, names, model)


@lru_cache(maxsize=1)
def _first_own_part(config_json: str) -> dict[str, Tensor]:
    """Where every hospital's own part starts: as the adapter that the config's seed gives."""
    config = ExperimentConfig.model_validate_json(config_json)
    kept = personal.as_kept(build_model(config).adapter_state(), config.federation.local_parts)
    return personal.own_part(kept)


@lru_cache(maxsize=1)
def _model(config_json: str) -> AdaptedModel:
    # One worker process serves many messages; the frozen backbone is loaded once in it.
    return build_model(ExperimentConfig.model_validate_json(config_json))
