"""Setting up: who is who, what is refused, and that nothing half made stays."""

import contextlib
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evenhand.cli import app
from evenhand.errors import (
    ConfigError,
    EvenhandError,
    FederationError,
    PolicyError,
    ResourceError,
    StoreError,
)
from evenhand_federated import node_service
from evenhand_federated.certificates import make_node_key, node_key_of
from evenhand_federated.coordinator import Member, StudyState
from evenhand_federated.enrolment import EnrolmentAnswer, Invitation
from evenhand_federated.node_service import node_command, node_environment, run_node, write_unit
from evenhand_federated.serve import check_port, free_port
from federation_places import admit_by_name, make_coordinator, make_hospital, make_study


@pytest.fixture
def centre(tmp_path):
    """A coordinator."""
    return make_coordinator(tmp_path / "centre")


@pytest.fixture
def north(tmp_path, centre, tiny_stores):
    """Hospital north, joined and admitted."""
    return make_hospital(tmp_path / "north", centre, tiny_stores["north"].path)


class TestJoining:
    """From an invitation to an admitted node."""

    def test_the_private_key_does_not_leave(self, north):
        """What goes back holds the public half and a name."""
        answer = north.answer_path.read_text()
        assert node_key_of(north.key_path) in answer
        assert "PRIVATE" not in answer

    @pytest.mark.parametrize("field", ["address", "hospital", "authority"])
    def test_an_altered_invitation_is_refused(self, tmp_path, centre, tiny_stores, field):
        """Whoever sits on the way cannot put in an address or an authority of his own."""
        altered = centre.invitation("north").model_copy(update={field: "evil:1"})
        with pytest.raises(FederationError, match="altered"):
            type(make_hospital(tmp_path / "n", centre, tiny_stores["north"].path)).join(
                tmp_path / "x", altered, tiny_stores["north"].path
            )
        assert not (tmp_path / "x").exists()

    def test_another_hospitals_store_is_refused(self, tmp_path, centre, tiny_stores):
        """A mistyped path does not bring another hospital's patients in; nothing is made."""
        with pytest.raises(StoreError, match="is the store of south"):
            make_hospital(tmp_path / "north", centre, tiny_stores["south"].path)
        assert not (tmp_path / "north").exists()

    def test_joining_twice_keeps_the_key(self, tmp_path, centre, tiny_stores, north):
        """A second time is refused: another key would be another node."""
        before = north.key_path.read_bytes()
        with pytest.raises(FederationError, match="holds a node already"):
            make_hospital(tmp_path / "north", centre, tiny_stores["north"].path)
        assert north.key_path.read_bytes() == before

    def test_admitting_another_key_under_a_known_name_is_refused(self, centre, north):
        """Nobody becomes hospital north by saying so."""
        stranger = centre.path / "stranger.key"
        answer = EnrolmentAnswer(hospital="north", public_key=make_node_key(stranger))
        with pytest.raises(FederationError, match="another key"):
            centre.admit(answer)
        same = EnrolmentAnswer(hospital="south", public_key=node_key_of(north.key_path))
        with pytest.raises(FederationError, match="this same key"):
            centre.admit(same)

    def test_invitation_holds_no_secret(self, centre):
        """It may go by mail."""
        text = centre.invitation("north").model_dump_json()
        assert "PRIVATE" not in text
        assert isinstance(Invitation.model_validate_json(text), Invitation)

    def test_two_coordinators_in_one_folder_are_refused(self, centre):
        """Keys that hospitals know are not written over."""
        before = (centre.path / "ca.key").read_bytes()
        with pytest.raises(ConfigError, match="holds a coordinator already"):
            make_coordinator(centre.path)
        assert (centre.path / "ca.key").read_bytes() == before


