"""Made-up patients as embeddings, and the small head that is trained on them privately.

An attack needs many trainings, so it works where the house's adapters begin: at the frozen
embedding. A patient is a handful of slices, each one embedding and one label (tumour or not).
The head is trained by the same `PrivateStep` that trains hospitals' adapters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evenhand.privacy.accounting import Mechanism
from evenhand.privacy.step import PrivateStep

__all__ = ["EmbeddedPatient", "TokenHead", "embedded_patients", "loss_of_slices", "train_head"]


@dataclass(frozen=True, eq=False)
class EmbeddedPatient:
    """Slices of one made-up patient.

    Attributes:
        embeddings: (slices, size).
        labels: (slices,) 0 or 1.
    """

    embeddings: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Slices."""
        return len(self.labels)

    def part(self, index: Tensor) -> "EmbeddedPatient":
        """Some of the slices."""
        return EmbeddedPatient(self.embeddings[index], self.labels[index])


class TokenHead(nn.Module):
    """Embedding to one logit: linear, or with one hidden layer.

    Args:
        size: numbers in an embedding.
        hidden: width of the hidden layer; 0: none.
        seed: of the start, which everybody knows.
    """

    def __init__(self, size: int, *, hidden: int = 0, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.enter = nn.Linear(size, hidden) if hidden else None
            self.leave = nn.Linear(hidden or size, 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(slices, size) -> (slices,) logits."""
        inner = embeddings if self.enter is None else torch.relu(self.enter(embeddings))
        logits: Tensor = self.leave(inner)[:, 0]
        return logits


def embedded_patients(
    count: int, *, slices: int = 4, size: int = 64, seed: int = 0, label_noise: float = 0.2
) -> list[EmbeddedPatient]:
    """Patients who share what a slice looks like, and differ from each other more than inside.

    Every embedding is a common part (as of any image), the patient's own, and the slice's own.
    Labels follow one direction that all share (seed-independent, so that patients of two seeds
    are of one kind); a fraction `label_noise` is flipped: what a model can only learn by heart.
    """
    shared = torch.Generator().manual_seed(0)
    common = torch.randn(size, generator=shared)
    direction = torch.randn(size, generator=shared) / size**0.5
    own = torch.Generator().manual_seed(seed + 1)
    patients = []
    for _ in range(count):
        centre = torch.randn(size, generator=own)
        embeddings = centre + 0.7 * torch.randn(slices, size, generator=own)
        tumour = (embeddings @ direction > 0).float()
        flipped = (torch.rand(slices, generator=own) < label_noise).float()
        labels = (tumour - flipped).abs()
        patients.append(EmbeddedPatient((embeddings + common) / size**0.5, labels))
    return patients


def loss_of_slices(head: nn.Module, patient: EmbeddedPatient) -> Tensor:
    """Mean cross-entropy over the slices."""
    return F.binary_cross_entropy_with_logits(head(patient.embeddings), patient.labels)


def train_head(
    head: nn.Module,
    patients: Sequence[EmbeddedPatient],
    mechanism: Mechanism,
    *,
    clip_norm: float = 1.0,
    learning_rate: float = 1.0,
    private: bool = True,
    step_type: type[PrivateStep] = PrivateStep,
) -> None:
    """Train in place, by the private step; not private means the same steps without noise."""
    parameters = list(head.parameters())
    step = step_type(
        parameters,
        torch.optim.SGD(parameters, lr=learning_rate),
        noise_multiplier=mechanism.noise_multiplier if private else 0.0,
        clip_norm=clip_norm,
        expected_patients=mechanism.sampling_rate * len(patients),
    )
    for _ in range(mechanism.steps):
        step.sampled(
            patients,
            rate=mechanism.sampling_rate,
            slices_at_most=max(map(len, patients)),
            draw=lambda patient, _: patient,
            loss=lambda patient: loss_of_slices(head, patient),
        )
