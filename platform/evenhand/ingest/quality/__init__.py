"""Judging what is in a store: case by case, patient against patient, group against group."""
