"""Patients and their cases, the store they lie in, and how patients are split."""
