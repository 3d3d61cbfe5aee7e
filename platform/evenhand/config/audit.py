"""What the audit can be told: groups, counts, and limits that turn figures into verdicts."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from evenhand.config.section import Positive, Section

__all__ = ["AuditConfig", "Threshold", "ThresholdConfig"]


class Threshold(Section):
    """A limit on one fairness figure; which side is bad depends on the figure."""

    warn: float | None = None
    """Beyond this the verdict is at least warn."""
    fail: float | None = None
    """Beyond this the verdict is fail; while it cannot be ruled out, warn."""

    @model_validator(mode="after")
    def _one_at_least(self) -> "Threshold":
        if self.warn is None and self.fail is None:
            raise ValueError("a threshold wants warn, fail or both")
        return self


class ThresholdConfig(Section):
    """Limits that turn fairness figures into pass, warn or fail; none unless given."""

    dice_gap: Threshold | None = None
    """Largest gap in mean Dice between two groups; higher is worse."""
    adjusted_dice_gap: Threshold | None = None
    """The same between like patients: hospital and tumour volume held equal."""
    hd95_gap: Threshold | None = None
    """In the table's units."""
    nsd_gap: Threshold | None = None
    worst_group_dice: Threshold | None = None
    """Mean Dice of the worst group; lower is worse."""
    equity_scaled_dice: Threshold | None = None
    """I / (1 + sum |I - I_g|); lower is worse."""
    skewed_error_ratio: Threshold | None = None
    """Largest over smallest group mean of 1 - Dice; higher is worse."""
    missed_lesions_gap: Threshold | None = None
    """Gap in the share of lesions that are missed (equal opportunity); higher is worse."""
    calibration_gap: Threshold | None = None
    """Gap in mean calibration error; higher is worse."""

    @model_validator(mode="after")
    def _fail_is_worse(self) -> "ThresholdConfig":
        for name in type(self).model_fields:
            limit: Threshold | None = getattr(self, name)
            if limit is None or limit.warn is None or limit.fail is None:
                continue
            lower_is_worse = name in {"worst_group_dice", "equity_scaled_dice"}
            if (limit.fail > limit.warn) if lower_is_worse else (limit.fail < limit.warn):
                raise ValueError(f"{name}: fail must be at least as bad as warn")
        return self


class AuditConfig(Section):
    """How the audit groups patients and counts."""

    attributes: tuple[str, ...] = ("hospital", "sex", "age_group", "race")
    age_edges: tuple[Annotated[float, Field(gt=0)], ...] = (50,)
    """Age groups are cut at these rising ages: under the first, from it on, ..."""
    minimum_group: Annotated[int, Field(ge=2)] = 5
    """Groups with fewer patients are not shown."""
    resamples: Annotated[int, Field(ge=100)] = 2000
    nsd_tolerance: Positive = 2.0
    """Tolerance of the normalised surface Dice, in `data.units`."""
    intersections: bool = True
    """Whether pairs of attributes are compared too, such as sex and age group together."""
    within_hospital: bool = False
    """Whether tests compare patients of the same hospital only (permuted inside hospitals)."""
    register_file: Path | None = None
    """Where published reports are remembered, so that no two give a small group away together."""
    thresholds: ThresholdConfig = ThresholdConfig()

    @model_validator(mode="after")
    def _rising(self) -> "AuditConfig":
        if list(self.age_edges) != sorted(set(self.age_edges)):
            raise ValueError("age_edges must rise, such as [40, 60]")
        return self
