"""One federated arm in Flower's simulation runtime: `python -m evenhand_federated.simulation`.

Every hospital is a SuperNode that sees its own folder only. The run and the arm are
named by environment variables, which Ray's workers inherit.
"""

import os
import warnings
from pathlib import Path

from evenhand.experiment.layout import RunFolder
from evenhand_federated import client_app, server_app
from evenhand_federated.node import SIMULATION_VARIABLE

__all__ = ["main"]


def main() -> None:
    """Run the arm to its end."""
    from flwr.simulation import run_simulation

    run = RunFolder(Path(os.environ[SIMULATION_VARIABLE]))
    config = run.config()
    hospitals = run.split().hospitals
    cpus = max(1, min(config.federation.client_cpus, os.cpu_count() or 1))
    # Torch would take every core in every worker; Ray sets this for its workers by num_cpus.
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    run_simulation(
        server_app=server_app.app,
        client_app=client_app.app,
        num_supernodes=len(hospitals),
        backend_config={
            "client_resources": {"num_cpus": cpus, "num_gpus": 0.0},
            "init_args": {
                "num_cpus": os.cpu_count() or 1,
                "include_dashboard": False,
                "log_to_driver": True,
                "_node_ip_address": "127.0.0.1",
                "object_store_memory": 200_000_000,
            },
        },
    )


if __name__ == "__main__":
    main()
