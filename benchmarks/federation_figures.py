"""What robust strategies and hidden sums cost, and what moves, on made-up updates; three tables.

    python benchmarks/federation_figures.py

First: how far the common adapter is thrown by one poisoned hospital of four, in units of the honest
hospitals' own spread, the median of 20 draws. Second: seconds and bytes of one hidden sum, against
Flower's own masking of the same numbers in the same run. Third: bytes that a hospital moves in a
round with the adapter of configs/lgg.toml (its weights have to be there: evenhand weights), made by
the code of both sides and weighed in one piece, as it goes between real hospitals. Expected on one
core: under a minute.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

from evenhand.config import FederationConfig, Precision
from evenhand.config_files import load_config
from evenhand.experiment.layout import build_model
from evenhand_federated import wire
from evenhand_federated.fixed_point import NARROW, WIDE, Ring, ring_of
from evenhand_federated.masked_sum import Contributor, open_sum
from evenhand_federated.one_piece import joined
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


def hidden(count: int, ring: Ring) -> None:
    """A row of the second table: a sum among `count` hospitals."""
    values = {
        f"h{number}": np.random.default_rng(number).normal(size=NUMBERS) for number in range(count)
    }
    hospitals = {name: Contributor(name, "bench", 2) for name in values}
    keys = {name: one.public() for name, one in hospitals.items()}
    started = time.perf_counter()
    masked = {
        name: one.mask(keys, values[name], ring=ring, told="") for name, one in hospitals.items()
    }
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
    row = f"| {count} | {ring.bits} | {each:.3f} | {opening:.3f} | {flower:.3f} "
    print(f"{row}| {size / 1000:.0f} | {error:.1e} |")


def moved() -> None:
    """The third table."""
    config = load_config(Path("configs/lgg.toml"))
    before = build_model(config).adapter_state()
    after = {name: one + 1e-3 * torch.randn_like(one) for name, one in before.items()}
    for precision in get_args(Precision):
        sent = wire.common(ArrayRecord(before), precision)
        clear = wire.update(ArrayRecord(before), ArrayRecord(after), precision)
        numbers = sum(one.numel() for one in before.values())
        hospital = Contributor("a", "bench", 2)
        keys = {"a": hospital.public(), "b": Contributor("b", "bench", 2).public()}
        masked = hospital.mask(keys, np.zeros(numbers + 1), ring=ring_of(precision), told="").values
        up = {"in clear": clear, "hidden": {"arrays": ArrayRecord({"masked": Array(masked)})}}
        for how, content in up.items():
            down_kb, up_kb = kilobytes(sent), kilobytes(content)
            print(f"| {precision} | {how} | {down_kb:.0f} | {up_kb:.0f} | {down_kb + up_kb:.0f} |")


def kilobytes(content: Mapping[str, Any]) -> float:
    """Of a message's tensors as they travel, in one piece."""
    return wire.bytes_of(joined(RecordDict(dict(content)))) / 1000


def main() -> None:
    """All tables."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    poisoned()
    print("\n| hospitals | bits | mask, s each | open, s | Flower's masks, s | kB sent | error |")
    print("|---|---|---|---|---|---|---|")
    for ring in (WIDE, NARROW):
        for count in (3, 4, 10):
            hidden(count, ring)
    print("\n| precision | updates | kB down | kB up | both |\n|---|---|---|---|---|")
    moved()


if __name__ == "__main__":
    main()
