"""Seconds of a round beyond training, beside Flower's own trivial app in the same run.

    python benchmarks/federation_overhead.py --rounds 8 --out runs/overhead

Three federations one after another, each a SuperLink and as many SuperNodes as processes, over TLS
on loopback with authenticated nodes: Flower's app whose hospitals send back arrays of the same
sizes and type, once with numpy alone and once with torch imported as Flower's quickstart does, then
Evenhand's on phantoms. A round is the time between two records of finished rounds; of Evenhand's
the slowest hospital's training is taken off. Not more hospitals than cores: training would wait
for a core and count as overhead. Expected on two quiet cores: 4 minutes.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import tomli_w

from evenhand.experiment.layout import build_model
from evenhand.model.weights import fetch
from evenhand_federated.certificates import make_authority, make_node_key, make_server_certificate
from evenhand_federated.flower import environment, operate, program, write_connection
from evenhand_federated.rehearsal import CENTRE, Rehearsal, end_group, start_group
from evenhand_federated.serve import free_port
from evenhand_federated.study import SignedStudy

LIMIT_S = 900
CLIENT = """
{imports}
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    arrays = {convert}
    content = {{"arrays": arrays, "metrics": MetricRecord({{"num-examples": 1}})}}
    return Message(RecordDict(content), reply_to=message)
"""
SERVER = """
import json
import time

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Recorded(FedAvg):
    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        found = super().aggregate_train(server_round, replies)
        with open({record!r}, "a", encoding="utf-8") as file:
            file.write(json.dumps({{"round": server_round, "hospitals": len(replies)}}) + "\\n")
        return found


@app.main()
def main(grid, context):
    shapes = json.loads({shapes!r})
    arrays = ArrayRecord({{n: Array(np.zeros(s, np.float32)) for n, s in shapes.items()}})
    Recorded(fraction_evaluate=0.0, min_train_nodes={hospitals},
             min_available_nodes={hospitals}).start(
        grid=grid, initial_arrays=arrays, num_rounds={rounds})
"""
KINDS = {
    "Flower, numpy": ("", 'message.content["arrays"]'),
    "Flower, torch": (
        "import torch",
        'ArrayRecord(message.content["arrays"].to_torch_state_dict())',
    ),
}


def main() -> None:
    """Run the three, print a table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--hospitals", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True)
    fetch("mobile-sam")
    names = tuple(f"h{number}" for number in range(options.hospitals))
    alike = 'precision = "float32"\n'  # of [federation]: Flower's app sends float32, too
    rehearsal = Rehearsal(out / "evenhand", names, options.rounds, options.hospitals, more=alike)
    study = rehearsal.set_up()
    shapes = {
        name: list(one.shape)
        for name, one in build_model(study.terms.config()).adapter_state().items()
    }
    seconds = {
        kind: flower(out / str(number), kind, shapes, options.hospitals, options.rounds)
        for number, kind in enumerate(KINDS)
    }
    seconds["Evenhand"], training = evenhand(rehearsal, study)
    beyond = [whole - trained for whole, trained in zip(seconds["Evenhand"], training, strict=True)]
    seconds["Evenhand, beyond training"] = beyond
    (out / "overhead.json").write_text(json.dumps(seconds, indent=1))
    own = statistics.median(beyond)
    print(f"load {os.getloadavg()[0]:.1f}, {options.hospitals} hospitals")
    print("| way | median, s | smallest | largest | Evenhand beyond training / it |")
    print("|---|---|---|---|---|")
    for kind, each in seconds.items():
        median = statistics.median(each)
        print(f"| {kind} | {median:.1f} | {min(each):.1f} | {max(each):.1f} | {own / median:.2f} |")


