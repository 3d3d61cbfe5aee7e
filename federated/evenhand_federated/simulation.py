"""One federated arm in Flower's simulation runtime: `python -m evenhand_federated.simulation`.

Every hospital is a SuperNode that sees its own folder only. The run and the arm are
named by environment variables, which Ray's workers inherit.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any

from evenhand.experiment.layout import RunFolder
from evenhand_federated import client_app, server_app
from evenhand_federated.leash import end_with_parent
from evenhand_federated.orders import RAY_VARIABLE, SIMULATION_VARIABLE

__all__ = ["main"]


def main() -> None:
    """Run the arm to its end."""
    from flwr.simulation import run_simulation

    run = RunFolder(Path(os.environ[SIMULATION_VARIABLE]))
    cores = os.cpu_count() or 1
    ray: dict[str, Any] = {
        "num_cpus": cores,
        "include_dashboard": False,
        # What a hospital's worker prints stays out of the coordinator's log.
        "log_to_driver": False,
        "object_store_memory": 200_000_000,
    }
    if RAY_VARIABLE in os.environ:
        ray["_temp_dir"] = os.environ[RAY_VARIABLE]
    run_simulation(
        server_app=server_app.app,
        client_app=client_app.app,
        num_supernodes=len(run.split().hospitals),
        backend_config={
            # Ray also gives each worker's torch that many threads.
            "client_resources": {
                "num_cpus": min(run.config().federation.client_cpus, cores),
                "num_gpus": 0.0,
            },
            "init_args": ray,
        },
    )


def _write_plain_log() -> None:
    """Make Flower's log readable in a file: each line once, with its time, without colours."""
    logger = logging.getLogger("flwr")
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.setLevel(logging.INFO)
    logger.addHandler(handler)


if __name__ == "__main__":
    end_with_parent()
    _write_plain_log()
    main()
