"""Judging a model by subgroup: statistics and report. Reads artifacts, never Flower."""
