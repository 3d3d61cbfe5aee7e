"""The audit across hospitals: sums leave each hospital, rows do not."""
