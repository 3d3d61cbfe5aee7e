"""What robust strategies and hidden sums cost, on made-up updates; prints two tables.

    python benchmarks/federation_figures.py

First: how far the common adapter is thrown by one poisoned hospital of four, in units of the honest
hospitals' own spread, the median of 20 draws. Second: seconds and bytes of one hidden sum, against
Flower's own masking of the same numbers in the same run. Expected on one core: under a minute.
"""

import logging
import time

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

from evenhand.config import FederationConfig
from evenhand_federated.masked_sum import Contributor, open_sum
from evenhand_federated.strategies import combiner_of
from evenhand_federated.testing import FakeGrid

DRAWS = 20
NUMBERS = 80_000
"""About those of the small head with LoRA at rank 4: 300 kB."""
POISONS = {
    "sign flipped": lambda update: -update,
    "flipped, 10 times": lambda update: -10 * update,
    "100 times": lambda update: 100 * update,
}


def combined(strategy: str, updates: list[torch.Tensor]) -> torch.Tensor:
    """The common update of hospitals with one patient each."""
    FakeGrid({})
    answers = []
    for number, update in enumerate(updates):
        asked = Message(RecordDict(), number, MessageType.TRAIN)
        metrics = MetricRecord({"patients": 1, "first_loss": 1.0})
        content = RecordDict({"arrays": ArrayRecord({"w": update}), "metrics": metrics})
        answers.append(Message(content, reply_to=asked))
    before = ArrayRecord({"w": torch.zeros_like(updates[0])})
    arrays = combiner_of(FederationConfig(strategy=strategy)).combine(1, before, answers)
    if arrays is None:
        raise RuntimeError("nothing was put together")
    return arrays.to_torch_state_dict()["w"]


def thrown(strategy: str, poison: str, seed: int) -> float:
    """Distance from the honest mean, over the honest hospitals' mean distance from it."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(NUMBERS, generator=generator)
    honest = [direction + 0.5 * torch.randn(NUMBERS, generator=generator) for _ in range(3)]
    mean = torch.stack(honest).mean(0)
    spread = torch.stack([one - mean for one in honest]).norm(dim=1).mean()
    found = combined(strategy, [*honest, POISONS[poison](direction)])
    return float((found - mean).norm() / spread)


def poisoned() -> None:
    """The first table."""
    print("| poison | fedavg | trimmed-mean | krum |\n|---|---|---|---|")
    for poison in POISONS:
        row = [
            f"{np.median([thrown(strategy, poison, seed) for seed in range(DRAWS)]):.2f}"
            for strategy in ("fedavg", "trimmed-mean", "krum")
        ]
        print(f"| {poison} | {' | '.join(row)} |")


def hidden(count: int) -> None:
    """A row of the second table: a sum among `count` hospitals."""
    values = {
        f"h{number}": np.random.default_rng(number).normal(size=NUMBERS) for number in range(count)
    }
    hospitals = {name: Contributor(name, "bench", 2) for name in values}
    keys = {name: one.public() for name, one in hospitals.items()}
    started = time.perf_counter()
    masked = {name: one.mask(keys, values[name]) for name, one in hospitals.items()}
    each = (time.perf_counter() - started) / count
    opened = {
        name: one.unmask({other: sent.shares[name] for other, sent in masked.items()})
        for name, one in hospitals.items()
    }
    started = time.perf_counter()
    total = open_sum(
        {name: sent.values for name, sent in masked.items()},
        opened,
        began=values,
        context="bench",
        minimum=2,
    )
    opening = time.perf_counter() - started
    error = np.abs(total - np.sum(list(values.values()), axis=0)).max()
    sent = masked["h0"]
    size = sent.values.nbytes + sum(map(len, sent.shares.values()))
    started = time.perf_counter()
    for _ in range(count):  # one own mask and one for each other hospital
        pseudo_rand_gen(b"0123" * 8, 1 << 32, [(NUMBERS,)])
    flower = time.perf_counter() - started
    print(
        f"| {count} | {each:.3f} | {opening:.3f} | {flower:.3f} | {size / 1000:.0f} | {error:.1e} |"
    )


def main() -> None:
    """Both tables."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    poisoned()
    print("\n| hospitals | mask, s each | open, s | Flower's masks, s | kB sent | largest error |")
    print("|---|---|---|---|---|---|")
    for count in (3, 4, 10):
        hidden(count)


if __name__ == "__main__":
    main()
