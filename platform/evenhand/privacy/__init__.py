"""Patient-level differential privacy: sampling, the private step, accounting, ledger."""
