"""Who is who in a hidden sum: hospitals sign what they say with the keys that the study names.

Masks hide a hospital's numbers from a coordinator only if the others are hospitals and not the
coordinator itself. So every key of a round and every list of those whose numbers came is signed
with the key of the hospital's node (ECDSA on P-384), whose public half stands in the study. A
signature is for one study, one run, one round and one hospital; it fits nowhere else.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from evenhand_federated.certificates import is_signed_by_node

__all__ = ["Roll", "context_of", "key_statement", "list_statement"]


def context_of(study: str, number: int, run: int) -> str:
    """What the masks and the signatures of a round depend on.

    Args:
        study: hash of the signed study.
        number: of the round, from 1.
        run: Flower's, of this start of the study: what an earlier start left fits no more.
    """
    return f"{study} run {run} round {number}"


def key_statement(context: str, hospital: str, key: bytes) -> bytes:
    """What a hospital signs of the key that it gives for one sum."""
    return b"evenhand key of a sum " + json.dumps([context, hospital, key.hex()]).encode()


def list_statement(context: str, keys: Mapping[str, bytes], came: Collection[str]) -> bytes:
    """What a hospital signs of the list of those whose numbers came.

    Args:
        context: see `context_of`.
        keys: of all who began the sum: who was told other keys signs something else.
        came: whose numbers came.
    """
    began = json.dumps({name: keys[name].hex() for name in sorted(keys)})
    content = [context, hashlib.sha256(began.encode()).hexdigest(), sorted(came)]
    return b"evenhand list of a sum " + json.dumps(content).encode()


@dataclass(frozen=True)
class Roll:
    """The hospitals of a study and their public keys (OpenSSH), by name."""

    keys: Mapping[str, str]

    def is_signed(self, hospital: str, statement: bytes, signature: object) -> bool:
        """Whether a hospital of the study has signed a statement; a signature may be anything."""
        public = self.keys.get(hospital)
        return (
            public is not None
            and isinstance(signature, bytes)
            and is_signed_by_node(public, statement, signature)
        )

    def signers(self, statement: bytes, signatures: Mapping[str, object]) -> set[str]:
        """Whose signatures of a statement are right."""
        return {name for name, one in signatures.items() if self.is_signed(name, statement, one)}
