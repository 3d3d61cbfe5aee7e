"""Checkpoints: fetched over an unreliable network, trusted by hash alone, read without code."""

import hashlib
import os
import pickle
import re
import shutil
import socket
import threading
from collections import namedtuple

import pytest
import torch
from loopback_server import loopback
from rich.progress import Progress
from typer.testing import CliRunner

from evenhand.cli import app
from evenhand.errors import ResourceError, WeightsError
from evenhand.model import transfer, weights
from evenhand.model.sources import Url

BODY = bytes(range(256)) * 1200
"""307,200 bytes: five chunks, the last one short."""

CHUNK = transfer.CHUNK_BYTES


@pytest.fixture
def server(monkeypatch):
    """A loopback server; proxies of the machine are left aside and retries do not wait."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(transfer, "PAUSE_S", 0)
    with loopback() as running:
        yield running


@pytest.fixture
def register(monkeypatch):
    """Make a registry of one checkpoint, `tiny`, whose bytes are BODY."""

    def _register(*sources):
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
        return entry

    return _register


@pytest.fixture
def unused_port():
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch(folder):
    """Fetch `tiny` without drawing a bar."""
    return weights.fetch("tiny", cache=folder, progress=Progress(disable=True))


def left_in(folder):
    """Names of all files but the lock."""
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith(".lock"))


class TestRegistry:
    """What is known about each checkpoint."""

    def test_every_checkpoint_can_be_checked(self):
        """Nothing is loadable that has no published hash, and official addresses come first."""
        assert set(weights.REGISTRY) == {
            "mobile-sam",
            "lite-medsam",
            "sam-vit-b",
            "sam-vit-l",
            "sam-vit-h",
            "medsam-vit-b",
        }
        for name, entry in weights.REGISTRY.items():
            assert entry.name == name
            assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
            assert entry.size > 10_000_000
            assert isinstance(entry.sources[0], Url)
            assert entry.sources[0].address.startswith("https://")
        assert len({entry.file for entry in weights.REGISTRY.values()}) == len(weights.REGISTRY)
        assert len({entry.sha256 for entry in weights.REGISTRY.values()}) == len(weights.REGISTRY)

    def test_unknown_name_names_the_nearest(self):
        """A typing error is answered with the name that was probably meant."""
        with pytest.raises(WeightsError, match=r"'mobil-sam'.*Did you mean 'mobile-sam'"):
            weights.find("mobil-sam")

    def test_cache_follows_the_environment(self, monkeypatch, tmp_path):
        """EVENHAND_CACHE wins over XDG_CACHE_HOME, and an explicit folder over both."""
        monkeypatch.delenv("EVENHAND_CACHE", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert weights.cache_folder() == tmp_path / "xdg" / "evenhand" / "weights"
        monkeypatch.setenv("EVENHAND_CACHE", str(tmp_path / "own"))
        assert weights.cache_folder() == tmp_path / "own" / "weights"
        assert weights.cache_folder(tmp_path) == tmp_path


class TestFetch:
    """From an address to a file whose hash is right."""

    def test_right_file_appears_alone_and_is_not_fetched_twice(self, server, register, tmp_path):
        """A finished download leaves the file and nothing else; a second fetch asks nobody."""
        register(Url(server.serve("/tiny.pt", BODY)))
        path = fetch(tmp_path / "weights")
        assert path.read_bytes() == BODY
        assert left_in(path.parent) == ["tiny.pt"]
        assert fetch(tmp_path / "weights") == path
        assert len(server.asked) == 1

    def test_broken_connection_is_taken_up_where_it_broke(self, server, register, tmp_path):
        """What has arrived is not asked for again: the server sends each byte once."""
        url = server.serve("/tiny.pt", BODY, breaks=[2 * CHUNK, CHUNK])
        register(Url(url))
        assert fetch(tmp_path).read_bytes() == BODY
        ranges = [asked for _, asked in server.asked]
        assert ranges == [None, f"bytes={2 * CHUNK}-", f"bytes={3 * CHUNK}-"]
        assert server.sent["/tiny.pt"] == len(BODY)

    def test_broken_answer_without_a_length_is_noticed(self, server, register, tmp_path):
        """A short body counts as broken even when the server announced no length."""
        url = server.serve("/tiny.pt", BODY, breaks=[2 * CHUNK], announces_length=False)
        register(Url(url))
        assert fetch(tmp_path).read_bytes() == BODY
        assert server.sent["/tiny.pt"] == len(BODY)

    def test_next_run_continues_the_part_file(self, server, register, tmp_path):
        """A download that was given up is continued by the next process."""
        url = server.serve("/tiny.pt", BODY, breaks=[CHUNK, 0])
        register(Url(url))
        with pytest.raises(WeightsError, match=f"the connection broke; {CHUNK:,} bytes are kept"):
            fetch(tmp_path)
        assert left_in(tmp_path) == ["tiny.pt.part"]
        assert fetch(tmp_path).read_bytes() == BODY
        assert server.asked[-1] == ("/tiny.pt", f"bytes={CHUNK}-")
        assert left_in(tmp_path) == ["tiny.pt"]

    def test_server_without_range_is_read_from_the_start(self, server, register, tmp_path):
        """A server that ignores Range must not append the whole file to the part."""
        (tmp_path / "tiny.pt.part").write_bytes(BODY[:CHUNK])
        register(Url(server.serve("/tiny.pt", BODY, honours_range=False)))
        assert fetch(tmp_path).read_bytes() == BODY

    @pytest.mark.parametrize("length", [CHUNK, len(BODY), len(BODY) + 1])
    def test_foreign_part_file_is_thrown_away(self, server, register, tmp_path, length):
        """Bytes of another file, left under the part's name, cost one more try and no more."""
        (tmp_path / "tiny.pt.part").write_bytes(b"?" * length)
        register(Url(server.serve("/tiny.pt", BODY)))
        assert fetch(tmp_path).read_bytes() == BODY

    def test_wrong_bytes_are_refused_and_not_kept(self, server, register, tmp_path):
        """The message names file, wanted and got; nothing usable stays on disk."""
        other = BODY[::-1]
        entry = register(Url(server.serve("/tiny.pt", other)))
        with pytest.raises(WeightsError) as caught:
            fetch(tmp_path)
        message = str(caught.value)
        assert "tiny.pt" in message
        assert entry.sha256 in message
        assert hashlib.sha256(other).hexdigest() in message
        assert left_in(tmp_path) == []

    @pytest.mark.parametrize(
        ("behaviour", "reason"),
        [
            ({}, "offers 307,201 bytes where 307,200"),
            ({"announces_length": False}, "sends more than the 307,200 bytes"),
            ({"content_type": "text/html; charset=utf-8"}, "web page"),
        ],
    )
    def test_what_cannot_be_the_file_is_refused(
        self, server, register, tmp_path, behaviour, reason
    ):
        """A login page or another file is recognised without trusting the server."""
        register(Url(server.serve("/tiny.pt", BODY + b"!", **behaviour)))
        with pytest.raises(WeightsError, match=reason):
            fetch(tmp_path)
        assert left_in(tmp_path) == []

    def test_sources_are_tried_in_order_until_one_is_right(self, server, register, tmp_path):
        """A missing and a lying source are passed over; nobody after the right one is asked."""
        wrong = server.serve("/wrong", BODY[::-1])
        right = server.serve("/right", BODY)
        register(Url(server.address + "/gone"), Url(wrong), Url(right), Url(right + "-unused"))
        assert fetch(tmp_path).read_bytes() == BODY
        assert [path for path, _ in server.asked] == ["/gone", "/wrong", "/right"]

    def test_when_no_source_answers_each_is_named_with_its_reason(
        self, server, register, tmp_path, unused_port
    ):
        """The error lists every source and says where to put the file by hand."""
        register(Url(server.address + "/gone"), Url(f"http://127.0.0.1:{unused_port}/tiny.pt"))
        with pytest.raises(WeightsError) as caught:
            fetch(tmp_path)
        message = str(caught.value)
        assert f"1. {server.address}/gone: it answered HTTP 404" in message
        assert f"2. http://127.0.0.1:{unused_port}/tiny.pt: no connection" in message
        assert f"by hand: '{tmp_path / 'tiny.pt'}'" in message
        assert "evenhand weights verify tiny" in message

    def test_damaged_file_is_replaced(self, server, register, tmp_path):
        """A checkpoint that is here but wrong is never returned."""
        (tmp_path / "tiny.pt").write_bytes(BODY[:-1])
        register(Url(server.serve("/tiny.pt", BODY)))
        assert fetch(tmp_path).read_bytes() == BODY

    def test_small_disk_is_told_before_anything_is_written(
        self, server, register, tmp_path, monkeypatch
    ):
        """No space: one clear sentence, no request, no file."""
        usage = namedtuple("usage", "total used free")  # noqa: PYI024 - the shape of shutil's own
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, len(BODY) - 1))
        register(Url(server.serve("/tiny.pt", BODY)))
        with pytest.raises(ResourceError, match=r"0 MB free.*EVENHAND_CACHE"):
            fetch(tmp_path)
        assert server.asked == []
        assert left_in(tmp_path) == []

    def test_unwritable_folder_is_a_clear_error(self, register, tmp_path):
        """A file where the folder should be is named, with the way out."""
        (tmp_path / "weights").write_text("in the way")
        register()
        with pytest.raises(ResourceError, match="EVENHAND_CACHE"):
            fetch(tmp_path / "weights")

    def test_two_at_once_download_once(self, server, register, tmp_path):
        """The second waits for the first and takes its file; neither writes into the other's."""
        register(Url(server.serve("/tiny.pt", BODY)))
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(fetch(tmp_path).read_bytes()))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [BODY] * 4
        assert len(server.asked) == 1


