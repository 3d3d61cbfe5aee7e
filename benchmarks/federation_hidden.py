"""A private study with one noise that hospitals share and updates nobody sees; one of them dies.

Four hospitals and a coordinator as programs over TLS on loopback, phantoms, `privacy.trust =
"secure-sum"` with two hospitals tolerated. West is killed in the second of three rounds, while it
trains; the others then sign the list of those who sent. Shows of each round the seconds, who sent
and who was missing, and of each hospital what its own log says.

    python benchmarks/federation_hidden.py --out runs/hidden
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from evenhand_federated.rehearsal import CENTRE, Rehearsal, end_group

HOSPITALS = ("north", "east", "south", "west")
LIMIT_S = 900
PRIVACY = """
[privacy]
trust = "secure-sum"
tolerated = 2
epsilon = 8.0
delta = 0.01
sampling_rate = 0.5
rounds = 3
steps_per_round = 1
"""


def trains(world: Rehearsal, name: str, number: int) -> bool:
    """Whether a hospital has begun to train a round, by its own log."""
    bodies = [one.body() for one in world.hospital(name).messages().entries()]
    begun = [body["round"] for body in bodies if body["what"] == "adapter to train"]
    return number in begun


def run(world: Rehearsal) -> None:
    """Let them train until the study has ended, and kill west on the way."""
    study = world.set_up()
    started = [world.start(CENTRE)]
    try:
        members = world.coordinator.members
        wait(lambda: all(one.node_id is not None for one in members().values()))
        nodes = {name: world.start(name) for name in HOSPITALS}
        started += nodes.values()
        # The first round would begin without who comes late.
        wait(lambda: all("SuperNode ID" in world.log(name).read_text() for name in HOSPITALS))
        world.type(CENTRE, "federation", "submit", world.study_path)
        wait(lambda: trains(world, "west", 2))
        end_group(nodes["west"])
        wait(lambda: world.coordinator.state(study.digest).status != "submitted")
    finally:
        for process in started:
            end_group(process)
    print(f"study: {world.coordinator.state(study.digest)}\n")
    print("| round | seconds | sent | missing |\n|---|---|---|---|")
    for record in world.coordinator.arm(study.digest).read_rounds():
        missing = ", ".join([*record["silent"], *record["failed"]]) or "nobody"
        sent = ", ".join(record["hospitals"])
        print(f"| {record['round']} | {record['seconds']:.1f} | {sent} | {missing} |")
    for name in HOSPITALS:
        folder = world.hospital(name)
        entries = folder.messages().entries()
        charges = [one.body()["charge"] for one in entries if one.body().get("charge")]
        lines = Counter(f"{one.kind}: {one.body()['what']}" for one in entries)
        print(f"\n{name}: {dict(lines)}")
        print(f"charges: {charges}; faults of the log: {folder.messages().faults()}")


def wait(until: Callable[[], object]) -> None:
    """Wait until something is so.

    Raises:
        TimeoutError: it takes too long.
    """
    end = time.monotonic() + LIMIT_S
    while not until():
        if time.monotonic() > end:
            raise TimeoutError("waited in vain; read the logs in --out")
        time.sleep(0.05)


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    out = parser.parse_args().out
    out.mkdir(parents=True)
    world = Rehearsal(
        out.resolve(), HOSPITALS, rounds=3, arm="federated-private", more=PRIVACY, name="hidden"
    )
    run(world)


if __name__ == "__main__":
    main()
