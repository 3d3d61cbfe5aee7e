"""Ways of putting updates together: what each one does, held to sums done by hand."""

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from small_models import small_model, toy_patients

from evenhand.config import ExperimentConfig, FederationConfig
from evenhand.errors import FederationError
from evenhand.experiment.layout import ArmFolder
from evenhand.training.drift import as_kept, learn
from evenhand.training.loop import Schedule, train
from evenhand.training.loop import _pull_back as pull_back
from evenhand_federated.checkpoint import read_checkpoint
from evenhand_federated.orders import RoundOrder
from evenhand_federated.strategies import combiner_of
from evenhand_federated.strategy import FederationPlan, RecordedFedAvg
from evenhand_federated.testing import FakeGrid
from federation_fakes import answering, state_of

NAMES = {11: "a", 12: "b", 13: "c", 14: "d"}
DIMENSION = 200
SITES = {11: (1.0, 0.0), 12: (3.0, 4.0), 13: (2.0, -2.0)}
"""Toy hospitals by node: a and t of the loss a / 2 (w - t)^2."""


def answers_of(states, figures=None):
    """Answers as they come from hospitals, one patient each unless said."""
    grid = FakeGrid({number: lambda message: message for number in range(len(states))})
    messages = [Message(RecordDict(), number, MessageType.TRAIN) for number in range(len(states))]
    list(grid.push_messages(messages))
    figures = figures or [{"patients": 1, "first_loss": 1.0}] * len(states)
    return [
        Message(
            RecordDict({"arrays": ArrayRecord(state), "metrics": MetricRecord(own)}),
            reply_to=message,
        )
        for message, state, own in zip(messages, states, figures, strict=True)
    ]


def combined(strategy, before, states, figures=None, *, number=1, **keys):
    """The adapter after one round."""
    combiner = combiner_of(FederationConfig(strategy=strategy, **keys))
    arrays = combiner.combine(number, ArrayRecord(before), answers_of(states, figures))
    return arrays.to_torch_state_dict()