class TestVerify:
    """Files that are already here."""

    def test_right_by_name_and_by_file_whatever_it_is_called(self, register, tmp_path):
        """A file that was fetched by hand is recognised by its content."""
        entry = register()
        (tmp_path / "tiny.pt").write_bytes(BODY)
        (tmp_path / "download(1)").write_bytes(BODY)
        assert weights.verify("tiny", cache=tmp_path) == entry
        assert weights.verify(tmp_path / "tiny.pt") == entry
        assert weights.verify(str(tmp_path / "download(1)")) == entry

    def test_missing_damaged_and_unknown_are_told_apart(self, register, tmp_path):
        """Each says what was wanted and the way out."""
        entry = register()
        with pytest.raises(WeightsError, match=r"is not there.*weights get tiny"):
            weights.verify("tiny", cache=tmp_path)
        (tmp_path / "tiny.pt").write_bytes(BODY[::-1])
        with pytest.raises(WeightsError, match=f"should have sha256 {entry.sha256} and has "):
            weights.verify("tiny", cache=tmp_path)
        (tmp_path / "other.pt").write_bytes(BODY[::-1])
        with pytest.raises(WeightsError, match="none of the known checkpoints"):
            weights.verify(tmp_path / "other.pt")
        with pytest.raises(WeightsError, match="neither a file nor a backbone"):
            weights.verify("tinny")


