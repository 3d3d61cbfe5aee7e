"""The coordinator at work: `evenhand federation serve`.

One process holds a SuperLink on loopback and the door before it, tells the SuperLink which
nodes are admitted, and starts what was submitted. It may be killed at any time: the SuperLink
ends with it, and when it is started again unfinished studies go on from their last finished
round. A study that gets no further in several starts is given up, with the reason.
"""

import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx

from evenhand.errors import EvenhandError, FederationError, ResourceError
from evenhand_federated.bundle import write_app
from evenhand_federated.checkpoint import finished_rounds, start_work
from evenhand_federated.coordinator import COORDINATOR_VARIABLE, SERVING_VARIABLE, CoordinatorFolder
from evenhand_federated.door import Door
from evenhand_federated.flower import QUICK, environment, operate, program, write_connection
from evenhand_federated.kept_opening import KeptOpening
from evenhand_federated.study import SignedStudy

__all__ = ["Coordinator", "check_port", "free_port", "serve"]

_START_LIMIT_S = 120.0
_POLL_S = 1.0
_LAUNCH_LIMIT_S = 90.0
"""How long a started run may take until its ServerApp holds the study."""
_PORTS = range(20_000, 32_000)
"""Below those that Linux gives to outgoing connections, from 32768 on."""
ATTEMPTS = 3
"""Starts of a study without one more finished round, nor more done of a start from phantoms, after
which it is given up."""


