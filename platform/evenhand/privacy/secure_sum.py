"""Trust model `secure-sum`: every hospital adds a share of the noise, and only the sum is seen.

H hospitals add up clipped gradients of the patients whom each has drawn at one agreed rate. As
far as anybody outside can see that is one step over the union of patients, so one noise of
deviation sigma C on the *sum* keeps the promise, where `local` needs one on each update. Nobody
adds it alone: each hospital adds a share of variance (sigma C)^2 / (H - t - 1). A hospital that
looks at the sum knows its own share and can take it away; what the other honest ones who answer
have added is still enough, as long as no more than t others drop out or tell it their share.

Two things must hold, and are refused where they do not. Nobody sees a single update, whose noise
is a share only: something has to add up without looking, or somebody has to be trusted with it
(`Carrier`). And a round is one step: in a second one a hospital would build on a sum of its own
that the others' noise has not hidden yet.

The sum of discrete Gaussians is a discrete Gaussian to within a factor e^t of every probability,
t = 10 sum over k < H of exp(-2 pi^2 s^2 k / (k + 1)) (Kairouz, Liu and Steinke 2021, "The
distributed discrete Gaussian mechanism", theorem 1). Here s is 2^40 grid steps: t is zero for
any purpose. All hospitals use one grid, since it follows from the share and the clipping norm.
"""

import math
from dataclasses import dataclass
from typing import Literal

from evenhand.errors import PrivacyError

__all__ = ["Carrier", "NoiseShare", "Together", "noise_share", "require_trust"]

Carrier = Literal["trusted-sum", "secure-aggregation"]
"""Who adds up: somebody who sees every update and is trusted with it (a simulation), or a
protocol in which nobody does."""

_WORDS = {
    "trusted-sum": "SIMULATED: one process sees every update and adds up in the clear",
    "secure-aggregation": "added up by secure aggregation",
}


@dataclass(frozen=True)
class Together:
    """Those who share one noise, as the study has agreed.

    Attributes:
        patients: in training, of all hospitals together; each at one of them only.
        hospitals: how many take part.
        carrier: how updates are added up; None: not at all, the coordinator gets each one.
    """

    patients: int
    hospitals: int
    carrier: Carrier | None = None


@dataclass(frozen=True)
class NoiseShare:
    """What a hospital adds to its part of a sum.

    Attributes:
        noise_multiplier: of the sum, over the clipping norm; what the accountant prices.
        hospitals: who take part.
        tolerated: of them, how many may drop out or tell another hospital their share.
        share: noise multiplier that each hospital adds.
    """

    noise_multiplier: float
    hospitals: int
    tolerated: int
    share: float

    @property
    def fewest(self) -> int:
        """A sum of fewer hospitals has too little noise, and must not be looked at.

        One of these many may be curious: all but one make the whole noise.
        """
        return self.hospitals - self.tolerated


def noise_share(noise_multiplier: float, *, hospitals: int, tolerated: int) -> NoiseShare:
    """Share out the noise of a sum.

    Args:
        noise_multiplier: that the sum needs, by the accountant, over the union of patients.
        hospitals: who take part.
        tolerated: how many of them, dropped and colluding together, the promise survives,
            besides the hospital that looks at the sum.

    Raises:
        PrivacyError: nobody would be left to make the noise.
    """
    if not 0 <= tolerated < hospitals - 1:
        raise PrivacyError(
            f"privacy.tolerated is {tolerated}, and {hospitals} hospitals take part: somebody has "
            "to be left who makes the noise, besides one that looks at the sum and knows its own "
            "share. Lower it, or take more hospitals."
        )
    share = noise_multiplier / math.sqrt(hospitals - tolerated - 1)
    return NoiseShare(noise_multiplier, hospitals, tolerated, share)


def require_trust(trust: str, together: Together | None, tolerated: int) -> str:
    """Who is trusted with what, in words for ledger and report.

    Raises:
        PrivacyError: a share of the noise would be all that stands between a patient and whoever
            sees the hospital's own update.
    """
    if trust == "local":
        return "local"
    if together is None or together.carrier is None:
        raise PrivacyError(
            "privacy.trust = 'secure-sum' was asked for, but nothing adds updates up unseen: the "
            "coordinator would get this hospital's own one, with a share of the noise only. "
            "Nothing is trained. Take trust = 'local', or a federation with secure aggregation."
        )
    return (
        f"secure-sum over {together.patients} patients of {together.hospitals} hospitals, "
        f"of whom {tolerated} may drop out or collude with one that looks; "
        f"{_WORDS[together.carrier]}"
    )
