"""How good a mask is: overlap and surface metrics, definitions named."""

from evenhand.metrics.case_score import CaseScore, EmptyMask, score_case

__all__ = ["CaseScore", "EmptyMask", "score_case"]