def free_port() -> int:
    """A port on loopback that is free, and that no outgoing connection is given meanwhile.

    Raises:
        ResourceError: none of many is free.
    """
    for port in secrets.SystemRandom().sample(_PORTS, 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ResourceError("No port on loopback is free. End what listens on so many.")


def check_port(host: str, port: int) -> None:
    """Refuse a port that cannot be listened on.

    Raises:
        ResourceError: somebody else has it, or it needs another user.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ResourceError(
                f"Port {port} on {host} cannot be had: {error.strerror}. End what uses it, or "
                "choose another port in coordinator.toml and invite the hospitals anew."
            ) from None


def serve(folder: CoordinatorFolder, tell: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Args:
        folder: of the coordinator.
        tell: shows a person what happens.

    Raises:
        FederationError: another process serves this folder, or the SuperLink has ended.
        ResourceError: the port is taken.
    """
    settings = folder.settings()
    with folder.serving() as token:
        folder.renew()
        check_port(settings.listen, settings.port)
        with _superlink(folder, token) as (link, port):
            door = Door(f"https://127.0.0.1:{port}", folder.path / "ca.crt", _doors_log(folder))
            door.start(
                settings.listen,
                settings.port,
                certificate=folder.path / "server.crt",
                key=folder.path / "server.key",
            )
            try:
                while door.is_alive and not door.is_open:
                    time.sleep(0.1)
                tell(f"Open: {settings.host}:{settings.port}")
                coordinator = Coordinator(folder, tell)
                while True:
                    if link.poll() is not None or not door.is_alive:
                        what = "door" if link.poll() is None else "SuperLink"
                        raise FederationError(
                            f"The {what} has ended; read '{folder.path / 'logs'}'. Serve again: "
                            "studies go on from their last finished round."
                        )
                    coordinator.step()
                    time.sleep(_POLL_S)
            finally:
                door.stop()


class Coordinator:
    """What is looked after while serving.

    Args:
        folder: of the coordinator.
        tell: shows a person what happens.
    """

    def __init__(self, folder: CoordinatorFolder, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._tell = tell
        self._launched: dict[str, float] = {}
        self._complaint = ""
        self._flower = folder.path / "flower"

    def step(self) -> None:
        """Register who is new, end what was stopped, start what waits; never two at a time.

        What goes wrong is said once, and tried again at the next step: one bad file or one slow
        answer must not shut the door on those who train.
        """
        try:
            self._step()
        except EvenhandError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                self._tell(f"Not done: {error}")

    def _step(self) -> None:
        self._register()
        busy, faults = False, self._folder.damaged()
        for study in self._folder.studies():
            try:
                busy = self._look_after(study, busy=busy) or busy
            except EvenhandError as error:  # one study's fault must not hold up the others
                faults.append(str(error))
        if faults:
            raise FederationError(" ".join(faults))

    def _look_after(self, study: SignedStudy, *, busy: bool) -> bool:
        """Stop or start one study; returns whether it keeps the hospitals busy."""
        digest, state = study.digest, self._folder.state(study.digest)
        if self._folder.is_running(digest):
            self._launched.pop(digest, None)
            if state.status == "stopped":
                self._stop(digest, state.run_id)
            return True
        if digest in self._launched:
            if time.monotonic() - self._launched[digest] < _LAUNCH_LIMIT_S and (
                state.status == "submitted" and not state.reason
            ):
                return True
            self._launched.pop(digest)
        if state.status == "stopped":
            KeptOpening(self._folder.arm(digest).path).end()
        if state.status == "submitted" and not busy:
            return self._start(digest, study.terms.name)
        return False

    def _register(self) -> None:
        for member in self._folder.members().values():
            if member.node_id is not None:
                continue
            key = self._flower / f"{member.hospital}.pub"
            key.write_text(member.public_key + "\n", encoding="utf-8")
            answer = operate(self._flower, "supernode", "register", str(key))
            self._folder.keep_member(replace(member, node_id=int(answer["node-id"])))
            self._tell(f"Admitted: {member.hospital}")

    def _start(self, digest: str, name: str) -> bool:
        state = self._folder.state(digest)
        arm = self._folder.arm(digest)
        done, work = finished_rounds(arm), start_work(arm)
        got_further = done > state.rounds_at_start or work > state.work_at_start
        attempts = 1 if got_further else state.attempts + 1
        if attempts > ATTEMPTS:
            self._folder.change_state(digest, status="failed")
            self._tell(f"Given up: {name}: {state.reason or 'it ended without a word'}")
            kept = KeptOpening(arm.path)
            if kept.sum_of(done + 1) is None:  # else it is finished unpaid, if submitted again
                kept.end()
            return False
        app = self._flower / "app"
        write_app(app, digest)
        reason = "the link did not take the run; see logs/superlink.log"
        self._folder.change_state(
            digest, attempts=attempts, rounds_at_start=done, work_at_start=work, reason=reason
        )
        answer = operate(self._flower, "run", str(app))
        self._folder.change_state(digest, run_id=int(answer["run-id"]), reason="")
        self._launched[digest] = time.monotonic()
        self._tell(f"Started: {name}, from round {done + 1}")
        return True

    def _stop(self, digest: str, run_id: int | None) -> None:
        if run_id is not None:
            with suppress(FederationError):  # it may have ended meanwhile
                operate(self._flower, "stop", str(run_id))
            self._tell(f"Stopped: {digest[:16]}")


@contextmanager
def _superlink(
    folder: CoordinatorFolder, token: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A SuperLink on loopback that ends with this process, and its port."""
    port = free_port()
    flower, logs = folder.path / "flower", folder.path / "logs"
    logs.mkdir(exist_ok=True)
    write_connection(flower, f"127.0.0.1:{port}", folder.path / "ca.crt")
    command = [
        *(sys.executable, "-P", "-m", "evenhand_federated.leash", program("flower-superlink")),
        *("--ssl-ca-certfile", str(folder.path / "ca.crt")),
        *("--ssl-certfile", str(folder.path / "server.crt")),
        *("--ssl-keyfile", str(folder.path / "server.key")),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--database", str(folder.database_path)),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]
    with (logs / "superlink.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            command,
            env=environment(
                flower,
                {
                    **QUICK,
                    COORDINATOR_VARIABLE: str(folder.path.resolve()),
                    SERVING_VARIABLE: token,
                },
            ),
            cwd=flower,
            stdin=subprocess.PIPE,  # closed when this process is gone, however it went
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(process, port, folder.path / "ca.crt", logs)
        yield process, port
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait()


def _wait_until_healthy(
    process: subprocess.Popen[bytes], port: int, authority: Path, logs: Path
) -> None:
    import ssl

    until = time.monotonic() + _START_LIMIT_S
    context = ssl.create_default_context(cafile=str(authority))
    with httpx.Client(verify=context, trust_env=False, timeout=5) as client:
        while process.poll() is None and time.monotonic() < until:
            with suppress(httpx.HTTPError):
                if client.get(f"https://127.0.0.1:{port}/health").is_success:
                    return
            time.sleep(0.3)
    raise ResourceError(f"The SuperLink did not start; read '{logs / 'superlink.log'}'.")


def _doors_log(folder: CoordinatorFolder) -> Path:
    return folder.path / "logs" / "door.jsonl"