def flower(
    folder: Path, kind: str, shapes: dict[str, list[int]], hospitals: int, rounds: int
) -> list[float]:
    """Seconds of each round but the first of Flower's app."""
    folder.mkdir()
    make_authority(folder, "Centre")
    make_server_certificate(folder, ("localhost", "127.0.0.1"))
    record = write_trivial_app(folder, kind, shapes, hospitals, rounds)
    port, authority = free_port(), str(folder / "ca.crt")
    write_connection(folder / "flower", f"127.0.0.1:{port}", folder / "ca.crt")
    link = [
        *(program("flower-superlink"), "--ssl-ca-certfile", authority),
        *("--ssl-certfile", str(folder / "server.crt")),
        *("--ssl-keyfile", str(folder / "server.key")),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--database", str(folder / "state.db")),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
    ]
    with processes() as started:
        started.append(start(link, folder / "flower", folder / "link.log"))
        time.sleep(8)
        for number in range(hospitals):
            key = folder / f"node{number}"
            public = folder / f"node{number}.pub"
            public.write_text(make_node_key(key) + "\n")
            operate(folder / "flower", "supernode", "register", str(public))
            node = [
                *(program("flower-supernode"), "--root-certificates", authority),
                *("--superlink", f"127.0.0.1:{port}"),
                *("--auth-supernode-private-key", str(key)),
                *("--host", "127.0.0.1", "--port", str(free_port())),
            ]
            home = folder / f"flower{number}"
            started.append(start(node, home, folder / f"node{number}.log"))
        operate(folder / "flower", "run", str(folder / "app"))
        return watch(lambda: lines_of(record), rounds)


def start(command: list[str], home: Path, log: Path) -> "subprocess.Popen[bytes]":
    """Start a program of Flower's, with a home of its own."""
    home.mkdir(parents=True, exist_ok=True)
    return start_group(command, log, environment(home, {"OMP_NUM_THREADS": "1"}), home)


def write_trivial_app(
    folder: Path, kind: str, shapes: dict[str, list[int]], hospitals: int, rounds: int
) -> Path:
    """Write Flower's app; returns where it writes its rounds."""
    package, record = folder / "app" / "trivial", folder / "rounds.jsonl"
    package.mkdir(parents=True)
    imports, convert = KINDS[kind]
    facts = {"record": str(record), "shapes": json.dumps(shapes)}
    (package / "__init__.py").write_text('"""Trivial."""\n')
    (package / "client.py").write_text(CLIENT.format(imports=imports, convert=convert))
    server = SERVER.format(**facts, hospitals=hospitals, rounds=rounds)
    (package / "server.py").write_text(server)
    parts = {"serverapp": "trivial.server:app", "clientapp": "trivial.client:app"}
    project = {
        "project": {"name": "trivial", "version": "1.0.0", "license": "Apache-2.0"},
        "tool": {"flwr": {"app": {"publisher": "nobody", "components": parts, "config": {}}}},
    }
    (folder / "app" / "pyproject.toml").write_text(tomli_w.dumps(project))
    return record


def evenhand(rehearsal: Rehearsal, study: SignedStudy) -> tuple[list[float], list[float]]:
    """Seconds of each round but the first, and of the slowest hospital's training in it."""
    arm = rehearsal.coordinator.arm(study.digest)
    with processes() as started:
        started.append(rehearsal.start(CENTRE))
        wait(lambda: rehearsal.is_open)
        started += [rehearsal.start(name) for name in rehearsal.hospitals]
        rehearsal.type(CENTRE, "federation", "submit", rehearsal.study_path)
        seconds = watch(lambda: len(arm.read_rounds()), study.terms.rounds)
    training = [
        max(each["seconds"] for each in record["hospitals"].values())
        for record in arm.read_rounds()[1:]
    ]
    return seconds, training


@contextmanager
def processes() -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Ends at the end what was put into the list."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        yield started
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        time.sleep(3)
        for process in started:
            end_group(process)


def lines_of(path: Path) -> int:
    """Finished rounds in a record."""
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait(until: Callable[[], bool]) -> None:
    """Wait for something."""
    end = time.monotonic() + LIMIT_S
    while not until():
        if time.monotonic() > end:
            raise SystemExit("waited in vain; read the logs in --out")
        time.sleep(0.05)


def watch(finished: Callable[[], int], rounds: int) -> list[float]:
    """Seconds between the ends of rounds."""
    ends = []
    for number in range(1, rounds + 1):
        wait(lambda number=number: finished() >= number)  # type: ignore[misc]
        ends.append(time.monotonic())
    return [after - before for before, after in pairwise(ends)]


if __name__ == "__main__":
    main()
