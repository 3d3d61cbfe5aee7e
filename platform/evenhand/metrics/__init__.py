"""How good a mask is: overlap, surface and lesion metrics, definitions named."""

from evenhand.metrics.calibration import LOGIT_EDGES, fit_temperature, logit_counts
from evenhand.metrics.case_score import DEFINITIONS, CaseScore, EmptyMask, dice_of, score_case
from evenhand.metrics.lesions import LesionCounts, count_lesions

__all__ = [
    "DEFINITIONS",
    "LOGIT_EDGES",
    "CaseScore",
    "EmptyMask",
    "LesionCounts",
    "count_lesions",
    "dice_of",
    "fit_temperature",
    "logit_counts",
    "score_case",
]
