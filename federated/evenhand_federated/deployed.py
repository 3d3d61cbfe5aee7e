"""How a round goes when hospitals are real: some are away, some come back, no wait is endless."""

import time
from collections.abc import Callable

from flwr.serverapp import Grid

from evenhand.errors import FederationError
from evenhand.experiment.layout import ArmFolder
from evenhand_federated.strategies import Combiner
from evenhand_federated.strategy import FederationPlan, RecordedFedAvg

__all__ = ["DeployedFedAvg", "wait_for_hospitals"]

_PAUSE_S = 1.0


def wait_for_hospitals(
    grid: Grid,
    hospitals: dict[int, str],
    *,
    minimum: int,
    grace_s: float,
    patience_s: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> dict[int, str]:
    """Those hospitals that are connected, waiting for the rest for a while.

    Args:
        grid: to ask who is connected.
        hospitals: admitted ones of the study, names by node id; others are never asked.
        minimum: how many there have to be.
        grace_s: how long all are waited for, once there are enough.
        patience_s: how long enough are waited for.
        sleep: between two looks.
        clock: seconds.

    Raises:
        FederationError: too few came; names who is missing.
    """
    started = clock()
    while True:
        online = set(grid.get_node_ids())
        here = {node: name for node, name in hospitals.items() if node in online}
        waited = clock() - started
        if len(here) >= minimum and (len(here) == len(hospitals) or waited >= grace_s):
            return here
        if waited >= patience_s:
            missing = ", ".join(sorted(set(hospitals.values()) - set(here.values())))
            raise FederationError(
                f"{len(here)} hospitals are connected, {minimum} are needed; missing after "
                f"{patience_s:.0f} s: {missing}. Ask them to look at their nodes: "
                "evenhand federation log HOSPITAL"
            )
        sleep(_PAUSE_S)


class DeployedFedAvg(RecordedFedAvg):
    """Rounds among those hospitals that are connected when a round begins.

    Args:
        plan: with all hospitals of the study.
        folder: of the arm.
        patience_s: how long a round waits for enough hospitals.
        grace_s: how long it waits for the others, once there are enough.
        combiner: how updates are put together.
    """

    def __init__(
        self,
        plan: FederationPlan,
        folder: ArmFolder,
        *,
        patience_s: float,
        grace_s: float,
        combiner: Combiner | None = None,
    ) -> None:
        super().__init__(plan, folder, combiner)
        self._patience_s = patience_s
        self._grace_s = grace_s

    def _asked(self, grid: Grid) -> dict[int, str]:
        """The hospitals that are there.

        Raises:
            FederationError: too few are, for too long.
        """
        return wait_for_hospitals(
            grid,
            self._plan.hospitals,
            minimum=self._plan.minimum_hospitals,
            grace_s=self._grace_s,
            patience_s=self._patience_s,
        )
