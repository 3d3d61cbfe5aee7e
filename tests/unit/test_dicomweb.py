"""An archive over DICOMweb: what is fetched is what it keeps; nothing leaks; nothing hangs."""

import datetime as dt
import ipaddress
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from dicom_reading import grid, voxels
from loopback_server import loopback
from pydicom import dcmread
from typer.testing import CliRunner

from evenhand.cases.store import CaseStore
from evenhand.cli import app
from evenhand.cli.from_pacs import at_hand
from evenhand.dicomweb import Login, Pacs, Place, read_login
from evenhand.errors import DataError, ResourceError, UsageError
from evenhand.ingest.deid import HospitalKey
from evenhand.ingest.dicom.phantom import Study, write_series
from evenhand.ingest.pull import Pulled, pull, read_wanted
from orthanc import PASSWORD, USER, Orthanc, needs_orthanc, running_orthanc

NOBODY = "Aardvark"
STUDY = Study(
    patient_id=NOBODY, attributes={"PatientName": f"{NOBODY}^Zoe", "BodyPartExamined": "CHEST"}
)
LOGIN = Login(user=USER, password=PASSWORD)
WRONG = "Xyzzy"
SLICES = voxels().shape[2]


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of one CT series, one of them compressed."""
    folder = tmp_path_factory.mktemp("dicom")
    paths = write_series(folder, voxels(), grid(), STUDY)
    first = dcmread(paths[0])
    first.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    first.save_as(paths[0])
    return paths


@pytest.fixture(scope="module")
def archive(slices: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Orthanc:
    """A real archive that holds the series."""
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        Pacs(running.address, LOGIN).store([dcmread(path) for path in slices])
        yield running


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A hospital's key file."""
    HospitalKey.create(tmp_path / "hospital.key")
    return tmp_path / "hospital.key"


