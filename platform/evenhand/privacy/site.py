"""A hospital's own place on disk: its key, its ledger, its policy. Outside run folders.

HOME/site-policy.toml                       rules for every hospital that has none of its own
HOME/hospitals/HOSPITAL/site-policy.toml
HOME/hospitals/HOSPITAL/signing.key        signs the ledger
HOME/hospitals/HOSPITAL/ledger.sqlite, ledger.head

HOME is `$EVENHAND_HOME`, else `evenhand` in the user's data folder. One place for all runs
of a user: the ledger of a hospital must know of every run over its patients.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from evenhand.errors import PolicyError
from evenhand.home import evenhand_home
from evenhand.privacy.keys import HospitalKey
from evenhand.privacy.ledger import Ledger
from evenhand.privacy.ledger_file import LEDGER_FILE
from evenhand.privacy.policy import SitePolicy, load_policy, open_policy

__all__ = ["POLICY_FILE", "POLICY_VARIABLE", "Site"]

POLICY_VARIABLE = "EVENHAND_SITE_POLICY"
"""Names a policy that goes before those in the home."""

POLICY_FILE = "site-policy.toml"
"""Name of a policy in the home or in a hospital's place."""


@dataclass(frozen=True)
class Site:
    """The place of one hospital.

    Attributes:
        path: its folder.
        hospital: its name.
        synthetic: its patients are phantoms that a run made for itself.
    """

    path: Path
    hospital: str
    synthetic: bool = False

    @classmethod
    def of(cls, hospital: str, home: Path | None = None) -> "Site":
        """The place of a hospital in the home."""
        return cls((home or evenhand_home()) / "hospitals" / hospital, hospital)

    @property
    def ledger_path(self) -> Path:
        """The hospital's ledger."""
        return self.path / LEDGER_FILE

    def key(self) -> HospitalKey:
        """The hospital's key; made where neither a key nor a ledger is there yet."""
        return HospitalKey.open(self.path, make=not self.ledger_path.exists())

    def ledger(self) -> Ledger:
        """Open the hospital's ledger, under the limit of its policy."""
        return Ledger(
            self.ledger_path,
            self.hospital,
            at_most=self.policy().budget.maximum_epsilon,
            synthetic=self.synthetic,
        )

    def policy(self) -> SitePolicy:
        """The rules that hold here.

        The first of: the file that `$EVENHAND_SITE_POLICY` names, the one in this place, the
        one in the home. Where there is none, everything is allowed.

        Raises:
            ConfigError: the policy is not right.
            PolicyError: the variable names a file that is not there.
        """
        named = os.environ.get(POLICY_VARIABLE)
        if named:
            if not Path(named).is_file():
                raise PolicyError(
                    f"${POLICY_VARIABLE} names '{named}', which is not there. Nothing is "
                    "trained without the policy. Correct the path."
                )
            return load_policy(Path(named))
        places = [self.path] if self.synthetic else [self.path, self.path.parent.parent]
        for place in places:
            if (place / POLICY_FILE).is_file():
                return load_policy(place / POLICY_FILE)
        return open_policy()
