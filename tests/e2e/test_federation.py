"""Three hospitals and a coordinator as processes over TLS; one hospital and the coordinator die.

A real SuperLink, its door and three real SuperNodes on loopback train phantoms for three rounds.
In the second round hospital west is killed, then the coordinator; both come back.
"""

import json
import os
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from evenhand.errors import WeightsError
from evenhand.experiment.layout import ArmFolder, build_model
from evenhand.model.adapter_files import read_adapter
from evenhand.model.weights import fetch
from evenhand_federated import wire
from evenhand_federated.checkpoint import read_checkpoint
from evenhand_federated.deployed import DeployedFedAvg
from evenhand_federated.node import HospitalNode
from evenhand_federated.orders import RoundOrder, precision_of
from evenhand_federated.rehearsal import Rehearsal, end_group
from evenhand_federated.strategy import FederationPlan
from evenhand_federated.study import read_study
from evenhand_federated.testing import FakeGrid
from evenhand_federated.warm_start import NAME, near
from federation_fakes import silent

pytestmark = [pytest.mark.weights, pytest.mark.timeout(1000)]

HOSPITALS = ("north", "south", "west")
LIMIT_S = 900
"""For the whole walk on a crowded machine; at a load of 6 it takes 3.5 minutes."""


@dataclass(frozen=True)
class World(Rehearsal):
    """A federation whose processes end with it, and what was seen of it."""

    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    facts: dict[str, object] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def start(self, name):
        """Start somebody's program, to be ended at the end."""
        self.processes[name] = super().start(name)

    def kill(self, name):
        """Kill a process, and what it has started in its group, as a power cut would."""
        end_group(self.processes.pop(name))

    def wait(self, what, until, limit=450):
        """Wait for something; fail with everybody's logs."""
        end = min(time.monotonic() + limit, self.started + LIMIT_S)
        while not until():
            if time.monotonic() > end:
                logs = [path.read_text(errors="replace")[-3000:] for path in self.logs()]
                pytest.fail(f"waited in vain for {what}\n" + "\n=====\n".join(logs))
            time.sleep(0.3)

    def logs(self):
        """Everybody's output."""
        return [*self.path.glob("*.log"), *self.path.glob("centre/coordinator/logs/*.log")]

    def close(self):
        """End all processes."""
        for name in list(self.processes):
            self.kill(name)


def supervise(world, name, stop):
    """Start a node again when it has ended, as systemd does."""
    while not stop.wait(3):
        process = world.processes.get(name)
        if process is not None and process.poll() is not None:
            world.facts[f"restarts of {name}"] = world.facts.get(f"restarts of {name}", 0) + 1
            world.start(name)


def kinds(world, name, number):
    """What the log of a hospital says of a round."""
    entries = world.hospital(name).messages().entries()
    return [entry.kind for entry in entries if entry.body().get("round") == number]


def rounds(world):
    """Numbers of the rounds that were recorded."""
    return [record["round"] for record in world.coordinator.arm(world.digest).read_rounds()]


def processes_of(world):
    """Living processes that belong to this federation, by their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "environ").read_text(errors="replace")
            if str(world.path) in text and int(process.name) != os.getpid():
                found.append((process.name, (process / "cmdline").read_text().replace("\0", " ")))
        except OSError:
            continue
    return [one for one in found if one[1]]


def starts_warm(hospital):
    """Whether the node's programs are forked from a process that has loaded already."""
    with (
        near(hospital.programs_path) as short,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link,
    ):
        return link.connect_ex(f"{short}/{NAME}") == 0


def ask(world, path, **options):
    """A request to the coordinator's door, from whoever."""
    context = ssl.create_default_context(cafile=str(world.coordinator.path / "ca.crt"))
    with httpx.Client(verify=context, trust_env=False, timeout=20) as client:
        return client.post(f"https://127.0.0.1:{world.port}{path}", **options)


