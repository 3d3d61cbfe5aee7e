"""Checks of what surrounds the private step: the training that uses it, and the ledger.

A right step can be used wrongly: patients drawn by other means, another noise than the one
that was charged, more steps than were paid for, a ledger that each run begins anew.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evenhand.config import PrivacyConfig, TrainingConfig
from evenhand.experiment.layout import RunFolder
from evenhand.home import HOME_VARIABLE
from evenhand.privacy.accounting import Mechanism
from evenhand.privacy.cohort import Cohort
from evenhand.privacy.ledger import Ledger
from evenhand.privacy.site import POLICY_VARIABLE
from evenhand.training.data import TrainingCase, TrainingPatient
from evenhand.training.private import train_private
from evenhand_audit.attack.checks import (
    Check,
    check_clipping,
    check_fresh_noise,
    check_noise,
    check_runs_compose,
    check_sampling,
    coin_fault,
    noise_fault,
)

__all__ = ["LedgerBook", "check_training", "opened_by_run", "self_test"]

_PATIENTS, _SIDE, _GRID = 6, 32, 4
_EPSILON, _RATE, _STEPS, _CLIP, _LEARNING_RATE = 20.0, 0.4, 240, 0.5, 0.1


class LedgerBook:
    """A hospital's ledger as the probes see it: charges for one cohort, epsilon so far."""

    def __init__(self, ledger: Ledger, study: str) -> None:
        self._ledger = ledger
        self._study = study
        people = {"probe-1": ["image-1"], "probe-2": ["image-2"]}
        self._cohort = Cohort.of(ledger.key, people)

    def charge(self, mechanism: Mechanism, purpose: str) -> None:
        """Book a cost on the cohort, as a study of this run."""
        self._ledger.charge(mechanism, purpose, study=self._study, cohort=self._cohort)

    def spent_epsilon(self) -> float:
        """What the cohort's worst patient has spent, over all studies."""
        spending = self._ledger.spent()
        return 0.0 if spending is None else spending.epsilon


def opened_by_run(run: Path) -> LedgerBook:
    """The ledger that a run in this folder would charge."""
    ledger = RunFolder(run).hospital("self-test").ledger()
    ledger.grant(100.0, 1e-5, by="self-test", reason="a check of the code")
    return LedgerBook(ledger, run.name)


def self_test(on_check: Callable[[Check], None] = lambda _: None) -> list[Check]:
    """Run all checks on the code that is installed; nothing outside a temporary folder changes."""
    checks: list[Callable[[], Check]] = [
        check_noise,
        check_clipping,
        check_fresh_noise,
        check_sampling,
        check_training,
        lambda: check_runs_compose(opened_by_run),
    ]
    done = []
    with _own_home():
        for check in checks:
            done.append(check())
            on_check(done[-1])
    return done


def check_training(train: Callable[..., Any] = train_private) -> Check:
    """What a private round runs is what it charged: draws, steps, noise; and charged first."""
    name = "training does what it charges"
    with _own_home() as home:
        ledger = Ledger(home / "ledger.sqlite", "self-test", synthetic=True)
        model = _WatchedModel(ledger)
        people = [_patient(number) for number in range(_PATIENTS)]
        delta = 1 / (10 * _PATIENTS)
        ledger.grant(_EPSILON, delta, by="self-test", reason="a check of the code")
        train(
            model,
            people,
            PrivacyConfig(
                epsilon=_EPSILON, sampling_rate=_RATE, clip_norm=_CLIP, rounds=1,
                steps_per_round=_STEPS, slices_per_patient=1,
            ),
            TrainingConfig(),
            learning_rate=_LEARNING_RATE,
            ledger=ledger,
            purpose="check",
            advance=lambda _: model.next_step(),
        )  # fmt: skip
        charged = [charge.mechanism for charge in ledger.state().charges]
    if not model.charged_first:
        return Check(name, False, "A patient was looked at before anything was charged.")
    paid = sum(one.steps for one in charged)
    if len(model.steps) != paid:
        return Check(name, False, f"{len(model.steps)} steps were run, {paid} were charged.")
    table = np.zeros((paid, _PATIENTS), dtype=np.bool_)
    for row, drawn in zip(table, model.steps, strict=True):
        row[sorted(drawn)] = True
    fault = coin_fault(table, charged[0].sampling_rate)
    if fault:
        return Check(name, False, fault)
    sigma = charged[0].noise_multiplier
    unit = _LEARNING_RATE * sigma * _CLIP / (_RATE * _PATIENTS) * paid**0.5
    moved = (model.silent.detach().double() / unit).numpy()
    fault = noise_fault(moved)
    if fault:
        return Check(name, False, f"Against what was charged: {fault}")
    return Check(
        name, True, f"{paid} steps charged first and then run, patients drawn by coin, noise as "
        "charged.",
    )  # fmt: skip


class _WatchedModel(nn.Module):
    """Looks like an adapted model; notes whom it is shown, and has weights that nobody touches."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.head = nn.Parameter(torch.zeros(1))
        self.silent = nn.Parameter(torch.zeros(3000))
        self.config = SimpleNamespace(
            image_size=128,
            head_size=_SIDE,
            precision="float32",
            decoder_lora_rank=0,
            head="small",
            head_hints=False,
        )
        self.tail_blocks = 0
        self.device, self.training_precision = torch.device("cpu"), torch.float32
        self.charged_first = True
        self.steps: list[set[int]] = []
        self._drawn: set[int] = set()
        self._ledger = ledger

    def choose_trainable(self, _: tuple[str, ...] = ("*",)) -> dict[str, nn.Parameter]:
        return dict(self.named_parameters())

    def propose_labels(
        self, slices: Tensor, hidden: Tensor, _hints: Tensor | None = None
    ) -> Tensor:
        if not self.steps and not self._drawn:
            self.charged_first = bool(self._ledger.state().charges)
        self._drawn.add(round(float(hidden.max())) - 1)
        return self.head.expand(slices.shape[0], 1, *slices.shape[-2:])

    def next_step(self) -> None:
        """Close the notes of one step."""
        self.steps.append(self._drawn)
        self._drawn = set()


def _patient(number: int) -> TrainingPatient:
    """One slice; its activations are the patient's number plus one, however they are moved."""
    case = TrainingCase(
        hidden=np.full((1, 2, _GRID, _GRID), number + 1, dtype=np.float16),
        slices=torch.full((1, 1, _SIDE, _SIDE), 0.5).half(),
        masks=torch.ones((1, _SIDE, _SIDE), dtype=torch.uint8),
        pixel=1.0,
        mirror=None,
    )
    return TrainingPatient(f"probe-{number}", (case,))


@contextmanager
def _own_home() -> Iterator[Path]:
    """A temporary home for hospitals, so that no check touches a real ledger or policy."""
    names = (HOME_VARIABLE, POLICY_VARIABLE)
    before: Mapping[str, str | None] = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        os.environ[HOME_VARIABLE] = folder
        os.environ.pop(POLICY_VARIABLE, None)
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