class TestApproval:
    """A hospital approves bytes, by their hash."""

    def test_approved(self, tmp_path, centre, north):
        """Then the node knows the study, its own patients, and where its store is."""
        study = make_study(centre, tmp_path / "study.toml")
        north.approve(study, study.digest[:16])
        assert north.approved(study.digest).terms == study.terms
        assert north.approved_digests() == [study.digest]
        assert len(north.train_patients(study)) == 2
        assert len(list(north.home(study).store())) == 3

    @pytest.mark.parametrize("digest", ["", "0" * 64, "0" * 16, "short"])
    def test_a_wrong_hash_is_refused(self, tmp_path, centre, north, digest):
        """The file that was mailed is not the one that was told: nothing is approved."""
        study = make_study(centre, tmp_path / "study.toml")
        with pytest.raises(FederationError, match="The hash of this study is"):
            north.approve(study, digest)
        assert north.approved_digests() == []

    def test_a_study_of_another_coordinator_is_refused(self, tmp_path, north):
        """A right signature is not enough: it has to be the one whom the hospital joined."""
        other = make_coordinator(tmp_path / "other")
        study = make_study(other, tmp_path / "study.toml")
        with pytest.raises(FederationError, match="works with the coordinator"):
            north.approve(study, study.digest)

    def test_a_study_that_does_not_name_the_hospital_is_refused(self, tmp_path, centre, north):
        """Only those who were asked take part."""
        study = make_study(centre, tmp_path / "study.toml", hospitals=("east", "south"))
        with pytest.raises(FederationError, match="does not name north"):
            north.approve(study, study.digest)

    def test_the_site_policy_is_asked(self, tmp_path, centre, north, monkeypatch):
        """What the hospital's policy forbids cannot be approved."""
        policy = tmp_path / "policy.toml"
        policy.write_text(
            """
[budget]
minimum_cohort = 50
[training]
trust = ["local"]
arms = ["federated"]
backbones = ["*"]
heads = ["none", "small", "base"]
adapters = ["*"]
strategies = ["*"]
[leaves]
figures = ["patients"]
tables = false
tables_noise = 1.0
[grants]
by = []
from_config = false
""".replace("[budget]", "[budget]\nmaximum_epsilon = 1.0\nmaximum_delta = 0.1")
        )
        monkeypatch.setenv("EVENHAND_SITE_POLICY", str(policy))
        study = make_study(centre, tmp_path / "study.toml")
        with pytest.raises(PolicyError, match="minimum_cohort"):
            north.approve(study, study.digest)
        assert north.approved_digests() == []

    def test_a_store_that_was_moved(self, tmp_path, centre, north, tiny_stores):
        """A link that points nowhere since does not stop a second approval."""
        study = make_study(centre, tmp_path / "study.toml")
        north.approve(study, study.digest)
        link = north.home(study).path / "store"
        link.unlink()
        link.symlink_to(tmp_path / "gone")
        north.approve(study, study.digest)
        assert link.resolve() == tiny_stores["north"].path.resolve()

    def test_what_was_altered_after_approval_is_refused(self, tmp_path, centre, north):
        """The approved copy is checked each time it is used."""
        study = make_study(centre, tmp_path / "study.toml")
        north.approve(study, study.digest)
        path = north.path / "approved" / f"{study.digest}.toml"
        path.write_bytes(study.content.replace(b"rounds = 3", b"rounds = 9"))
        with pytest.raises(FederationError, match="altered"):
            north.approved(study.digest)

    def test_a_study_altered_after_signing_is_refused_and_logged(self, tmp_path, centre, north):
        """Whoever types the command reads why, and so does who reads the hospital's log later."""
        study = make_study(centre, tmp_path / "study.toml")
        altered = study.content.replace(b"rounds = 3", b"rounds = 9")
        (tmp_path / "study.toml").write_bytes(altered)
        words = ["federation", "approve", str(tmp_path / "study.toml"), "north"]
        words += ["--hash", study.digest, "--folder", str(north.path)]
        assert "altered after it was signed" in str(CliRunner().invoke(app, words).exception)
        (entry,) = north.messages().entries()
        assert (entry.kind, entry.body()["what"]) == ("refused", "study to approve")
        assert "altered after it was signed" in entry.body()["why"]
        assert north.approved_digests() == []

    @pytest.mark.parametrize("digest", ["../../evil", "x" * 64, ""])
    def test_a_digest_cannot_lead_out_of_the_folder(self, north, digest):
        """It comes from a message."""
        with pytest.raises(FederationError, match="named by a SHA-256"):
            north.approved(digest)


