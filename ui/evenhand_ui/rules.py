"""Rules of a run's review: how people log in, who signs, what is read twice, what unaided.

They lie beside the decisions (RUN/review/rules.toml), so that page and commands go
by the same ones. Without the file the page is a demo on this machine: readers
write their own names, nothing is signed, each case is read once.
"""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import tomli_w
from pydantic import Field, model_validator

from evenhand.artifacts import write_atomically
from evenhand.config import Section
from evenhand.config_files import load_section
from evenhand.errors import ConfigError, ResourceError

__all__ = ["ProxyRules", "Rules", "keep_rules", "rules_of"]

Share = Annotated[float, Field(ge=0, le=1)]


class ProxyRules(Section):
    """The hospital's reverse proxy, which knows who is there and says so in a header."""

    user_header: str = "X-Remote-User"
    """Header in which the proxy names the user."""
    secret_header: str = "X-Evenhand-Proxy"  # noqa: S105 - the name of a header
    """Header in which the proxy proves that it is the proxy."""
    secret_file: Path
    """File with the secret that the proxy sends, 16 characters or more."""
    addresses: tuple[str, ...] = ()
    """Addresses that the proxy comes from; empty: the secret is enough."""

    @cached_property
    def secret(self) -> bytes:
        """What the proxy must send.

        Raises:
            ResourceError: the file cannot be read, or holds too little.
        """
        try:
            secret = self.secret_file.read_bytes().strip()
        except OSError as error:
            raise ResourceError(
                f"The proxy's secret '{self.secret_file}' cannot be read: {error.strerror}."
            ) from None
        if len(secret) < 16:
            raise ResourceError(
                f"The proxy's secret '{self.secret_file}' must have 16 characters or more; "
                "make one with `openssl rand -hex 32`."
            )
        return secret


class Rules(Section):
    """How a run is reviewed."""

    login: Literal["demo", "proxy", "oidc"] = "demo"
    """Who says who somebody is. `demo`: they do so themselves, and nobody checks it."""
    proxy: ProxyRules | None = None
    oidc_claim: str = "email"
    """What of an OIDC login is held against the logins of people; an `email` must be verified."""
    login_hours: Annotated[float, Field(gt=0, le=720)] = 12
    """After so long a login by OIDC counts no more; a proxy has its own limit."""
    idle_minutes: Annotated[float, Field(gt=0, le=480)] = 15
    """After so long without doing anything a person is asked who they are again."""
    second_share: Share = 0.0
    """Share of the cases that a second person reads, blind to the first."""
    agreement_dice: Share = 0.8
    """Dice from which on two readings agree; below it an adjudicator decides."""
    unaided_share: Share = 0.0
    """Share of the cases that are judged before the proposal is shown."""

    @model_validator(mode="after")
    def _proxy_where_wanted(self) -> "Rules":
        if (self.login == "proxy") != (self.proxy is not None):
            raise ValueError('[proxy] belongs to login = "proxy", and that needs it')
        return self

    @property
    def verified(self) -> bool:
        """Whether somebody checks who people are; only then can they sign."""
        return self.login != "demo"


def rules_of(folder: Path) -> Rules:
    """Return the rules that lie in a folder with decisions; those of a demo where none do.

    Raises:
        ConfigError: they cannot be read.
    """
    path = folder / "rules.toml"
    return load_section(path, Rules) if path.is_file() else Rules()


def keep_rules(given: Path, folder: Path, *, decided: bool) -> Rules:
    """Check rules and lay them beside the decisions.

    Args:
        given: the rules that are wanted.
        folder: where the decisions lie.
        decided: whether there are any decisions yet.

    Raises:
        ConfigError: a key or a value is wrong, the trail already knows checked names, or
            fewer cases than before would be read twice although some are decided.
        ResourceError: the proxy's secret cannot be read, or the folder not be written.
    """
    rules = load_section(given, Rules)
    content = rules.model_dump(mode="json", exclude_none=True)
    if rules.proxy is not None:
        _ = rules.proxy.secret
        content["proxy"]["secret_file"] = str(rules.proxy.secret_file.absolute())
    before = rules_of(folder)
    if decided and rules.second_share < before.second_share:
        raise ConfigError(
            f"This run has decisions, made while second_share was {before.second_share:g}; with "
            f"{rules.second_share:g} first readings would stand that wait for a second one. "
            f"Write second_share = {before.second_share:g} or more."
        )
    if before.verified and not rules.verified:
        raise ConfigError(
            "This run is reviewed by people whose names are checked; a demo in the same trail "
            f"would mix both. Delete '{folder / 'rules.toml'}' if that is what you want."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(folder / "rules.toml", tomli_w.dumps(content).encode())
    except OSError as error:
        raise ResourceError(f"'{folder}' cannot be written: {error.strerror}.") from None
    return rules
