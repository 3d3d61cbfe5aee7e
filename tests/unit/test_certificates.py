"""Certificates and keys of nodes: who is let through the door, and what is made of them."""

import ssl
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from evenhand.errors import (
    FederationError,
)
from evenhand_federated.certificates import days_left, make_node_key, node_key_of
from federation_places import make_coordinator, make_hospital


@pytest.fixture
def centre(tmp_path):
    """A coordinator."""
    return make_coordinator(tmp_path / "centre")


@pytest.fixture
def north(tmp_path, centre, tiny_stores):
    """Hospital north, joined and admitted."""
    return make_hospital(tmp_path / "north", centre, tiny_stores["north"].path)


class TestCertificates:
    """TLS between hospitals and coordinator stands on these."""

    def test_a_client_verifies_the_door(self, centre):
        """A TLS handshake with the authority alone succeeds, for the name and the address."""
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(centre.path / "server.crt", centre.path / "server.key")
        client = ssl.create_default_context(cafile=str(centre.path / "ca.crt"))
        client.verify_flags |= ssl.VERIFY_X509_STRICT
        for name in ("localhost", "127.0.0.1"):
            assert handshake(server, client, name)

    def test_another_authority_is_refused(self, centre, tmp_path):
        """A certificate of somebody else's does not open a way in between."""
        other = make_coordinator(tmp_path / "other")
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(other.path / "server.crt", other.path / "server.key")
        client = ssl.create_default_context(cafile=str(centre.path / "ca.crt"))
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(server, client, "localhost")

    def test_private_keys_are_the_owners_alone(self, centre, north):
        """Nobody else on the machine can read one."""
        keys = [*centre.path.glob("*.key"), north.key_path]
        assert len(keys) == 4
        assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}

    def test_days_left(self, centre):
        """The authority lasts longer than the door's certificate; both for years."""
        assert 800 < days_left(centre.path / "server.crt") <= 820
        assert days_left(centre.path / "ca.crt") > 3600
        certificate = x509.load_pem_x509_certificate((centre.path / "ca.crt").read_bytes())
        assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca

    def test_node_key(self, tmp_path):
        """P-384 in OpenSSH's format, which the same file gives again; never made twice."""
        public = make_node_key(tmp_path / "node.key")
        assert load_ssh_public_key(public.encode()).curve.name == "secp384r1"
        assert node_key_of(tmp_path / "node.key") == public
        with pytest.raises(FederationError, match="is there already"):
            make_node_key(tmp_path / "node.key")

    def test_wrong_node_keys(self, tmp_path):
        """A missing, foreign or open key is a sentence, not a traceback of Flower's."""
        with pytest.raises(FederationError, match="No such file"):
            node_key_of(tmp_path / "none")
        (tmp_path / "text").write_text("no key")
        with pytest.raises(FederationError, match="not a private key"):
            node_key_of(tmp_path / "text")
        make_node_key(tmp_path / "open")
        (tmp_path / "open").chmod(0o644)
        with pytest.raises(FederationError, match="chmod 600"):
            node_key_of(tmp_path / "open")


def handshake(server, client, name):
    """A TLS handshake in memory; raises what the client raises."""
    sides = [(ssl.MemoryBIO(), ssl.MemoryBIO()) for _ in range(2)]
    one = client.wrap_bio(*sides[0], server_hostname=name)
    two = server.wrap_bio(*sides[1], server_side=True)
    done = [False, False]
    for _ in range(10):
        for number, end in enumerate((one, two)):
            try:
                end.do_handshake()
                done[number] = True
            except ssl.SSLWantReadError:
                pass
            sides[1 - number][0].write(sides[number][1].read())
    return all(done)