class Trap:
    """Pickles into a call that makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestLoad:
    """From a file to tensors, without running anything."""

    def test_tensors_come_back_as_saved(self, tmp_path):
        """Values, types and names survive."""
        saved = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.int8)}
        torch.save(saved, tmp_path / "good.pt")
        torch.save(saved, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
        for name in ("good.pt", "old.pt"):
            loaded = weights.load_state_dict(tmp_path / name)
            assert loaded.keys() == saved.keys()
            assert all(torch.equal(loaded[key], saved[key]) for key in saved)
            assert all(loaded[key].dtype == saved[key].dtype for key in saved)

    @pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
    def test_a_pickle_that_runs_code_is_refused_and_does_not_run(self, tmp_path, form):
        """The trap would make a folder; the same trap does spring for a plain unpickler."""
        path, mark = tmp_path / "evil.pt", tmp_path / "mark"
        content = {"weight": torch.zeros(1), "trap": Trap(mark)}
        if form == "bare":
            path.write_bytes(pickle.dumps(content, protocol=2))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
        with pytest.raises(WeightsError, match=r"evil\.pt"):
            weights.load_state_dict(path)
        assert not mark.exists()
        if form == "bare":
            pickle.loads(path.read_bytes())  # noqa: S301 - to show that the trap is a trap
        else:
            torch.load(path, weights_only=False)
        assert mark.exists()

    @pytest.mark.parametrize("content", [[torch.zeros(1)], {"a": 1}, {1: torch.zeros(1)}])
    def test_other_things_than_named_tensors_are_refused(self, tmp_path, content):
        """A checkpoint of another shape is told at the door, not deep in the model."""
        torch.save(content, tmp_path / "odd.pt")
        with pytest.raises(WeightsError, match="named tensors"):
            weights.load_state_dict(tmp_path / "odd.pt")

    @pytest.mark.parametrize("kept", [0, 10, 600])
    def test_truncated_file_is_a_clear_error(self, tmp_path, kept):
        """A cut file is a sentence, not a stack of torch's."""
        torch.save({"a": torch.zeros(1000)}, tmp_path / "whole.pt")
        (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:kept])
        with pytest.raises(WeightsError, match=r"cut\.pt"):
            weights.load_state_dict(tmp_path / "cut.pt")

    def test_missing_file_says_how_to_get_it(self, tmp_path):
        """The way out is in the message."""
        with pytest.raises(WeightsError, match="evenhand weights get"):
            weights.load_state_dict(tmp_path / "none.pt")


