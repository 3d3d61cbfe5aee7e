"""What a hospital allows, in a file of its own that no coordinator can change.

The policy is read at the hospital's side, before any data is touched. Every key has to be
given: what an officer did not think of must not be decided by a default. Where there is no
policy file, as for simulated hospitals, `open_policy` allows everything, and the budget is
granted by the experiment's config.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from evenhand.config import PRIVATE_ARM, Count, ExperimentConfig, Positive, Section
from evenhand.config_files import load_section
from evenhand.errors import PolicyError
from evenhand.privacy.secure_sum import Carrier

__all__ = [
    "BudgetPolicy",
    "GrantsPolicy",
    "LeavesPolicy",
    "Proposal",
    "SitePolicy",
    "TrainingPolicy",
    "load_policy",
    "open_policy",
]

N = TypeVar("N", int, float)

TrustName = Literal["local", "secure-sum", "trusted-sum"]
"""Who is trusted with what; see `evenhand.privacy.secure_sum`."""

Figure = Literal["patients", "seconds", "first_loss", "last_loss", "epsilon", "delta"]
"""What a hospital may tell beside an adapter."""


class BudgetPolicy(Section):
    """How much privacy may be spent, and on how many patients at least."""

    maximum_epsilon: Positive | None
    """For each patient, over everything in the ledger, whatever was granted."""
    maximum_delta: Annotated[float, Field(gt=0, lt=1)] | None
    minimum_cohort: Count
    """Training on fewer patients is refused."""


class TrainingPolicy(Section):
    """What may be trained; names may be patterns, such as `head.*`."""

    arms: tuple[Literal["federated", "federated-private"], ...]
    """Without `federated`, nothing leaves that the ledger has not paid for."""
    backbones: tuple[str, ...]
    heads: tuple[Literal["none", "small", "base"], ...]
    adapters: tuple[str, ...]
    """Tensors that may be trained, and so leave."""
    strategies: tuple[str, ...]
    """How the coordinator may put updates together."""
    trust: tuple[TrustName, ...]
    """`local`; `secure-sum`, where nobody sees this hospital's own update; `trusted-sum`, the same
    noise with somebody who does, as in a simulation."""


class LeavesPolicy(Section):
    """What may leave beside adapters."""

    figures: tuple[Figure, ...]
    """`patients` is what averaging weighs by. The others are left out where not named."""
    tables: bool
    """Whether noised counts and metrics may leave, each charged to the ledger."""
    tables_noise: Positive
    """Least noise deviation on a table, in patients."""
    never: tuple[str, ...] = ()
    """Adapter tensors that may not leave, by name or pattern: a study has to name them in
    `federation.local_parts`. Left out: none are held back."""


class GrantsPolicy(Section):
    """Who may grant a budget."""

    by: tuple[str, ...]
    """Names that `evenhand ledger grant --by NAME` accepts."""
    from_config: bool
    """Whether an experiment's config may grant the first budget."""