def honest_updates(seed, hospitals=4):
    """A common direction and each hospital's own part of it."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(DIMENSION, generator=generator)
    own = torch.randn(hospitals, DIMENSION, generator=generator)
    return direction, [direction + 0.3 * part for part in own]


class TestByHand:
    """Small numbers, worked out here."""

    def test_trimmed_mean(self):
        """Of 1, 2, 4 and 100 the lowest and the highest go: 3."""
        states = [state_of(value) for value in (1, 100, 2, 4)]
        found = combined("trimmed-mean", state_of(0), states)
        assert found["head.a"].tolist() == [3.0]

    def test_krum(self):
        """Of 1, 1.1, 1.3 and 9 the last is farthest from its nearest: the mean of the others."""
        states = [state_of(value) for value in (1, 9, 1.1, 1.3)]
        found = combined("krum", state_of(0), states)
        assert found["head.a"].item() == pytest.approx((1 + 1.1 + 1.3) / 3)

    def test_qfedavg(self):
        """Losses 1 and 3 at q = 1 and updates of 1 and 2 from 0: (1 x 1 + 3 x 2) / (1 + 3).

        How long the updates are changes nothing: the matrix is ten times the vector.
        """
        figures = [{"patients": 1, "first_loss": 1.0}, {"patients": 9, "first_loss": 3.0}]
        found = combined("qfedavg", state_of(0), [state_of(1), state_of(2)], figures, poisoned=0)
        assert found["head.a"].item() == pytest.approx(7 / 4, rel=1e-3)
        assert found["head.b"][0].item() == pytest.approx(70 / 4, rel=1e-3)

    def test_tilted(self):
        """Losses 1 and 2 at t = log 2, patients 4 and 1, updates 1 and 7: (4 x 1 + 2 x 7) / 6."""
        figures = [{"patients": 4, "first_loss": 1.0}, {"patients": 1, "first_loss": 2.0}]
        states = [state_of(1), state_of(7)]
        found = combined("tilted", state_of(0), states, figures, fairness=np.log(2))
        assert found["head.a"].item() == pytest.approx(18 / 6)

    def test_strongly_tilted_follows_the_worst_only(self):
        """A large t is minimax, and runs over for no loss that can come."""
        figures = [{"patients": 9, "first_loss": 1.0}, {"patients": 1, "first_loss": 1e9}]
        states = [state_of(1), state_of(7)]
        found = combined("tilted", state_of(0), states, figures, fairness=50)
        assert found["head.a"].tolist() == [7.0]

    def test_fedadam(self):
        """First round: mean update 2; m = 0.1 x 2, v = 0.01 x 4, corrected with round + 1."""
        found = combined("fedadam", state_of(1), [state_of(2), state_of(4)], server_rate=0.5)
        rate = 0.5 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2)
        expected = 1 + rate * 0.2 / (np.sqrt(0.04) + 1e-3)
        assert found["head.a"].item() == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
    def test_means(self, strategy):
        """Weighted by patients: (1 x 1 + 3 x 5) / 4 = 4."""
        figures = [{"patients": 1}, {"patients": 3}]
        found = combined(strategy, state_of(0), [state_of(1), state_of(5)], figures)
        assert found["head.a"].item() == pytest.approx(4)

    @pytest.mark.parametrize(
        "strategy", ["fedavg", "fedadam", "fedyogi", "trimmed-mean", "krum", "qfedavg", "tilted"]
    )
    def test_type_and_order_of_tensors(self, strategy):
        """Answers may list tensors in any order; the adapter keeps its own, and float32."""
        states = [dict(reversed(state_of(1, value).items())) for value in (2, 3, 4)]
        found = combined(strategy, state_of(1, 1), states)
        assert list(found) == ["head.a", "head.b"]
        assert {value.dtype for value in found.values()} == {torch.float32}
        straight = [state_of(1, value) for value in (2, 3, 4)]
        again = combined(strategy, state_of(1, 1), straight)
        assert all(torch.equal(found[name], again[name]) for name in found)


class TestPoisoned:
    """One hospital of four sends what it likes."""

    @pytest.mark.parametrize("strategy", ["trimmed-mean", "krum"])
    @pytest.mark.parametrize(
        "poison", [lambda d: -d, lambda d: -10 * d, lambda d: 100 * d, lambda d: 1e6 * d.flip(0)]
    )
    @pytest.mark.parametrize("seed", range(3))
    def test_the_robust_stay_with_the_honest(self, strategy, poison, seed):
        """Within the honest hospitals' own spread of the honest mean, where FedAvg is thrown."""
        direction, updates = honest_updates(seed)
        mean = torch.stack(updates[:3]).mean(0)
        states = [{"w": one} for one in (*updates[:3], poison(direction))]
        before = {"w": torch.zeros(DIMENSION)}
        robust = combined(strategy, before, states)["w"]
        plain = combined("fedavg", before, states)["w"]
        spread = torch.stack([one - mean for one in updates[:3]]).norm(dim=1).mean()
        assert (robust - mean).norm() < 1.5 * spread
        assert (plain - mean).norm() > 1.5 * (robust - mean).norm()

    def test_with_all_honest_little_is_lost(self):
        """Robustness that costs the direction would be no use."""
        _, updates = honest_updates(7)
        mean = torch.stack(updates).mean(0)
        for strategy in ("trimmed-mean", "krum"):
            states = [{"w": one} for one in updates]
            found = combined(strategy, {"w": torch.zeros(DIMENSION)}, states)["w"]
            assert torch.cosine_similarity(found, mean, dim=0) > 0.95

    def test_half_cannot_be_outvoted(self):
        """Two answers with one poisoned: refused, rather than a robustness that is none."""
        with pytest.raises(FederationError, match="cannot be outvoted"):
            combined("krum", state_of(0), [state_of(1), state_of(2)])


