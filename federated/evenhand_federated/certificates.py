"""Certificates of a coordinator, and key pairs of hospitals' nodes.

The coordinator has an authority of its own (X.509, ECDSA P-256), which signs the certificate of
its door. Hospitals trust this authority and no other, so no certificate of anybody else's opens
a way in between. A node proves who it is with a key on P-384, made at the hospital, which is
the curve and the format (OpenSSH) that Flower 1.41 reads.
"""

import base64
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from evenhand.artifacts import write_atomically
from evenhand.errors import FederationError
from evenhand.privacy.keys import fingerprint_of

__all__ = [
    "days_left",
    "is_signed_by_node",
    "key_name_of",
    "make_authority",
    "make_node_key",
    "make_server_certificate",
    "node_key_of",
    "sign_as_node",
]

EXPIRY_DAYS = 30
"""So long before it runs out a certificate is renewed, or the doctor asks for it."""

_AUTHORITY_DAYS = 3650
_SERVER_DAYS = 820
"""A little over two years: what current TLS clients accept at most is 825 days."""


def make_authority(folder: Path, name: str) -> None:
    """Write `ca.crt` and `ca.key` into a folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} (Evenhand)"[:64])])
    built = (
        _dated(subject, subject, key.public_key(), _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_atomically(folder / "ca.key", _private(key, serialization.PrivateFormat.PKCS8))
    write_atomically(folder / "ca.crt", built.public_bytes(serialization.Encoding.PEM))


def make_server_certificate(folder: Path, hosts: tuple[str, ...]) -> None:
    """Write `server.crt` and `server.key`, signed by the authority in the same folder.

    Args:
        folder: with `ca.crt` and `ca.key`.
        hosts: names and addresses under which hospitals reach the coordinator.
    """
    authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    signer = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise FederationError(f"'{folder / 'ca.key'}' is not the key of this coordinator.")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    built = (
        _dated(subject, authority.subject, key.public_key(), _SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    private = _private(key, serialization.PrivateFormat.PKCS8)
    write_atomically(folder / "server.key", private)
    write_atomically(folder / "server.crt", built.public_bytes(serialization.Encoding.PEM))


def make_node_key(path: Path) -> str:
    """Write a node's private key and return its public half in OpenSSH's format.

    Raises:
        FederationError: there is a key already: a second one would be another node.
    """
    if path.exists():
        raise FederationError(
            f"'{path}' is there already. It is this hospital's identity: keep it, or move it away "
            "and be admitted anew."
        )
    key = ec.generate_private_key(ec.SECP384R1())
    write_atomically(path, _private(key, serialization.PrivateFormat.OpenSSH))
    return _public(key.public_key())


def node_key_of(path: Path) -> str:
    """The public half of a node's private key.

    Raises:
        FederationError: the file is missing, not a key, or others may read it.
    """
    return _public(_node_key(path).public_key())


def sign_as_node(path: Path, message: bytes) -> bytes:
    """A signature with a node's private key (ECDSA with SHA-384, DER).

    Raises:
        FederationError: as `node_key_of`.
    """
    return _node_key(path).sign(message, ec.ECDSA(hashes.SHA384()))


def is_signed_by_node(public: str, message: bytes, signature: bytes) -> bool:
    """Whether a signature is that of a node's public key (OpenSSH); no key, no signature."""
    try:
        key = serialization.load_ssh_public_key(public.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        key.verify(signature, message, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True


def _node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
        key = serialization.load_ssh_private_key(content, password=None)
    except OSError as error:
        raise FederationError(
            f"The node's key '{path}' cannot be read: {error.strerror}."
        ) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise FederationError(f"'{path}' is not a private key in OpenSSH's format.") from None
    if mode & 0o077:
        raise FederationError(
            f"Others on this machine can read '{path}'. Make it yours alone: chmod 600 '{path}'."
        )
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FederationError(f"'{path}' is a key of another kind; a node has one on P-384.")
    return key


def key_name_of(public: str) -> str:
    """A node's public key (OpenSSH) in groups that can be read out over the telephone."""
    return fingerprint_of(base64.b64decode(public.split()[1]).hex())


def days_left(path: Path) -> int:
    """Days until a certificate runs out; negative once it has."""
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return (certificate.not_valid_after_utc - datetime.now(UTC)).days


def _dated(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks of hospitals differ a little
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _public(key: ec.EllipticCurvePublicKey) -> str:
    encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return key.public_bytes(encoding, form).decode()