class SitePolicy(Section):
    """The rules of one hospital."""

    hospital: str | None = None
    """Whose rules these are; left out: of every hospital that reads the file."""
    budget: BudgetPolicy
    training: TrainingPolicy
    leaves: LeavesPolicy
    grants: GrantsPolicy

    @model_validator(mode="after")
    def _weighed(self) -> "SitePolicy":
        if self.training.arms and "patients" not in self.leaves.figures:
            raise ValueError(
                "training together needs 'patients' in leaves.figures, since the average is "
                "weighed by it; to refuse all training give training.arms = []"
            )
        return self

    @property
    def names_tensors(self) -> bool:
        """Whether a proposal can only be judged with the names of its tensors."""
        return bool(self.leaves.never) or "*" not in self.training.adapters

    def check(self, proposal: "Proposal") -> None:
        """Refuse a piece of training that breaks the rules.

        Raises:
            PolicyError: names the key, what it allows, and what came.
        """
        training = self.training
        self._check_hospital(proposal.hospital)
        self._check_named("training.arms", training.arms, [proposal.arm])
        self._check_named("training.backbones", training.backbones, [proposal.backbone])
        self._check_named("training.heads", training.heads, [proposal.head])
        self._check_named("training.strategies", training.strategies, [proposal.strategy])
        self._check_named("training.adapters", training.adapters, proposal.tensors)
        self._check_stays(proposal)
        if proposal.trust is not None:
            self._check_named("training.trust", training.trust, [proposal.trust])
        self.check_cohort(proposal.hospital, proposal.patients)
        self.check_budget(proposal.hospital, proposal.epsilon, proposal.delta)

    def check_cohort(self, hospital: str, patients: int) -> None:
        """Refuse to train on too few patients.

        Raises:
            PolicyError: says how many it takes.
        """
        if patients < self.budget.minimum_cohort:
            raise PolicyError(
                f"Hospital {hospital}: budget.minimum_cohort asks for "
                f"{self.budget.minimum_cohort} patients; the cohort has {patients}. "
                "Nothing is trained. Take more patients, or leave this hospital out."
            )

    def check_budget(self, hospital: str, epsilon: float | None, delta: float | None) -> None:
        """Refuse a grant or a plan beyond the most that the policy allows.

        Raises:
            PolicyError: says which limit.
        """
        for name, value, limit in (
            ("epsilon", epsilon, self.budget.maximum_epsilon),
            ("delta", delta, self.budget.maximum_delta),
        ):
            if value is not None and limit is not None and not value <= limit:
                raise PolicyError(
                    f"Hospital {hospital}: budget.maximum_{name} of the site policy is "
                    f"{limit:g}; {value:g} came in. Ask for less."
                )

    def check_grant(self, hospital: str, by: str, epsilon: float, delta: float) -> None:
        """Refuse a grant by somebody who may not, or beyond the limits.

        Raises:
            PolicyError: says who may.
        """
        self.check_granter(hospital, by)
        self.check_budget(hospital, epsilon, delta)

    def check_granter(self, hospital: str, by: str) -> None:
        """Refuse what only those may do who grant.

        Raises:
            PolicyError: says who may.
        """
        self._check_hospital(hospital)
        if by not in self.grants.by and "*" not in self.grants.by:
            raise PolicyError(
                f"Hospital {hospital}: the site policy lets {_listed(self.grants.by)} grant, "
                f"not '{by}'. Give the name with --by."
            )

    def check_table(self, hospital: str, noise_multiplier: float) -> None:
        """Refuse a table of counts or metrics.

        Raises:
            PolicyError: tables may not leave, or not with so little noise.
        """
        if not self.leaves.tables:
            raise PolicyError(
                f"Hospital {hospital}: the site policy lets no table leave (leaves.tables)."
            )
        if not noise_multiplier >= self.leaves.tables_noise:
            raise PolicyError(
                f"Hospital {hospital}: leaves.tables_noise asks for noise of at least "
                f"{self.leaves.tables_noise:g} patients; {noise_multiplier:g} came in."
            )

    def allowed_figures(self, figures: Mapping[str, N]) -> dict[str, N]:
        """Those figures that may leave."""
        return {name: value for name, value in figures.items() if name in self.leaves.figures}

    def _check_hospital(self, hospital: str) -> None:
        if self.hospital is not None and self.hospital != hospital:
            raise PolicyError(
                f"The site policy is that of hospital {self.hospital}, not of {hospital}."
            )

    def _check_stays(self, proposal: "Proposal") -> None:
        for name in proposal.leaving:
            if any(fnmatch(name, pattern) for pattern in self.leaves.never):
                raise PolicyError(
                    f"The site policy's leaves.never holds back {_listed(self.leaves.never)}; "
                    f"'{name}' would leave. Nothing is trained. A study that names it in "
                    "federation.local_parts can be run."
                )

    def _check_named(self, key: str, allowed: Iterable[str], came: Iterable[str]) -> None:
        patterns = tuple(allowed)
        for name in came:
            if not any(fnmatch(name, pattern) for pattern in patterns):
                raise PolicyError(
                    f"The site policy's {key} allows {_listed(patterns)}; '{name}' was asked "
                    "for. Nothing is trained."
                )


@dataclass(frozen=True)
class Proposal:
    """A piece of training, as the policy sees it.

    Attributes:
        hospital: whose patients would be used.
        arm: of the experiment.
        backbone: name of the frozen model.
        head: size of the prompt head.
        strategy: how updates are put together.
        patients: in the cohort.
        tensors: names of what would be trained.
        leaving: names of what would leave.
        epsilon: of the whole arm; None without privacy.
        delta: None without privacy, or where it is not known yet.
        trust: under which the noise is made; None without privacy.
    """

    hospital: str
    arm: str
    backbone: str
    head: str
    strategy: str
    patients: int
    tensors: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    epsilon: float | None = None
    delta: float | None = None
    trust: TrustName | None = None

    @classmethod
    def of(
        cls,
        config: ExperimentConfig,
        arm: str,
        *,
        hospital: str,
        patients: int,
        tensors: Iterable[str] = (),
        leaving: Iterable[str] = (),
        carrier: Carrier | None = None,
    ) -> "Proposal":
        """What an experiment's federated arm would do at a hospital, and who would add up."""
        private = arm == PRIVATE_ARM
        trust: TrustName = "local"
        if config.privacy.trust == "secure-sum":
            trust = "trusted-sum" if carrier == "trusted-sum" else "secure-sum"
        return cls(
            hospital=hospital,
            arm=arm,
            backbone=config.model.backbone,
            head=config.model.head,
            strategy=str(getattr(config.federation, "strategy", "fedavg")),
            patients=patients,
            tensors=tuple(tensors),
            leaving=tuple(leaving),
            epsilon=config.privacy.epsilon if private else None,
            delta=config.privacy.delta if private else None,
            trust=trust if private else None,
        )


def load_policy(path: Path) -> SitePolicy:
    """Read a site policy from TOML.

    Raises:
        ConfigError: the file, a key or a value is wrong; an unknown key names the nearest.
    """
    return load_section(path, SitePolicy)


def open_policy() -> SitePolicy:
    """Everything is allowed: for simulated hospitals, and where no policy was written."""
    return SitePolicy(
        budget=BudgetPolicy(maximum_epsilon=None, maximum_delta=None, minimum_cohort=1),
        training=TrainingPolicy(
            arms=("federated", "federated-private"),
            backbones=("*",),
            heads=("none", "small", "base"),
            adapters=("*",),
            strategies=("*",),
            trust=("local", "secure-sum", "trusted-sum"),
        ),
        leaves=LeavesPolicy(
            figures=("patients", "seconds", "first_loss", "last_loss", "epsilon", "delta"),
            tables=True,
            tables_noise=1.0,
        ),
        grants=GrantsPolicy(by=("*",), from_config=True),
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"
