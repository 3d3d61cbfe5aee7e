"""A run folder with two tiny hospitals, and nodes that answer without any model."""

import shutil
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict

from evenhand.cases.splits import split_patients
from evenhand.config import ExperimentConfig
from evenhand.experiment.layout import RunFolder
from evenhand_federated import wire

HOSPITALS = ("north", "south")


def make_config(**changes):
    """A small experiment; `changes` are sections or keys of the root.

    Numbers travel as they are unless a change says other: most tests look at them bit for bit.
    """
    raw = {
        "name": "tiny",
        "arms": ["federated", "federated-private"],
        "data": {"source": "nowhere"},
        "federation": {"rounds": 3},
        "privacy": {"rounds": 2, "steps_per_round": 1},
    }
    raw |= changes
    raw["federation"] = {"precision": "float32"} | raw["federation"]
    return ExperimentConfig.model_validate(raw)


def make_run(folder, stores, config=None):
    """A run whose stores are filled and whose patients are split, and nothing else."""
    run = RunFolder(Path(folder))
    for name, store in stores.items():
        shutil.copytree(store.path, run.hospital(name).path / "store")
    run.config_path.write_text((config or make_config()).model_dump_json())
    homes = [run.hospital(name).store() for name in stores]
    run.split_path.write_text(split_patients(homes, test_fraction=1 / 3, seed=0).to_json())
    run.arm("federated").path.mkdir(parents=True)
    return run


def context_of(partition):
    """What Flower tells a ClientApp of the node that it runs on."""
    return Context(
        run_id=1,
        node_id=partition + 10,
        node_config={"partition-id": partition},
        state=RecordDict(),
        run_config={},
    )


def state_of(*values):
    """A tiny adapter: one vector and one matrix."""
    vector = torch.tensor(values, dtype=torch.float32)
    return {"head.a": vector, "head.b": vector.repeat(2, 1) * 10}


def answering(change, precision="float32", **figures):
    """A node that answers with `change(state, round)` and these figures."""

    def node(message):
        number = int(message.content["config"]["round"])
        before = wire.received(message.content, precision)
        after = ArrayRecord(change(before.to_torch_state_dict(), number))
        content = wire.update(before, after, precision)
        content["metrics"] = MetricRecord({"patients": 1} | figures)
        return Message(RecordDict(content), reply_to=message)

    return node


def failing(code, reason):
    """A node that answers with an error."""
    return lambda message: Message(Error(code, reason), reply_to=message)


def silent(message):
    """A node that never answers."""
