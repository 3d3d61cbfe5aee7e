"""Four hospitals that hide their updates, with made-up training and keys of their own."""

import torch
from flwr.app import ArrayRecord, Error, Message

from evenhand.config import FederationConfig
from evenhand.errors import FederationError
from evenhand.experiment.layout import ArmFolder
from evenhand_federated import wire
from evenhand_federated.certificates import make_node_key, node_key_of
from evenhand_federated.certified import Roll, context_of
from evenhand_federated.checkpoint import read_checkpoint
from evenhand_federated.deployed import DeployedFedAvg
from evenhand_federated.fixed_point import ring_of
from evenhand_federated.orders import FAILED
from evenhand_federated.secure_hospital import AGREE, KEYS, UNMASK, SecureRound
from evenhand_federated.secure_rounds import SecureFedAvg
from evenhand_federated.strategies import combiner_of
from evenhand_federated.strategy import FederationPlan
from evenhand_federated.testing import LINK_NODE_ID, FakeGrid
from federation_fakes import answering, silent, state_of

NAMES = {11: "north", 12: "east", 13: "south", 14: "west"}
PATIENTS = {"north": 7, "east": 20, "south": 6, "west": 15}
START = state_of(1, 2)

LIMIT_S = 300
"""A message lives so long. The fake grid waits for nobody, but hospitals look at the clock."""


def stirred(name):
    """Training whose result depends on the state, the round and the hospital."""
    amount = PATIENTS[name] / 10
    return lambda state, number: {
        key: torch.sin(tensor * amount) + number / 7 for key, tensor in state.items()
    }


def roll_of(folder):
    """The roll of all hospitals, whose keys are made when they are first asked for."""
    keys = {}
    for name in NAMES.values():
        path = folder / "keys" / name
        path.parent.mkdir(exist_ok=True)
        keys[name] = node_key_of(path) if path.exists() else make_node_key(path)
    return Roll(keys)


def part_of(folder, name, number=1, minimum=2, precision="float32"):
    """A hospital's part in a round of the run that the fake grid is."""
    home = folder / name
    home.mkdir(exist_ok=True)
    context = context_of("study", number, LINK_NODE_ID)
    key_path = folder / "keys" / name
    more = {"number": number, "roll": roll_of(folder), "key_path": key_path}
    more |= {"was_opened": False, "ring": ring_of(precision)}
    return SecureRound(home, name, context, minimum, **more)


def secure_node(
    folder, name, *, quiet=(), change=lambda content: content, minimum=2, precision="float32"
):
    """A hospital that takes part; `quiet` are the kinds of messages that it does not answer."""

    def answer(message):
        kind = message.metadata.message_type
        if kind in quiet:
            return None
        number = int(message.content["config"]["round"])
        own = part_of(folder, name, number, minimum, precision)
        try:
            if kind == KEYS:
                return own.answer_keys(message)
            if kind == AGREE:
                return own.answer_agree(message)
            if kind == UNMASK:
                return own.answer_unmask(message)
            before = wire.received(message.content, precision).to_torch_state_dict()
            after = stirred(name)(before, number)
            content = own.mask(message.content, before, after, PATIENTS[name])
        except FederationError as error:
            return Message(Error(FAILED, type(error).__name__), reply_to=message)
        return Message(change(content), reply_to=message)

    return answer


def federate(folder, nodes, *, secure=True, rounds=2, strategy="fedavg", precision="float32"):
    """Run rounds; return the adapter and the grid."""
    folder.path.mkdir(exist_ok=True)
    grid = FakeGrid(nodes)
    plan = FederationPlan("federated", rounds, 0, NAMES, 2, precision=precision)
    combiner = combiner_of(FederationConfig(strategy=strategy))
    options = {"patience_s": 0.01, "grace_s": 0, "combiner": combiner}
    made = (
        SecureFedAvg(
            plan,
            folder,
            study="study",
            roll=roll_of(folder.path.parent),
            timeout_s=LIMIT_S,
            **options,
        )
        if secure
        else DeployedFedAvg(plan, folder, **options)
    )
    made.start(grid=grid, initial_arrays=ArrayRecord(START), num_rounds=rounds, timeout=LIMIT_S)
    return read_checkpoint(folder)[1], grid


def in_clear(tmp_path, without=(), **options):
    """The adapter that the same hospitals give in clear."""
    form = options.get("precision", "float32")
    nodes = {
        node: silent if name in without else answering(stirred(name), form, patients=PATIENTS[name])
        for node, name in NAMES.items()
    }
    return federate(ArmFolder(tmp_path / "clear"), nodes, secure=False, **options)[0]


def hidden(tmp_path, nodes=None, **options):
    """The adapter of the same hospitals, hidden; `nodes` are options of single ones."""
    given, form = nodes or {}, options.get("precision", "float32")
    made = {
        node: secure_node(tmp_path, name, precision=form, **given.get(name, {}))
        for node, name in NAMES.items()
    }
    return federate(ArmFolder(tmp_path / "hidden"), made, **options)


def close(one, other):
    """Whether two adapters are equal to within what rounding may do."""
    return one.keys() == other.keys() and all(
        torch.allclose(one[name], other[name], atol=1e-6) for name in one
    )


def nodes_with(tmp_path, others, *, precision="float32"):
    """All hospitals, some of them played by the test."""
    made = {node: secure_node(tmp_path, name, precision=precision) for node, name in NAMES.items()}
    return made | others