class TestCommands:
    """`evenhand weights ...`."""

    def test_get_list_verify(self, server, register, tmp_path):
        """The three commands work on one folder; paths go to standard output."""
        register(Url(server.serve("/tiny.pt", BODY)))
        runner = CliRunner(env={"COLUMNS": "200"})
        cache = ["--cache", str(tmp_path)]
        assert " no " in runner.invoke(app, ["weights", "list", *cache]).stdout
        got = runner.invoke(app, ["weights", "get", "tiny", *cache])
        assert got.exit_code == 0
        assert got.stdout == f"{tmp_path / 'tiny.pt'}\n"
        assert " yes " in runner.invoke(app, ["weights", "list", *cache]).stdout
        checked = runner.invoke(app, ["weights", "verify", *cache])
        assert checked.exit_code == 0
        assert "tiny: right" in checked.stdout

    def test_verify_reports_all_that_are_wrong(self, register, tmp_path):
        """One wrong file does not hide the next, and an empty folder is not a success."""
        register()
        runner = CliRunner()
        empty = runner.invoke(app, ["weights", "verify", "--cache", str(tmp_path)])
        assert isinstance(empty.exception, WeightsError)
        (tmp_path / "tiny.pt").write_bytes(b"cut")
        both = runner.invoke(
            app, ["weights", "verify", "tiny", "elsewhere.pt", "--cache", str(tmp_path)]
        )
        assert isinstance(both.exception, WeightsError)
        assert "tiny.pt" in str(both.exception)
        assert "elsewhere.pt" in str(both.exception)

    def test_a_wrong_name_is_told_before_anything_is_fetched(self, server, register, tmp_path):
        """`get right wrong` does nothing."""
        register(Url(server.serve("/tiny.pt", BODY)))
        result = CliRunner().invoke(
            app, ["weights", "get", "tiny", "tinny", "--cache", str(tmp_path)]
        )
        assert isinstance(result.exception, WeightsError)
        assert server.asked == []