def look_at_the_door(world):
    """What strangers get while the federation works."""
    world.facts["closed"] = {
        path: ask(world, path).status_code
        for path in (
            "/v1/control/list-nodes",
            "/v1/control/list-runs",
            "/v1/runtime/acquire-task",
            "/v1/fleet/%2e%2e/control/list-nodes",
            "/health",
        )
    }
    world.facts["no credential"] = ask(
        world, "/v1/fleet/pull-messages", headers={"content-type": "application/protobuf"}
    ).status_code
    with httpx.Client(trust_env=False, timeout=20) as client:
        try:
            client.post(f"https://127.0.0.1:{world.port}/v1/fleet/pull-messages")
            world.facts["foreign authority"] = "accepted"
        except httpx.ConnectError:
            world.facts["foreign authority"] = "refused"


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A federation that was set up, hurt, and finished."""
    try:
        fetch("mobile-sam")
    except WeightsError as error:
        pytest.skip(f"weights cannot be had here: {error}")
    world = World(tmp_path_factory.mktemp("federation"), HOSPITALS, rounds=3)
    stop = threading.Event()
    guards = [threading.Thread(target=supervise, args=(world, one, stop)) for one in HOSPITALS]
    try:
        world.set_up()
        world.facts["set up"] = time.monotonic() - world.started
        world.start("centre")
        world.wait("the door", lambda: world.is_open)
        for name in HOSPITALS:
            world.start(name)
        for guard in guards:
            guard.start()
        look_at_the_door(world)
        world.type("centre", "federation", "submit", world.study_path)
        world.wait("west to begin round 2", lambda: "received" in kinds(world, "west", 2))
        world.facts["round 1"] = time.monotonic() - world.started
        world.facts["warm"] = [name for name in HOSPITALS if starts_warm(world.hospital(name))]
        world.processes["killed"] = world.processes.pop("west")
        world.kill("killed")
        world.kill("centre")
        world.facts["rounds when killed"] = rounds(world)
        world.start("centre")
        world.wait("round 2", lambda: 2 in rounds(world))
        world.start("west")
        state = world.coordinator.state
        world.wait("the end", lambda: state(world.digest).status != "submitted")
        world.facts["finished"] = time.monotonic() - world.started
        world.facts["state"] = state(world.digest)
    finally:
        stop.set()
        for guard in guards:
            if guard.is_alive():
                guard.join()
        world.close()
    end = time.monotonic() + 20  # Flower's executors look for their parents now and then
    while processes_of(world) and time.monotonic() < end:
        time.sleep(0.5)
    world.facts["left"] = processes_of(world)
    print(world.facts)  # noqa: T201 - the measured times
    return world


class TestTheEnd:
    """What a hurt federation leaves."""

    def test_it_finished(self, walked):
        """All rounds are done, each was needed once, and nobody runs on."""
        assert walked.facts["state"].status == "finished"
        assert walked.facts["finished"] < LIMIT_S
        assert walked.facts["rounds when killed"] == [1]
        assert rounds(walked) == [1, 2, 3]
        assert walked.facts["left"] == []
        assert walked.facts["warm"] == list(HOSPITALS)

    def test_the_missing_hospital_is_named(self, walked):
        """The record of round 2 says who was not there, and the round went on without it."""
        first, second, third = walked.coordinator.arm(walked.digest).read_rounds()
        assert set(first["hospitals"]) == set(HOSPITALS)
        assert set(second["hospitals"]) == {"north", "south"}
        assert [*second["silent"], *second["failed"]] == ["west"]
        assert {"north", "south"} <= set(third["hospitals"])

    def test_the_adapter_is_the_right_one(self, walked, monkeypatch):
        """Bit for bit what the same rounds give in one process that nobody kills."""
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        torch.set_num_threads(1)
        study = read_study(walked.study_path)
        records = walked.coordinator.arm(walked.digest).read_rounds()
        answered = {record["round"]: set(record["hospitals"]) for record in records}

        def node_of(name):
            folder = walked.hospital(name)
            node = HospitalNode(
                folder.home(study), study.terms.config(), folder.train_patients(study)
            )

            def answer(message):
                number = int(message.content["config"]["round"])
                if name not in answered[number]:
                    return silent(message)
                order = RoundOrder("federated", number)
                precision = node.precision("federated")
                before = wire.received(message.content, precision)
                state, figures = node.train_round(order, before.to_torch_state_dict())
                content = wire.update(before, ArrayRecord(state), precision)
                content["metrics"] = MetricRecord(figures)
                return Message(RecordDict(content), reply_to=message)

            return answer

        nodes = dict(enumerate(HOSPITALS, start=10))
        folder = ArmFolder(walked.path / "again")
        folder.path.mkdir()
        precision = precision_of(study.terms.config(), "federated")
        plan = FederationPlan("federated", 3, 0, nodes, 2, precision=precision)
        DeployedFedAvg(plan, folder, patience_s=1, grace_s=1).start(
            grid=FakeGrid({node: node_of(name) for node, name in nodes.items()}),
            initial_arrays=ArrayRecord(build_model(study.terms.config()).adapter_state()),
            num_rounds=3,
        )
        _, expected = read_checkpoint(folder)
        found = read_adapter(walked.coordinator.arm(walked.digest).adapter_path).state
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


class TestLogs:
    """What each hospital knows afterwards."""

    def test_every_hospital_has_its_own_log(self, walked):
        """What left, how large, with which hash; whole, and readable by a person."""
        for name in HOSPITALS:
            text = walked.type(name, "federation", "log", name)
            assert "sent" in text
            assert "sha256" in text
            assert walked.hospital(name).messages().faults() == []
        assert kinds(walked, "north", 1) == ["received", "sent"]
        assert kinds(walked, "west", 2) == ["received"], "it was killed before it could answer"

    def test_the_record_and_the_logs_agree(self, walked):
        """As many bytes left a hospital as the coordinator says it got, but for what wraps them."""
        first = walked.coordinator.arm(walked.digest).read_rounds()[0]
        for name in HOSPITALS:
            (sent,) = [
                entry.body()["bytes"]
                for entry in walked.hospital(name).messages().entries()
                if entry.kind == "sent" and entry.body()["round"] == 1
            ]
            assert sent == pytest.approx(first["hospitals"][name]["bytes"], rel=0.1)

    def test_nothing_of_a_patient_is_in_what_the_coordinator_has(self, walked):
        """Neither records nor logs of the coordinator name a patient or a path of a hospital."""
        study = read_study(walked.study_path)
        kept = "".join(
            path.read_text(errors="replace")
            for path in walked.coordinator.path.rglob("*")
            if path.suffix in {".jsonl", ".json", ".log", ".toml"}
        )
        for name in HOSPITALS:
            assert str(walked.path / "stores" / name) not in kept
            for patient in walked.hospital(name).train_patients(study):
                assert patient not in kept

    def test_status_shows_it(self, walked):
        """A coordinator sees rounds, who was missing, and where the adapter is."""
        text = walked.type("centre", "federation", "status")
        assert "finished, 3 of 3 rounds" in text
        assert "west" in text


class TestClosedDoors:
    """What was reachable while it worked."""

    def test_only_the_nodes_interface_is_there(self, walked):
        """Control and runtime interfaces are not behind the door that hospitals know."""
        assert set(walked.facts["closed"].values()) == {404}
        refused = (walked.coordinator.path / "logs" / "door.jsonl").read_text().splitlines()
        assert "/v1/control/list-nodes" in {json.loads(line)["path"] for line in refused}

    def test_no_credential_no_answer(self, walked):
        """Who has no admitted key gets nothing from it."""
        assert walked.facts["no credential"] in {401, 403}
        refused = (walked.coordinator.path / "logs" / "door.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in refused]
        assert "no key of an admitted hospital" in {one["why"] for one in entries}
        assert walked.facts["foreign authority"] == "refused"
