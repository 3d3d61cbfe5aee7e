"""What a round is asked for and how it is refused, by all sides alike; imports no torch.

Flower starts a program for every message: what needs no model must not wait for torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from evenhand.config import PRIVATE_ARM, ExperimentConfig, Precision
from evenhand.errors import FederationError

__all__ = [
    "ARM_VARIABLE",
    "BUDGET_REFUSED",
    "FAILED",
    "RAY_VARIABLE",
    "SIMULATION_VARIABLE",
    "RoundOrder",
    "fewest_answers",
    "precision_of",
    "rounds_of",
]

SIMULATION_VARIABLE = "EVENHAND_SIMULATION"
"""Names the run folder whose hospitals are simulated on this machine."""

ARM_VARIABLE = "EVENHAND_ARM"
"""Names the arm that is run."""

RAY_VARIABLE = "EVENHAND_RAY_FOLDER"
"""Where Ray keeps its session, if set; whoever sets it removes the folder afterwards."""

FAILED = 1001
"""Error code of a hospital that could not do what was asked."""

BUDGET_REFUSED = 1002
"""Error code of a hospital whose privacy ledger refuses."""


@dataclass(frozen=True)
class RoundOrder:
    """What the coordinator asks for.

    Attributes:
        arm: of the experiment.
        round: counted from 1.
        steady: rounds just before it in which exactly those hospitals were put together who are
            asked now; counted to 2.
    """

    arm: str
    round: int
    steady: int = 0

    @classmethod
    def of(cls, content: Mapping[str, object]) -> "RoundOrder":
        """The order in a message's config."""
        number, steady = int(str(content["round"])), int(str(content.get("steady", 0)))
        return cls(str(content["arm"]), number, steady)


def rounds_of(config: ExperimentConfig, arm: str) -> int:
    """How many rounds an arm has.

    Raises:
        FederationError: the experiment has no such federated arm.
    """
    if arm in config.arms and arm == PRIVATE_ARM:
        return config.privacy.rounds
    if arm in config.arms and arm == "federated":
        return config.federation.rounds
    raise FederationError(f"'{arm}' is not a federated arm of experiment {config.name}.")


def precision_of(config: ExperimentConfig, arm: str) -> Precision:
    """How an arm's numbers travel, by all sides alike.

    One noise that hospitals share is priced on the sum of what they release. Each hospital's part
    rounded by itself is not the sum rounded, so there numbers travel as finely as ever. So they do
    under SCAFFOLD: a hospital learns its correction from the common adapter as it came, and its
    rounding would be added to that adapter again in every round.
    """
    if arm == PRIVATE_ARM and config.privacy.trust == "secure-sum":
        return "float32"
    if config.federation.strategy == "scaffold":
        return "float32"
    return config.federation.precision


def fewest_answers(config: ExperimentConfig, arm: str, hospitals: int) -> int:
    """With fewer hospitals a round is not looked at: under secure-sum its noise would be short.

    Shares are sized so that all but one of these many make the whole noise: a hospital that
    looks at the sum knows its own share (`evenhand.privacy.secure_sum.NoiseShare.fewest`).
    """
    fewest = config.federation.minimum_hospitals
    if arm == PRIVATE_ARM and config.privacy.trust == "secure-sum":
        return max(fewest, hospitals - config.privacy.tolerated)
    return fewest
