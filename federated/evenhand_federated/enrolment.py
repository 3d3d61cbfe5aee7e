"""What coordinator and hospital hand each other before they talk: invitation and answer."""

import json

from evenhand.config import Section
from evenhand.errors import FederationError
from evenhand.privacy.keys import is_signed
from evenhand_federated.study import CoordinatorIdentity, Name, NodeKey

__all__ = ["EnrolmentAnswer", "Invitation"]


class Invitation(Section):
    """What a hospital is handed: how to reach the coordinator, and how to know it."""

    coordinator: CoordinatorIdentity
    hospital: Name
    address: str
    authority: str
    """The coordinator's certificate authority, PEM."""
    signature: str

    def message(self) -> bytes:
        """What is signed."""
        content = self.model_dump(mode="json", exclude={"signature"})
        return b"evenhand invitation " + json.dumps(content, sort_keys=True).encode()

    def check(self) -> None:
        """Refuse an invitation that was altered on its way.

        Raises:
            FederationError: the coordinator's key has not signed it.
        """
        if not is_signed(self.coordinator.public_key, self.message(), self.signature):
            raise FederationError(
                "This invitation was altered, or is not from the coordinator whom it names. Ask "
                "for it again."
            )


class EnrolmentAnswer(Section):
    """What a hospital hands back: its node's public key."""

    hospital: Name
    public_key: NodeKey
