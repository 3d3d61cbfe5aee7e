"""Every error that Evenhand raises on purpose.

    EvenhandError                 exit 1
    ├── UsageError                exit 2   the call or the config is wrong
    │   └── ConfigError           exit 2   a key, a value or an override
    ├── DataError                 exit 1   a file, a mask, a participants table
    │   └── StoreError            exit 1   the case store on disk
    ├── WeightsError              exit 1   a checkpoint: missing, broken, not what it claims
    ├── AdapterError              exit 1   an adapter file, or an adapter for another backbone
    ├── PrivacyError              exit 1   accounting, ledger
    │   ├── BudgetError           exit 1   a step that the ledger refuses
    │   ├── LedgerError           exit 1   a ledger or its key: foreign, damaged, out of time
    │   └── PolicyError           exit 1   what the hospital's site policy does not allow
    ├── FederationError           exit 1   a round that could not be finished
    ├── ReviewError               exit 1   a decision that cannot be recorded
    │   └── ReviewAwayError       exit 1   because its database does not answer now
    └── ResourceError             exit 1   disk, port, missing optional part

A message is for a person: what was wanted, what came, the way out. It names a
file or a key, never a value that belongs to a patient.
"""

__all__ = [
    "AdapterError",
    "BudgetError",
    "ConfigError",
    "DataError",
    "EvenhandError",
    "FederationError",
    "LedgerError",
    "PolicyError",
    "PrivacyError",
    "ResourceError",
    "ReviewAwayError",
    "ReviewError",
    "StoreError",
    "UsageError",
    "WeightsError",
]


class EvenhandError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command returns."""

    exit_code = 1


class UsageError(EvenhandError):
    """The command was called in a way that cannot work."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key or value is wrong."""


class DataError(EvenhandError):
    """A file that came in is not what it should be."""


class StoreError(DataError):
    """The case store on disk is missing, foreign or damaged."""


class WeightsError(EvenhandError):
    """Backbone weights are missing, broken, or not what they claim to be."""


class AdapterError(EvenhandError):
    """An adapter cannot be saved, loaded, or put onto this backbone."""


class PrivacyError(EvenhandError):
    """A privacy parameter or a ledger is not usable."""


class BudgetError(PrivacyError):
    """A release would cost more than the hospital has granted."""


class LedgerError(PrivacyError):
    """A ledger or its key cannot be trusted or used: damaged, of somebody else, out of time."""


class PolicyError(PrivacyError):
    """The hospital's site policy does not allow what was asked for."""


class FederationError(EvenhandError):
    """A federated run cannot start or go on."""


class ReviewError(EvenhandError):
    """A review decision cannot be recorded."""


class ReviewAwayError(ReviewError):
    """The review database is locked, damaged, gone or out of reach; later it may work."""


class ResourceError(EvenhandError):
    """The machine lacks something: disk space, a free port, an optional part."""
