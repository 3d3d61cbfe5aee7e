"""What hospitals reach of the coordinator: the interface for nodes, in bounded pieces."""

import asyncio
import json
from types import SimpleNamespace

import httpx
import pytest

from evenhand_federated import door as doors
from evenhand_federated.door import Door


@pytest.fixture
def inner():
    """What came through to the SuperLink."""
    return []


async def pieces():
    """An answer that comes in two pieces."""
    yield b"ans"
    yield b"wer"


@pytest.fixture
def door(tmp_path, inner):
    """A door before a SuperLink that answers with what it got."""

    async def superlink(request):
        inner.append((request.method, request.url.raw_path.decode(), await request.aread()))
        return httpx.Response(207, content=pieces(), headers={"x-own": "1"})

    return Door(
        "https://127.0.0.1:1",
        None,
        tmp_path / "door.jsonl",
        largest=1000,
        transport=httpx.MockTransport(superlink),
    )


def ask(door, path, *, body=b"", headers=None):
    """One request through the door."""

    async def go():
        transport = httpx.ASGITransport(app=door)
        async with httpx.AsyncClient(transport=transport, base_url="https://door") as client:
            return await client.post(path, content=body, headers=headers)

    return asyncio.run(go())


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/v1/fleet/get-run?x=1"])
def test_nodes_come_through(door, inner, path):
    """Method, path, query, body and headers arrive; so does the answer."""
    answer = ask(door, path, body=b"abc")
    assert (answer.status_code, answer.content, answer.headers["x-own"]) == (207, b"answer", "1")
    assert inner == [("POST", path, b"abc")]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-nodes",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/health",
        "/docs",
        "/",
        "/logs/door.jsonl",
        "/v1/fleet/../../hospitals/south/federation/messages.jsonl",
        "/v1/fleet",
        "/V1/FLEET/pull-messages",
        "/v1/fleet/../control/list-nodes",
        "/v1/fleet/%2e%2e/control/list-nodes",
        "/v1/fleet/%2E./control/list-nodes",
        "/v1/fleet//control/list-nodes",
        "//v1/fleet/pull-messages",
    ],
)
def test_nothing_else_does(door, inner, tmp_path, path):
    """Operators' and apps' interfaces answer anybody: they must not be behind this door."""
    assert ask(door, path).status_code == 404
    assert inner == []
    (line,) = (tmp_path / "door.jsonl").read_text().splitlines()
    assert json.loads(line)["why"] == "not for hospitals"


@pytest.mark.parametrize("declared", [True, False])
def test_a_huge_body_is_refused(door, inner, tmp_path, declared):
    """Whether it says its size or not; the rest of the federation goes on."""

    async def body():
        for _ in range(20):
            yield b"x" * 100

    content = b"x" * 2000 if declared else body()
    assert ask(door, "/v1/fleet/push-object", body=content).status_code == 413
    assert json.loads((tmp_path / "door.jsonl").read_text())["why"] == "too large"
    assert ask(door, "/v1/fleet/push-object", body=b"x" * 900).status_code == 207


def test_a_superlink_that_is_away(tmp_path):
    """Nodes are told to come again."""

    def superlink(request):
        raise httpx.ConnectError("no")

    transport = httpx.MockTransport(superlink)
    door = Door("https://127.0.0.1:1", None, tmp_path / "log", transport=transport)
    assert ask(door, "/v1/fleet/pull-messages").status_code == 503


def test_a_query_that_cannot_be_is_refused(door, inner):
    """Bytes that are no address get 400 and a line in the log, not a traceback."""
    sent = []

    async def send(part):
        sent.append(part)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/fleet/x",
        "query_string": b"\xff",
        "headers": [],
    }
    asyncio.run(door(scope, None, send))
    assert sent[0]["status"] == 400
    assert inner == []


def test_the_log_does_not_fill_the_disk(door, tmp_path, monkeypatch):
    """Whoever knocks all day long costs two files of a bounded size."""
    monkeypatch.setattr(doors, "_LARGEST_LOG", 300)
    for _ in range(20):
        ask(door, "/health")
    files = sorted(tmp_path.glob("door.jsonl*"))
    assert [path.name for path in files] == ["door.jsonl", "door.jsonl.1"]
    assert all(path.stat().st_size < 500 for path in files)


def test_connections_are_bounded(door, tmp_path, monkeypatch):
    """Strangers cannot open connections without end."""
    asked = {}
    monkeypatch.setattr(doors.uvicorn, "Config", lambda *_, **options: asked.update(options))
    monkeypatch.setattr(doors.uvicorn, "Server", lambda _: SimpleNamespace(run=lambda: None))
    door.start("127.0.0.1", 1, certificate=tmp_path / "c", key=tmp_path / "k")
    assert 0 < asked["limit_concurrency"] < 1000


@pytest.mark.parametrize("status", [401, 403])
def test_no_credential_is_refused_and_logged(tmp_path, status):
    """The link refuses who is no admitted hospital; the door writes down that somebody tried."""
    link = httpx.MockTransport(lambda _: httpx.Response(status, content=pieces()))
    door = Door("https://127.0.0.1:1", None, tmp_path / "door.jsonl", transport=link)
    assert ask(door, "/v1/fleet/pull-messages").status_code == status
    (line,) = (tmp_path / "door.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry["path"] == "/v1/fleet/pull-messages"
    assert entry["why"] == "no key of an admitted hospital"