class TestFairness:
    """Who is served worst weighs more."""

    def test_the_worse_hospital_pulls_harder(self):
        """With a larger q the common adapter lies nearer to the hospital with the larger loss."""
        figures = [{"patients": 1, "first_loss": 1.0}, {"patients": 1, "first_loss": 4.0}]
        states = [{"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])}]
        shares = []
        for fairness in (0.01, 1.0, 3.0):
            found = combined(
                "qfedavg", {"w": torch.zeros(2)}, states, figures, fairness=fairness, poisoned=0
            )["w"]
            shares.append((found[1] / found.sum()).item())
        assert shares == sorted(shares)
        assert shares[0] == pytest.approx(0.5, abs=0.01)
        assert shares[-1] > 0.9

    @pytest.mark.parametrize("strategy", ["qfedavg", "tilted"])
    def test_a_loss_that_was_kept_back(self, strategy):
        """A hospital whose policy keeps losses cannot take part in it: said, not guessed."""
        with pytest.raises(FederationError, match="first_loss"):
            combined(strategy, state_of(0), [state_of(1)], [{"patients": 1}])

    @pytest.mark.parametrize("strategy", ["trimmed-mean", "krum", "qfedavg", "tilted"])
    def test_what_looks_at_single_updates_is_not_hidden(self, strategy):
        """Nobody is told that updates are hidden by a strategy that has to see them."""
        with pytest.raises(ValueError, match="looks at single updates"):
            FederationConfig(strategy=strategy, secure_sum=True)

    @pytest.mark.parametrize("strategy", ["qfedavg", "tilted"])
    def test_the_private_arm_tells_no_losses(self, strategy):
        """Found out in the first round, each hospital would have been charged for nothing."""
        config = {"name": "x", "data": {"source": "x"}, "federation": {"strategy": strategy}}
        assert ExperimentConfig.model_validate(config | {"arms": ["federated"]})
        with pytest.raises(ValueError, match="never tells"):
            ExperimentConfig.model_validate(config | {"arms": ["federated-private"]})


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedyogi"])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, strategy):
    """What an optimiser at the coordinator remembers survives the coordinator."""

    def stirred(amount):
        return lambda state, number: {
            name: torch.sin(tensor * amount) + number / 7 for name, tensor in state.items()
        }

    def federate(folder, until):
        done, state = read_checkpoint(folder)
        plan = FederationPlan("federated", 4, done, NAMES, 2, precision="float32")
        nodes = {node: answering(stirred(node / 7)) for node in NAMES}
        combiner = combiner_of(FederationConfig(strategy=strategy))
        RecordedFedAvg(plan, folder, combiner).start(
            grid=FakeGrid(nodes),
            initial_arrays=ArrayRecord(state or state_of(1, 2)),
            num_rounds=until - done,
        )

    folders = [ArmFolder(tmp_path / name) for name in ("whole", "stopped")]
    for folder in folders:
        folder.path.mkdir()
    federate(folders[0], 4)
    for until in (1, 3, 4):
        federate(folders[1], until)
    whole, stopped = (read_checkpoint(folder)[1] for folder in folders)
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    assert len(list(folders[1].path.glob("server-*"))) == (0 if strategy == "fedavg" else 2)


def test_a_lost_memory_is_said(tmp_path):
    """Going on without what the optimiser knew would be another run under the same name."""
    folder = ArmFolder(tmp_path)
    combiner = combiner_of(FederationConfig(strategy="fedadam"))
    with pytest.raises(FederationError, match="what the strategy remembers of round 2"):
        RecordedFedAvg(
            FederationPlan("federated", 4, 2, NAMES, 2, precision="float32"), folder, combiner
        )


class TestProximal:
    """FedProx: hospitals are held to the common adapter while they train."""

    def test_gradient_of_the_pull(self):
        """Weight x (w - start), added to what is there; alone where there is nothing."""
        one, two = torch.tensor([3.0], requires_grad=True), torch.tensor([5.0], requires_grad=True)
        one.grad = torch.tensor([10.0])
        pull_back([one, two], [torch.tensor([1.0]), torch.tensor([1.0])], 0.5)
        assert one.grad.tolist() == [11.0]
        assert two.grad.tolist() == [2.0]

    def test_training_stays_nearer(self):
        """The stronger the pull, the shorter the way from the start; 0 changes nothing."""
        ways = {}
        for weight in (None, 0.0, 100.0):
            model = small_model(head="none", encoder_lora_rank=0, encoder_lora_blocks=0)
            start = {name: value.clone() for name, value in model.adapter_state().items()}
            options = {} if weight is None else {"proximal": weight}
            config = FederationConfig()
            train(
                model,
                toy_patients(model, 2),
                training_config(),
                epochs=3,
                schedule=Schedule(1e-2),
                seed=config.rounds,
                **options,
            )
            end = model.adapter_state()
            ways[weight] = sum((end[name] - start[name]).norm().item() for name in start)
        assert ways[None] == ways[0.0]
        assert ways[100.0] < 0.9 * ways[0.0]

    def test_what_stays_is_not_held(self):
        """A part that stays has no common one: it trains as if there were no pull at all."""
        ends = {}
        for weight, free in ((0.0, ()), (100.0, ()), (100.0, ("*",))):
            model = small_model(head="none", encoder_lora_rank=0, encoder_lora_blocks=0)
            train(
                model,
                toy_patients(model, 2),
                training_config(),
                epochs=3,
                schedule=Schedule(1e-2),
                seed=6,
                proximal=weight,
                free=free,
            )
            ends[weight, free] = model.adapter_state()
        plain, held, freed = ends.values()
        assert all(torch.equal(plain[name], freed[name]) for name in plain)
        assert not all(torch.equal(plain[name], held[name]) for name in plain)


class TestDrift:
    """SCAFFOLD: what hospitals steer by has to cancel among those who are asked."""

    def federate(self, folder, *, gone=(), unheard=(), until=6):
        """Rounds of toy hospitals; `gone`, `unheard`: (round, node) who is away, or in vain."""
        kept, pushes, rate = {}, {}, 0.1

        def node_of(place):
            steep, target = SITES[place]

            def node(message):
                order = RoundOrder.of(message.content["config"])
                if (order.round, place) in gone:
                    return None
                came = message.content["arrays"].to_torch_state_dict()
                number, memory = kept.get(place, (0, None))
                steady = order.steady if number == order.round - 1 else 0
                steps = place - 6  # another number at each
                drift = learn(memory, came, steady=steady, mean_rate=rate)
                value = came["w"].clone()
                for _ in range(steps):
                    value += drift["w"] / steps - rate * steep * (value - target)
                pushes.setdefault(order.round, {})[place] = drift["w"].item()
                kept[place] = order.round, as_kept(drift, {"w": value}, rate)
                if (order.round, place) in unheard:
                    return None
                content = {
                    "arrays": ArrayRecord({"w": value}),
                    "metrics": MetricRecord({"patients": 1}),
                }
                return Message(RecordDict(content), reply_to=message)

            return node

        names = {node: NAMES[node] for node in SITES}
        RecordedFedAvg(
            FederationPlan("federated", until, 0, names, 2, precision="float32"), folder
        ).start(
            grid=FakeGrid({node: node_of(node) for node in SITES}),
            initial_arrays=ArrayRecord({"w": torch.zeros(1)}),
            num_rounds=until,
        )
        return pushes

    @pytest.mark.parametrize(
        "trouble",
        [
            {},
            {"gone": {(3, 12)}},
            {"unheard": {(3, 12)}},
            {"gone": {(2, 11)}, "unheard": {(4, 13)}},
        ],
    )
    def test_corrections_cancel_whoever_was_missing(self, tmp_path, trouble):
        """In every round that all begin, away before or trained in vain, they sum to nothing."""
        pushes = self.federate(ArmFolder(tmp_path), **trouble)
        whole = {number: each for number, each in pushes.items() if len(each) == len(SITES)}
        assert len(whole) >= 4
        assert all(abs(sum(each.values())) < 1e-5 for each in whole.values())
        assert max(abs(one) for each in whole.values() for one in each.values()) > 0.1

    def test_the_coordinator_tells_for_how_long(self, tmp_path):
        """0 at first and after another company, 1 after one round of the same, then 2."""
        seen = {}

        def node(message):
            order = RoundOrder.of(message.content["config"])
            seen[order.round] = order.steady
            if order.round == 4 and message.metadata.dst_node_id == 13:
                return None
            content = {
                "arrays": message.content["arrays"],
                "metrics": MetricRecord({"patients": 1}),
            }
            return Message(RecordDict(content), reply_to=message)

        names = {node: NAMES[node] for node in SITES}
        for done in (0, 5):  # the second is another process, after the first was stopped
            plan = FederationPlan("federated", 7, done, names, 2, precision="float32")
            RecordedFedAvg(plan, ArmFolder(tmp_path)).start(
                grid=FakeGrid(dict.fromkeys(SITES, node)),
                initial_arrays=ArrayRecord({"w": torch.zeros(1)}),
                num_rounds=5 if done == 0 else 2,
            )
        assert seen == {1: 0, 2: 1, 3: 2, 4: 2, 5: 0, 6: 1, 7: 2}


def training_config():
    """A little training of the decoder."""
    from evenhand.config import TrainingConfig

    return TrainingConfig(patients_per_step=1, tumour_slices=1, other_slices=1, box_slices=1)
