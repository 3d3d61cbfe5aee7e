"""The Flower ServerApp of a real coordinator: run what is left of a submitted study."""

import os
import threading
import time
from typing import Any

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from evenhand.config import PRIVATE_ARM, ExperimentConfig
from evenhand.errors import EvenhandError, FederationError
from evenhand.experiment.layout import ArmFolder, RunFolder, build_model
from evenhand.experiment.warm_start import train_on_phantoms
from evenhand.model.adapted import AdaptedModel
from evenhand.model.adapter_files import load_onto, save_adapter
from evenhand.model.weights import find
from evenhand.progress import progress_bar
from evenhand.training.personal import shared_part
from evenhand.training.resume import KeptTraining
from evenhand_federated.checkpoint import kept_start, read_checkpoint
from evenhand_federated.coordinator import SERVING_VARIABLE, CoordinatorFolder
from evenhand_federated.deployed import DeployedFedAvg
from evenhand_federated.kept_opening import KeptOpening
from evenhand_federated.masked_sum import UnopenedSumError
from evenhand_federated.orders import fewest_answers, precision_of
from evenhand_federated.prompt_grid import PromptGrid
from evenhand_federated.secure_rounds import SecureFedAvg
from evenhand_federated.strategies import combiner_of
from evenhand_federated.strategy import FederationPlan
from evenhand_federated.study import SignedStudy

__all__ = ["app", "main"]

_GRACE_S = 20.0
"""How long a round waits for hospitals beyond the minimum before it begins."""

_WATCH_S = 1.0
"""Between two looks whether somebody still serves."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study that the run names; whatever happens is written to its state."""
    folder = CoordinatorFolder.of_environment()
    digest = str(context.run_config["study"])
    study = folder.study(digest)
    _end_with_server(folder)
    with folder.running(digest) as free:
        if not free:
            raise FederationError(f"The study {study.terms.name} is running already.")
        try:
            _run(folder, study, grid)
        except UnopenedSumError as error:
            # Started again by itself it would charge every patient again for the same round.
            given_up = {"status": "failed"} if study.terms.arm == PRIVATE_ARM else {}
            folder.change_state(digest, reason=str(error), **given_up)
            raise
        except EvenhandError as error:
            folder.change_state(digest, reason=str(error))
            raise
        except Exception as error:
            folder.change_state(digest, reason=f"{type(error).__name__}; see logs/superlink.log")
            raise
        folder.change_state(digest, status="finished", reason="")


def _end_with_server(folder: CoordinatorFolder) -> None:
    """End this process when the one that serves is gone: Flower 1.41 would leave it waiting."""
    token = os.environ.get(SERVING_VARIABLE, "")

    def watch() -> None:
        while folder.is_served_by(token):
            time.sleep(_WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _strategy(study: SignedStudy, plan: FederationPlan, arm: ArmFolder) -> DeployedFedAvg:
    federation = study.terms.federation
    options: dict[str, Any] = {
        "patience_s": federation.round_timeout_s,
        "grace_s": _GRACE_S,
        "combiner": combiner_of(federation),
    }
    if not study.terms.is_hidden:
        return DeployedFedAvg(plan, arm, **options)
    limit = federation.round_timeout_s
    roll = study.terms.roll
    return SecureFedAvg(plan, arm, study=study.digest, roll=roll, timeout_s=limit, **options)


def _start_from_phantoms(arm: ArmFolder, config: ExperimentConfig, model: AdaptedModel) -> None:
    """Train on phantoms if the study says so, once: after a restart it goes on, or is there."""
    if not config.warm_start.starts(config.arms[0]):
        return
    if not arm.start_path.exists():
        with progress_bar() as bar:
            kept = KeptTraining(kept_start(arm))
            trained = train_on_phantoms(RunFolder(arm.path), config, model, bar, kept)
        own = config.fingerprint()
        save_adapter(arm.start_path, model, config_fingerprint=own, training=trained)
    kept_start(arm).unlink(missing_ok=True)
    load_onto(arm.start_path, model)


def _run(folder: CoordinatorFolder, study: SignedStudy, grid: Grid) -> None:
    terms, arm = study.terms, folder.arm(study.digest)
    study.check_version()
    config = terms.config()
    if find(terms.model.backbone).sha256 != terms.weights_sha256:
        raise FederationError(f"The study wants other weights of {terms.model.backbone}.")
    model = build_model(config)
    done, state = read_checkpoint(arm)
    if state is None:
        _start_from_phantoms(arm, config, model)
    first = shared_part(model.adapter_state(), terms.federation.local_parts)
    members = folder.members()
    plan = FederationPlan(
        arm=terms.arm,
        rounds=terms.rounds,
        done=done,
        hospitals={
            node: name for name in terms.hospitals if (node := members[name].node_id) is not None
        },
        minimum_hospitals=fewest_answers(config, terms.arm, len(terms.hospitals)),
        timeout_s=terms.federation.round_timeout_s,
        precision=precision_of(config, terms.arm),
    )
    if done < terms.rounds:
        strategy = _strategy(study, plan, arm)
        strategy.start(
            grid=PromptGrid(grid),
            initial_arrays=ArrayRecord(first if state is None else state),
            num_rounds=terms.rounds - done,
            timeout=terms.federation.round_timeout_s,
        )
        done, state = read_checkpoint(arm)
    KeptOpening(arm.path).end()  # of a coordinator that was lost when all was written down
    if state is None:
        raise FederationError(f"The study {terms.name} left no adapter.")
    model.load_adapter({**model.adapter_state(), **state})
    save_adapter(
        arm.adapter_path,
        model,
        config_fingerprint=config.fingerprint(),
        training={
            "arm": terms.arm,
            "hospitals": list(terms.hospitals),
            "study": study.digest,
            "rounds": done,
            "local_parts": list(terms.federation.local_parts),
        },
    )