@pytest.fixture
def logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The login is in the environment."""
    monkeypatch.setenv("EVENHAND_PACS_USER", USER)
    monkeypatch.setenv("EVENHAND_PACS_PASSWORD", PASSWORD)


def ingest(*words: object):
    """Run the command in this process."""
    return CliRunner().invoke(app, ["ingest", *map(str, words)])


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate that vouches for itself: its file, and one with its key for a server."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = made.public_bytes(serialization.Encoding.PEM)
    authority, served = folder / "authority.pem", folder / "server.pem"
    authority.write_bytes(public)
    served.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + public
    )
    return authority, served


@needs_orthanc
class TestArchive:
    """Against a real archive."""

    def test_lists_what_it_holds(self, archive: Orthanc):
        """A study's series and a series' objects are named completely."""
        pacs = Pacs(archive.address, LOGIN)
        assert pacs.series(STUDY.uid("study")) == [STUDY.uid("series")]
        assert pacs.instances(STUDY.uid("study"), STUDY.uid("series")) == sorted(
            STUDY.uid(f"series {n}") for n in range(SLICES)
        )

    def test_pages_are_read_to_the_last(self, archive: Orthanc, monkeypatch: pytest.MonkeyPatch):
        """An archive that answers in pages is asked until nothing new comes."""
        monkeypatch.setattr("evenhand.dicomweb._PAGE", 2)
        found = Pacs(archive.address, LOGIN).instances(STUDY.uid("study"), STUDY.uid("series"))
        assert len(found) == SLICES

    def test_objects_come_as_they_are_kept(
        self, archive: Orthanc, slices: list[Path], tmp_path: Path
    ):
        """All objects, pixels to the bit and in their own transfer syntax; a stop goes on."""
        pacs, wanted = Pacs(archive.address, LOGIN), [Place(archive.address, STUDY.uid("study"))]
        pulled = pull(pacs, wanted, tmp_path / "there")
        assert (pulled.objects, pulled.fetched) == (SLICES, SLICES)
        found = {dcmread(path).SOPInstanceUID: dcmread(path) for path in tmp_path.rglob("*.dcm")}
        for path in slices:
            own = dcmread(path)
            other = found[own.SOPInstanceUID]
            assert other.file_meta.TransferSyntaxUID == own.file_meta.TransferSyntaxUID
            assert other.PixelData == own.PixelData
        next(tmp_path.rglob("*.dcm")).unlink()
        again = pull(pacs, wanted, tmp_path / "there")
        assert (again.objects, again.fetched) == (SLICES, 1)
        assert (tmp_path / "there").stat().st_mode & 0o777 == 0o700

    @pytest.mark.usefixtures("logged_in")
    def test_a_pulled_study_is_the_same_case(
        self, archive: Orthanc, slices: list[Path], key: Path, tmp_path: Path
    ):
        """From the archive and from its files the same voxels come; what was fetched goes."""
        common = ("--hospital", "north", "--key", key, "--no-masks-required", "--jobs", 1)
        address = f"{archive.address}/studies/{STUDY.uid('study')}"
        pulled = ingest(address, "--into", tmp_path / "pulled", *common)
        assert pulled.exit_code == 0, pulled.output
        filed = ingest(slices[0].parent, "--into", tmp_path / "filed", *common)
        assert filed.exit_code == 0, filed.output
        one, two = (CaseStore(tmp_path / name / "north") for name in ("pulled", "filed"))
        (case,), (other,) = one, two
        assert (case.case_id, case.sequences) == (other.case_id, other.sequences)
        assert [path.name for path in (tmp_path / "pulled").iterdir()] == ["north"]
        assert NOBODY not in pulled.output
        assert STUDY.uid("study") not in pulled.output

    @pytest.mark.usefixtures("logged_in")
    def test_a_look_keeps_what_was_fetched(self, archive: Orthanc, key: Path, tmp_path: Path):
        """After --dry-run nothing is stored, and the ingest that follows fetches nothing anew."""
        uids = tmp_path / "uids.txt"
        uids.write_text(f"# of the spring\n{STUDY.uid('study')}\n\n")
        words = (archive.address, "--studies", uids, "--into", tmp_path / "stores", "--jobs", 1)
        words += ("--hospital", "north", "--key", key, "--no-masks-required")
        look = ingest(*words, "--dry-run")
        assert look.exit_code == 0, look.output
        assert "delete it if you do not go on" in look.output
        assert not (tmp_path / "stores" / "north").exists()
        stored = ingest(*words)
        assert stored.exit_code == 0, stored.output
        assert "0 of them fetched now" in stored.output

    def test_a_wrong_login_is_a_sentence(self, archive: Orthanc):
        """What is refused is said, with the way out and without the password."""
        with pytest.raises(ResourceError, match="refused the login") as raised:
            Pacs(archive.address, Login(user=USER, password=WRONG)).series("1.2")
        assert WRONG not in str(raised.value)

    def test_an_unknown_study_is_a_sentence(self, archive: Orthanc, tmp_path: Path):
        """What the archive does not have is said, without its UID."""
        pacs = Pacs(archive.address, LOGIN)
        with pytest.raises(DataError, match="no object of study 1") as raised:
            pull(pacs, [Place(archive.address, "1.2.3.99")], tmp_path / "there")
        assert "1.2.3.99" not in str(raised.value)


class TestTrouble:
    """Archives that misbehave, and calls that are wrong."""

    def test_no_archive_is_a_sentence(self, monkeypatch: pytest.MonkeyPatch):
        """A port where nobody listens is said, without the UIDs that were asked for."""
        monkeypatch.setattr("evenhand.dicomweb._RETRIES", 0)
        with pytest.raises(ResourceError, match="cannot be reached") as raised:
            Pacs("http://127.0.0.1:9", Login()).series("1.2.3.99")
        assert "1.2.3.99" not in str(raised.value)

    def test_a_certificate_is_checked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """Who is not vouched for is not talked to; the hospital's own authority can be named."""
        monkeypatch.setattr("evenhand.dicomweb._RETRIES", 0)
        authority, served = certificate(tmp_path)
        with loopback(served) as server:
            server.serve("/studies/1.2/series?limit=1000&offset=0", b"[]")
            with pytest.raises(ResourceError, match="certificate that is not trusted"):
                Pacs(server.address, Login()).series("1.2")
            assert server.asked == []
            assert Pacs(server.address, Login(ca_bundle=str(authority))).series("1.2") == []

    def test_another_server_is_a_sentence(self):
        """A page that is no DICOMweb is told from an archive."""
        with loopback() as server:
            server.serve(
                "/web/studies/1.2/series?limit=1000&offset=0", b"<html>", content_type="text/html"
            )
            with pytest.raises(ResourceError, match="no answer of DICOMweb"):
                Pacs(f"{server.address}/web", Login()).series("1.2")

    def test_a_broken_object_keeps_no_other_back(self, slices: list[Path], tmp_path: Path):
        """What comes after it, in its series and in others, is fetched; it is said at the end."""
        held = {str(one.SOPInstanceUID): one for one in map(dcmread, slices)}
        first, broken, *rest = sorted(held)

        class Halting:
            host = "pacs"

            def series(self, _study):
                return ["1.1", "1.2"]

            def instances(self, _study, series):
                return [first, broken, rest[0]] if series == "1.1" else rest[1:]

            def fetch_series(self, study, series):
                for uid in self.instances(study, series):
                    yield self.fetch(study, series, uid)

            def fetch(self, _study, _series, uid):
                if uid == broken:
                    raise ResourceError("The archive at pacs broke off.")
                return held[uid]

        with pytest.raises(ResourceError, match=r"1 series did not come whole; the first: .*broke"):
            pull(Halting(), [Place("https://pacs", "1")], tmp_path / "there")
        come = {str(dcmread(path).SOPInstanceUID) for path in tmp_path.rglob("*.dcm")}
        assert come == set(held) - {broken}

    @pytest.mark.parametrize(
        ("end", "how", "left"),
        [
            (None, {"keep": False, "sealed": False}, False),
            (DataError("2 case(s) were refused"), {"keep": False, "sealed": False}, False),
            (ResourceError("no space"), {"keep": False, "sealed": False}, True),
            (KeyboardInterrupt(), {"keep": False, "sealed": False}, True),
            (None, {"keep": True, "sealed": False}, True),
            (KeyboardInterrupt(), {"keep": False, "sealed": True}, False),
            (None, {"keep": True, "sealed": True}, False),
        ],
    )
    def test_identities_do_not_stay(self, end, how, left, tmp_path, monkeypatch):
        """Refused cases leave nothing that was fetched; with --encrypt a stop does not either."""

        def fake(_pacs, _wanted, folder, _step):
            folder.mkdir(parents=True)
            (folder / "object.dcm").write_bytes(NOBODY.encode())
            return Pulled(1, 1)

        monkeypatch.setattr("evenhand.ingest.pull.pull", fake)
        address = "https://pacs/dicom-web/studies/1.2"
        with (
            suppress(DataError, ResourceError, KeyboardInterrupt),
            at_hand(address, tmp_path, None, None, **how),
        ):
            if end is not None:
                raise end
        assert any(tmp_path.rglob("object.dcm")) == left

    def test_an_archive_that_cannot_count_ends(self):
        """One that answers each page with the same objects is asked twice, not for ever."""
        body = b'[{"0020000E": {"vr": "UI", "Value": ["1.5"]}}]'
        with loopback() as server:
            for page in ("limit=1000&offset=0", "limit=1000&offset=1"):
                server.serve(f"/studies/1.2/series?{page}", body)
            assert Pacs(server.address, Login()).series("1.2") == ["1.5"]
            assert len(server.asked) == 2

    @pytest.mark.parametrize(
        ("address", "reason"),
        [
            ("ftp://pacs/x", "looks like https"),
            ("https://me:word@pacs/x", "holds a login"),
            ("http://pacs/x", "in the clear"),
            ("https://pacs/x?a=b", "no '\\?'"),
            ("https://pacs/x/studies/Smith", "only /studies/UID"),
        ],
    )
    def test_a_wrong_address_is_refused(self, address: str, reason: str):
        """Nothing is sent to what is no archive, in the clear, or with a login in the address."""
        with pytest.raises(UsageError, match=reason) as raised:
            Place.of(address)
        assert "word@" not in str(raised.value)

    def test_an_address_names_a_place(self):
        """Root, study and series are told apart."""
        whole = Place.of("https://pacs:8443/dicom-web/studies/1.2/series/3.4/")
        assert whole == Place("https://pacs:8443/dicom-web", "1.2", "3.4")
        assert Place.of("https://pacs/").root == "https://pacs"

    def test_what_to_pull_is_said_once(self, tmp_path: Path):
        """A study in the address or a file of studies, each a UID; else nothing starts."""
        root, one = Place("https://pacs"), Place("https://pacs", "1.2")
        uids = tmp_path / "uids.txt"
        uids.write_text("1.2\nSmith\n")
        for place, path in ((root, None), (one, uids), (root, uids), (root, tmp_path / "none")):
            with pytest.raises(UsageError) as raised:
                read_wanted(place, path)
            assert "Smith" not in str(raised.value)
        assert read_wanted(one, None) == [one]

    def test_a_login_that_others_can_read_is_refused(self, tmp_path: Path):
        """A login lies in a file of its owner, and is not shown by accident."""
        path = tmp_path / "login.toml"
        path.write_text('user = "me"\npassword = "word"\n')
        path.chmod(0o644)
        with pytest.raises(UsageError, match="chmod 600"):
            read_login(path)
        path.chmod(0o600)
        read = read_login(path)
        assert (read.user, read.password) == ("me", "word")
        assert "word" not in repr(read)
        path.write_text('passwort = "word"\n')
        with pytest.raises(UsageError, match="may have the keys"):
            read_login(path)

    def test_options_of_an_archive_want_an_archive(self, key: Path, tmp_path: Path):
        """--studies for a folder is a mistake that is said, not passed over."""
        done = ingest(tmp_path, "--kind", "dicom", "--into", tmp_path / "s", "--studies", key,
                      "--hospital", "north", "--key", key)  # fmt: skip
        assert isinstance(done.exception, UsageError)
        assert "for archives" in str(done.exception)
