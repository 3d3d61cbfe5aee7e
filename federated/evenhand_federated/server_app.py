"""The Flower ServerApp: find the hospitals, run the rounds, leave the adapter behind."""

import os
import time
from pathlib import Path

from flwr.app import ArrayRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

from evenhand.errors import FederationError
from evenhand.experiment.layout import RunFolder, build_model
from evenhand.model.adapter_files import load_onto
from evenhand.training.personal import shared_part
from evenhand_federated.checkpoint import read_checkpoint
from evenhand_federated.orders import (
    ARM_VARIABLE,
    SIMULATION_VARIABLE,
    fewest_answers,
    precision_of,
    rounds_of,
)
from evenhand_federated.strategies import combiner_of
from evenhand_federated.strategy import FederationPlan, RecordedFedAvg

__all__ = ["app", "main"]

_PATIENCE_S = 120.0
"""How long hospitals may take to connect."""

_PAUSE_S = 0.5
"""Between two times of asking those who have not answered."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:  # noqa: ARG001 - Flower's signature
    """Run one arm of the experiment named by the environment."""
    run = RunFolder(Path(os.environ[SIMULATION_VARIABLE]))
    arm = os.environ[ARM_VARIABLE]
    folder = run.arm(arm)
    config = run.config()
    rounds = rounds_of(config, arm)
    done, state = read_checkpoint(folder)
    if state is None:
        model = build_model(config)
        if folder.start_path.exists():
            load_onto(folder.start_path, model)
        state = shared_part(model.adapter_state(), config.federation.local_parts)
    plan = FederationPlan(
        arm=arm,
        rounds=rounds,
        done=done,
        hospitals=_introductions(grid, expected=set(run.split().hospitals)),
        minimum_hospitals=fewest_answers(config, arm, len(run.split().hospitals)),
        precision=precision_of(config, arm),
    )
    RecordedFedAvg(plan, folder, combiner_of(config.federation)).start(
        grid=grid,
        initial_arrays=ArrayRecord(state),
        num_rounds=rounds - done,
        timeout=config.federation.round_timeout_s,
    )


def _introductions(grid: Grid, expected: set[str]) -> dict[int, str]:
    """Ask every node who it is, until all expected hospitals have answered.

    Raises:
        FederationError: some did not in time, or two nodes say that they are the same.
    """
    deadline = time.monotonic() + _PATIENCE_S
    known: dict[int, str] = {}
    while set(known.values()) != expected:
        if time.monotonic() > deadline:
            missing = ", ".join(sorted(expected - set(known.values())))
            raise FederationError(
                f"These hospitals did not come within {_PATIENCE_S:.0f} s: {missing}. "
                "Start their nodes, or take them out of data.hospitals."
            )
        fresh = [node for node in grid.get_node_ids() if node not in known]
        questions = [Message(RecordDict(), node, MessageType.QUERY) for node in fresh]
        for reply in grid.send_and_receive(questions, timeout=_PATIENCE_S):
            if reply.has_error():
                continue
            name = str(reply.content["hospital"]["name"])
            if name in known.values():
                raise FederationError(f"Two nodes say that they are {name}. Stop one of them.")
            if name in expected:
                known[reply.metadata.src_node_id] = name
        if set(known.values()) != expected:
            time.sleep(_PAUSE_S)
    return known