class TestSubmitting:
    """What a coordinator takes into its queue."""

    def test_a_hospital_that_was_not_admitted_is_named(self, tmp_path, centre, north):
        """A study cannot begin before all of its hospitals are in."""
        study = make_study(centre, tmp_path / "study.toml")
        with pytest.raises(FederationError, match="Not admitted yet: south"):
            centre.submit(study)

    def test_states(self, tmp_path, centre):
        """Submitted, stopped, submitted again; a finished one stays finished."""
        admit_by_name(centre)
        study = make_study(centre, tmp_path / "study.toml")
        centre.submit(study)
        assert centre.state(study.digest).status == "submitted"
        result = CliRunner().invoke(
            app, ["federation", "stop", "tiny", "--folder", str(centre.path)]
        )
        assert result.exit_code == 0, result.output
        assert centre.state(study.digest).status == "stopped"
        centre.submit(study)
        assert centre.state(study.digest) == StudyState()
        centre.change_state(study.digest, status="finished")
        centre.submit(study)
        assert centre.state(study.digest).status == "finished"

    def test_a_study_is_held_by_one_process(self, tmp_path, centre):
        """The ServerApp holds it; when that is killed, the hold is gone with it."""
        admit_by_name(centre)
        study = make_study(centre, tmp_path / "study.toml")
        centre.submit(study)
        assert not centre.is_running(study.digest)
        with centre.running(study.digest) as held:
            assert held
            assert centre.is_running(study.digest)
        assert not centre.is_running(study.digest)

    def test_members_written_at_once(self, centre):
        """Two commands that admit at the same time lose nobody."""

        def admit(number):
            public = f"ecdsa-sha2-nistp384 {'B' * 4 * number}"
            centre.keep_member(Member(f"h{number}", public, "2026-01-01"))

        threads = [threading.Thread(target=admit, args=(number,)) for number in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(centre.members()) == 8


class TestSentences:
    """What is missing or taken is said in a sentence."""

    def test_a_busy_port(self):
        """The sentence names the port and the way out."""
        with socket.socket() as busy:
            busy.bind(("127.0.0.1", 0))
            busy.listen()
            port = busy.getsockname()[1]
            with pytest.raises(ResourceError, match=f"Port {port} on 127.0.0.1 cannot be had"):
                check_port("127.0.0.1", port)
        with socket.socket() as kept:  # bound and not listening: nobody else is given it
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            kept.bind(("127.0.0.1", 0))
            check_port("127.0.0.1", kept.getsockname()[1])

    def test_a_free_port(self):
        """It can be had, differs from call to call, and is none that Linux gives to others."""
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        found = {free_port() for _ in range(5)}
        assert len(found) > 1
        assert all(port < first for port in found)
        for port in found:
            check_port("127.0.0.1", port)

    @pytest.mark.parametrize(
        "words",
        [
            ["federation", "serve"],
            ["federation", "status"],
            ["federation", "invite", "north", "--out", "x"],
            ["federation", "log", "north"],
            ["federation", "node", "north"],
            ["federation", "submit", "none.toml"],
            ["study", "sign", "none.toml"],
        ],
    )
    def test_nothing_set_up(self, words, tmp_path, monkeypatch):
        """Each command says which one comes first."""
        monkeypatch.chdir(tmp_path)
        error = CliRunner().invoke(app, words).exception
        assert isinstance(error, EvenhandError)
        assert str(error).endswith((".", "--folder."))
        assert not (tmp_path / "x").exists()

    def test_a_node_without_its_key(self, north):
        """It does not start, and says which file is missing."""
        north.key_path.unlink()
        with pytest.raises(FederationError, match=r"node\.key.*No such file"):
            run_node(north)

    def test_a_node_without_the_authority(self, north):
        """It never falls back to any authority that the machine trusts."""
        north.authority_path.unlink()
        with pytest.raises(FederationError, match="is missing"):
            run_node(north)


class TestNode:
    """What a node is started as."""

    @pytest.mark.parametrize("whose", ["own", "other"])
    def test_a_foreign_certificate_is_refused_and_logged(
        self, tmp_path, centre, north, monkeypatch, whose
    ):
        """Who answers with another authority's certificate gets nothing; the log says so."""
        shown = centre if whose == "own" else make_coordinator(tmp_path / "other")
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(shown.path / "server.crt", shown.path / "server.key")
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(20)

        def answer():
            with listener, contextlib.suppress(OSError):
                plain, _ = listener.accept()
                with plain, server.wrap_socket(plain, server_side=True) as visitor:
                    visitor.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        port = listener.getsockname()[1]
        text = north.settings_path.read_text()
        north.settings_path.write_text(text.replace("localhost:9400", f"127.0.0.1:{port}"))
        monkeypatch.setattr(node_service, "keep_warm", lambda *_: None)
        monkeypatch.chdir(tmp_path)

        def become(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(node_service.os, "execve", become)
        wanted = KeyboardInterrupt if whose == "own" else FederationError
        with pytest.raises(wanted, match=None if whose == "own" else "Somebody else answers"):
            run_node(north)
        thread.join()
        lines = [(one.kind, one.body()["why"]) for one in north.messages().entries()]
        if whose == "own":
            assert lines == []
        else:
            ((kind, why),) = lines
            assert kind == "refused"
            assert f"the certificate at 127.0.0.1:{port} is not the coordinator's" in why

    def test_verified_and_authenticated(self, north):
        """With the coordinator's authority and the node's key; its own interface on loopback."""
        words = node_command(north, 9094)
        assert words[words.index("--root-certificates") + 1] == str(north.authority_path)
        assert words[words.index("--auth-supernode-private-key") + 1] == str(north.key_path)
        assert words[words.index("--superlink") + 1] == "localhost:9400"
        assert words[words.index("--host") + 1] == "127.0.0.1"
        assert not {"--insecure", "--allow-runtime-dependency-installation"} & set(words)

    def test_silent_and_guarded(self, north, monkeypatch):
        """No telemetry, no update check, no foreign modules; guarded programs come first."""
        monkeypatch.setenv("PYTHONPATH", "elsewhere")
        found = node_environment(north)
        assert found["FLWR_TELEMETRY_ENABLED"] == "0"
        assert found["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert found["PATH"].startswith(f"{north.programs_path}:")
        assert "PYTHONPATH" not in found

    def test_the_unit_keeps_the_named_policy(self, tmp_path, north, monkeypatch):
        """A service has an environment of its own: the policy named here must hold there too."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("EVENHAND_SITE_POLICY", "policy.toml")
        with pytest.raises(PolicyError, match="not there"):
            write_unit(north)
        source = Path(__file__).resolve().parents[2] / "configs" / "site-policy.toml"
        (tmp_path / "policy.toml").write_bytes(source.read_bytes())
        unit = write_unit(north).read_text()
        assert f'Environment="EVENHAND_SITE_POLICY={tmp_path}/policy.toml"\n' in unit
        found = node_environment(north)["EVENHAND_SITE_POLICY"]
        assert found == str(tmp_path / "policy.toml")
        monkeypatch.delenv("EVENHAND_SITE_POLICY")
        assert "EVENHAND_SITE_POLICY" not in write_unit(north).read_text()

    def test_the_unit_retries(self, tmp_path, centre, tiny_stores, monkeypatch):
        """A node that ended is started again without end: after a crash it is refused at first."""
        monkeypatch.setenv("EVENHAND_HOME", str(tmp_path / "home"))
        from evenhand.artifacts import write_atomically
        from evenhand_federated.hospital import HospitalFolder, default_hospital

        path = tmp_path / "invitation.toml"
        import tomli_w

        content = tomli_w.dumps(centre.invitation("north").model_dump())
        write_atomically(path, content.encode())
        store = str(tiny_stores["north"].path)
        result = CliRunner().invoke(app, ["federation", "join", str(path), "--store", store])
        assert result.exit_code == 0, result.output
        own = HospitalFolder(default_hospital("north"))
        unit = (own.path / "evenhand-north.service").read_text()
        for line in ("Restart=always", "RestartSec=15", "StartLimitIntervalSec=0"):
            assert line in unit
        assert f"federation node north --folder {own.path}" in unit
        if subprocess.run(["which", "systemd-analyze"], capture_output=True, check=False).stdout:
            done = subprocess.run(
                ["systemd-analyze", "verify", str(own.path / "evenhand-north.service")],
                capture_output=True,
                text=True,
                check=False,
            )
            assert "Unknown" not in done.stderr
