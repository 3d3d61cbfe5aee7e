"""How good a mask is: overlap, surface and lesion metrics, definitions named."""

from evenhand.metrics.case_score import DEFINITIONS, CaseScore, EmptyMask, score_case
from evenhand.metrics.lesions import LesionCounts, count_lesions

__all__ = [
    "DEFINITIONS",
    "CaseScore",
    "EmptyMask",
    "LesionCounts",
    "count_lesions",
    "score_case",
]
