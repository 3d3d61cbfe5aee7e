"""What leaves a hospital: an adapter, a few figures, and of an error only its kind."""

import dataclasses
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from evenhand.errors import BudgetError, DataError, FederationError, PrivacyError
from evenhand.privacy.ledger import Receipt
from evenhand.privacy.ledger_check import read_receipts
from evenhand.privacy.site import Site
from evenhand_federated import client_app, node
from evenhand_federated.node import HospitalNode
from evenhand_federated.orders import (
    BUDGET_REFUSED,
    FAILED,
    SIMULATION_VARIABLE,
    RoundOrder,
    fewest_answers,
    rounds_of,
)
from evenhand_federated.testing import FakeGrid
from federation_fakes import HOSPITALS, context_of, make_config, make_run, state_of

REPORT = "/data/north/sub-P0042/P0042_FLAIR.nii.gz: age 61"


@pytest.fixture
def run(tmp_path, tiny_stores, monkeypatch):
    """A run that SuperNodes serve."""
    run = make_run(tmp_path / "run", tiny_stores)
    monkeypatch.setenv(SIMULATION_VARIABLE, str(run.path))
    return run


def ask(partition, *, arm="federated", number=1, kind=MessageType.TRAIN):
    """Send a message through the real ClientApp and return its reply."""
    grid = FakeGrid({10: lambda message: client_app.app(message, context_of(partition))})
    content = RecordDict()
    if kind == MessageType.TRAIN:
        order = ConfigRecord({"arm": arm, "round": number})
        content = RecordDict({"arrays": ArrayRecord(state_of(1, 2)), "config": order})
    (reply,) = grid.send_and_receive([Message(content, 10, kind)])
    return reply


def raising(error):
    """In place of a method: raises."""

    def method(*args, **kwargs):
        raise error

    return method


class TestErrors:
    """The text of an exception may hold anything; none of it leaves."""

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (DataError(REPORT), FAILED),
            (ValueError(REPORT), FAILED),
            (KeyError(REPORT), FAILED),
            (BudgetError(REPORT), BUDGET_REFUSED),
        ],
    )
    def test_only_the_kind_leaves(self, run, monkeypatch, error, code):
        """The reply holds the class's name and a code; the hospital's own log has the whole."""
        monkeypatch.setattr(HospitalNode, "train_round", raising(error))
        reply = ask(0)
        assert (reply.error.code, reply.error.reason) == (code, type(error).__name__)
        assert not reply.has_content()
        log = run.hospital("north").log_path.read_text()
        assert REPORT in log
        assert "Traceback" in log
        assert not run.hospital("south").log_path.exists()

    def test_codes_differ(self):
        """Who counts refusals by budget does not count other failures."""
        assert FAILED != BUDGET_REFUSED

    def test_a_log_that_cannot_be_written_leaks_nothing(self, run, monkeypatch):
        """A full disk while logging is no way out for a path."""
        run.hospital("north").log_path.mkdir()
        monkeypatch.setattr(HospitalNode, "train_round", raising(DataError(REPORT)))
        assert ask(0).error.reason == "DataError"

    def test_unknown_partition(self, run):
        """A SuperNode too many says only that it failed."""
        reply = ask(len(HOSPITALS))
        assert (reply.error.code, reply.error.reason) == (FAILED, "FederationError")

    def test_no_run(self, run, monkeypatch):
        """A node that was started without a run folder fails without telling more."""
        monkeypatch.delenv(SIMULATION_VARIABLE)
        assert ask(0).error.reason == "FederationError"

    def test_damaged_split(self, run):
        """An error before the hospital is known is guarded too."""
        run.split_path.write_text(f'{{"train": "{REPORT}"')
        assert ask(0).error.reason == "DataError"

    def test_error_in_the_introduction(self, run, monkeypatch):
        """Not only training is guarded."""
        error = OSError(REPORT)
        monkeypatch.setattr(HospitalNode, "of_partition", classmethod(raising(error)))
        assert ask(0, kind=MessageType.QUERY).error.reason == "OSError"


def test_introduction_names_the_hospital_alone(run):
    """To be known by name, a hospital tells its name and nothing else."""
    content = ask(1, kind=MessageType.QUERY).content
    assert {key: dict(record) for key, record in content.items()} == {"hospital": {"name": "south"}}


class FakeModel:
    """Takes an adapter and adds one to it when it is trained."""

    def __init__(self):
        self.state = {}

    def load_adapter(self, state):
        """Keep it."""
        self.state = state

    def adapter_state(self):
        """Return it."""
        return self.state

    def choose_trainable(self, patterns):
        """Names of what would be trained."""
        return {"head.a": None, "head.b": None}


@pytest.fixture
def trained(run, monkeypatch):
    """Replace model and training; return what training was asked for."""
    calls = []
    model = FakeModel()

    def train(model, patients, config, **options):
        calls.append(options | {"config": config, "patients": [one.patient_id for one in patients]})
        model.state = {name: tensor + 1 for name, tensor in model.state.items()}
        moments = {"head/step": torch.tensor(float(len(calls)))}
        return SimpleNamespace(first_loss=2.0, last_loss=1.0, moments=moments)

    def train_private(model, patients, *sections, **options):
        calls.append(options | {"patients": [one.patient_id for one in patients]})
        return SimpleNamespace(epsilon=0.5, delta=0.01)

    def load_patients(store, cache, names, model):
        present = {case.patient.patient_id for case in store}
        return [SimpleNamespace(patient_id=name) for name in names if name in present]

    monkeypatch.setattr(node, "_model", lambda _: model)
    monkeypatch.setattr(node, "train", train)
    monkeypatch.setattr(node, "train_private", train_private)
    monkeypatch.setattr(node, "load_patients", load_patients)
    monkeypatch.setattr("evenhand.experiment.layout.HospitalHome.cache", lambda *_: None)
    return calls


class TestFigures:
    """What is told beside the adapter."""

    def test_without_privacy(self, run, trained):
        """Patients, seconds and losses; the number of patients is that of training alone."""
        content = ask(0).content
        assert content["metrics"].keys() == {"patients", "seconds", "first_loss", "last_loss"}
        assert content["metrics"]["patients"] == len(run.split().train["north"])
        assert set(content.keys()) == {"arrays", "metrics"}
        answer = content["arrays"].to_torch_state_dict()
        assert torch.equal(answer["head.a"], torch.tensor([2.0, 3.0]))

    def test_with_privacy(self, run, trained):
        """No loss and no time: either would be a release that nobody has accounted for."""
        metrics = ask(0, arm="federated-private").content["metrics"]
        assert dict(metrics) == {
            "patients": len(run.split().train["north"]),
            "epsilon": 0.5,
            "delta": 0.01,
        }
        assert trained[0]["ledger"].path == Site.of("north").ledger_path
        study = trained[0]["study"]
        assert study.name == "tiny federated-private"
        assert len(study.cohort) == len(run.split().train["north"])

    def test_charges_are_counted_by_the_signed_study(self, run, trained):
        """A second study of the same name learns nothing of what the first one has spent."""
        own = HospitalNode.of_partition(0)
        for digest in ("a" * 64, "b" * 64):
            signed = dataclasses.replace(own, digest=digest)
            signed.train_round(RoundOrder("federated-private", 1), state_of(1, 2))
        names = [call["study"].name for call in trained]
        assert names == [f"tiny federated-private {letter * 64}" for letter in "ab"]

    def test_receipts_are_kept_with_the_run(self, run, trained):
        """What proves later that the ledger had a charge lies elsewhere than the ledger."""
        ask(0, arm="federated-private")
        receipt = Receipt(3, "2026-01-01", "ab" * 32)
        trained[0]["study"].keep(receipt)
        assert read_receipts(run.hospital("north").receipts_path) == [receipt]

    def test_trains_on_its_own_training_patients(self, run, trained):
        """Neither test patients nor another hospital's reach the training."""
        ask(1)
        assert trained[0]["patients"] == list(run.split().train["south"])

    def test_other_hospitals_are_not_needed(self, run, trained):
        """A hospital's round works where no other hospital's folder exists."""
        shutil.rmtree(run.hospital("north").path)
        assert ask(1).content["metrics"]["patients"] == len(run.split().train["south"])
        assert not run.hospital("north").path.exists()

    def test_no_file_of_another_hospital_is_opened(self, run, trained):
        """Not one file under another hospital's home is opened in a round."""
        opened = []
        watching = True

        def watch(event, arguments):
            if watching and event in ("open", "os.listdir", "os.scandir", "sqlite3.connect"):
                opened.append(str(arguments[0]))

        sys.addaudithook(watch)
        ask(0)
        ask(0, arm="federated-private")
        watching = False
        assert any(str(run.hospital("north").path) in path for path in opened)
        assert not any(str(run.hospital("south").path) in path for path in opened)


POLICY = Path(__file__).resolve().parents[2] / "configs" / "site-policy.toml"


class TestPolicy:
    """What the site policy does not allow is refused before data is touched."""

    @pytest.fixture
    def policy(self, tmp_path, monkeypatch):
        """The example policy with changes, as the one that holds here."""

        def use(*changes):
            text = POLICY.read_text(encoding="utf-8")
            for old, new in (("minimum_cohort = 20", "minimum_cohort = 1"), *changes):
                assert old in text
                text = text.replace(old, new)
            (tmp_path / "policy.toml").write_text(text, encoding="utf-8")
            monkeypatch.setenv("EVENHAND_SITE_POLICY", str(tmp_path / "policy.toml"))

        return use

    @pytest.fixture
    def untouched(self, monkeypatch, trained):
        """Neither a case nor an embedding may be opened."""

        def touch(*_, **__):
            pytest.fail("data was touched")

        monkeypatch.setattr(node, "load_patients", touch)
        monkeypatch.setattr("evenhand.experiment.layout.HospitalHome.store", touch)
        return trained

    @pytest.mark.parametrize(
        ("arm", "change"),
        [
            ("federated", ("tables = false", "tables = true")),  # of itself: the arm is not named
            ("federated-private", ('backbones = ["mobile-sam", ', 'backbones = ["sam-vit-b", ')),
            ("federated-private", ('adapters = ["head.*"]', 'adapters = ["head.a"]')),
            ("federated-private", ('strategies = ["fedavg"]', 'strategies = ["fedadam"]')),
            ("federated-private", ("minimum_cohort = 1", "minimum_cohort = 3")),
            ("federated-private", ("maximum_epsilon = 8.0", "maximum_epsilon = 7.0")),
            ("federated-private", ('# hospital = "north"', 'hospital = "west"')),
        ],
    )
    def test_what_it_forbids(self, run, untouched, policy, arm, change):
        """Nothing is trained, nothing is sent; the sentence stays in the hospital's log."""
        policy(('heads = ["none", "small"]', 'heads = ["base"]'), change)
        reply = ask(0, arm=arm)
        assert (reply.error.code, reply.error.reason) == (FAILED, "PolicyError")
        assert untouched == []
        assert "PolicyError: " in run.hospital("north").log_path.read_text()

    def test_it_decides_whom_to_trust(self, tmp_path, tiny_stores, trained, policy, monkeypatch):
        """A policy that knows `local` alone refuses a sum, simulated or not."""
        privacy = {"rounds": 2, "steps_per_round": 1, "trust": "secure-sum", "delta": 1e-3}
        other = make_run(tmp_path / "other", tiny_stores, make_config(privacy=privacy))
        monkeypatch.setenv(SIMULATION_VARIABLE, str(other.path))
        policy(('heads = ["none", "small"]', 'heads = ["base"]'))
        assert ask(0, arm="federated-private").error.reason == "PolicyError"
        assert "training.trust allows local" in other.hospital("north").log_path.read_text()
        assert trained == []

    def test_what_it_allows(self, run, trained, policy):
        """The private arm, and only the figures that are named."""
        policy(('heads = ["none", "small"]', 'heads = ["base"]'), (', "epsilon", "delta"', ""))
        assert dict(ask(0, arm="federated-private").content["metrics"]) == {
            "patients": len(run.split().train["north"])
        }

    def test_a_policy_that_cannot_be_read_allows_nothing(self, run, untouched, policy):
        """A misspelt key must not mean that there is no rule."""
        policy(("maximum_delta", "maximum_detla"))
        assert ask(0, arm="federated-private").error.reason == "ConfigError"
        assert untouched == []


class TestSecureSum:
    """A share of the noise is no protection where somebody sees single updates."""

    @pytest.fixture
    def summed(self, tmp_path, tiny_stores, monkeypatch):
        """A run under `secure-sum`."""
        privacy = {"rounds": 2, "steps_per_round": 1, "trust": "secure-sum", "delta": 1e-3}
        run = make_run(tmp_path / "sum", tiny_stores, make_config(privacy=privacy))
        monkeypatch.setenv(SIMULATION_VARIABLE, str(run.path))
        return run

    def test_a_simulated_hospital_knows_the_union(self, summed, trained):
        """The simulation stands in for the sum, and the ledger will be told so."""
        assert ask(0, arm="federated-private").has_content()
        together = trained[0]["study"].together
        split = summed.split().train
        assert together.patients == sum(map(len, split.values()))
        assert (together.hospitals, together.carrier) == (2, "trusted-sum")

    def test_a_hospital_without_a_sum_trains_nothing(self, summed, monkeypatch):
        """Any other node sends its update to the coordinator: refused, by the real training."""
        monkeypatch.setattr(node, "_model", lambda _: FakeModel())
        monkeypatch.setattr(node, "load_patients", lambda *_: [SimpleNamespace(patient_id="p")])
        monkeypatch.setattr("evenhand.experiment.layout.HospitalHome.cache", lambda *_: None)
        home, split = summed.hospital("north"), summed.split().train
        alone = HospitalNode(home, summed.config(), split["north"])
        with pytest.raises(PrivacyError, match="nothing adds updates up unseen"):
            alone.train_round(RoundOrder("federated-private", 1), state_of(1, 2))
        assert home.ledger().state().charges == ()

    def test_a_sum_of_too_few_is_not_looked_at(self):
        """More gone than tolerated means less noise than promised, whatever the config admits."""
        config = make_config(
            privacy={"trust": "secure-sum", "steps_per_round": 1, "delta": 1e-3, "tolerated": 1},
            federation={"minimum_hospitals": 2},
        )
        assert fewest_answers(config, "federated-private", 5) == 4
        two = make_config(
            privacy={"trust": "secure-sum", "steps_per_round": 1, "tolerated": 2, "delta": 1e-3}
        )
        assert fewest_answers(two, "federated-private", 5) == 3
        assert fewest_answers(config, "federated", 5) == 2
        assert fewest_answers(make_config(), "federated-private", 5) == 2


class TestOrders:
    """A hospital does only what its own copy of the experiment provides for."""

    @pytest.mark.parametrize("arm", ["fedrated-private", "pooled", "", "Federated"])
    def test_unknown_arm_is_not_trained(self, run, trained, arm):
        """A misspelt private arm must not be trained without privacy."""
        assert ask(0, arm=arm).error.reason == "FederationError"
        assert trained == []

    def test_arm_outside_the_experiment(self, tmp_path, tiny_stores, trained, monkeypatch):
        """Where only the private arm was agreed on, nobody gets an update without noise."""
        config = make_config(arms=["federated-private"])
        other = make_run(tmp_path / "other", tiny_stores, config)
        monkeypatch.setenv(SIMULATION_VARIABLE, str(other.path))
        assert ask(0, arm="federated").error.reason == "FederationError"
        assert ask(0, arm="federated-private").has_content()

    @pytest.mark.parametrize("number", [0, -1, 4])
    def test_round_outside_the_plan(self, run, trained, number):
        """The plan has three rounds; a fourth would run the learning rate up again."""
        assert ask(0, number=number).error.reason == "FederationError"
        assert trained == []

    def test_pieces_of_one_schedule(self, run, trained):
        """Three rounds are three thirds of one schedule, each with its own seed."""
        for number in (1, 2, 3):
            ask(0, number=number)
        pieces = [(call["schedule"].start, call["schedule"].end) for call in trained]
        assert pieces == [(0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1)]
        assert len({call["seed"] for call in trained}) == 3

    def test_the_optimiser_remembers_the_round_before(self, run, trained):
        """Each round starts from what the one before left, also when it is run again."""
        for number in (1, 2, 3, 3):
            ask(0, number=number)
        remembered = [call["moments"] and call["moments"]["head/step"].item() for call in trained]
        assert remembered == [None, 1, 2, 2]

    def test_memories_do_not_pile_up(self, run, trained):
        """A hospital keeps those of two rounds, and nobody else's."""
        for number in (1, 2, 3):
            ask(0, number=number)
        kept = (run.hospital("north").path / "moments").iterdir()
        assert sorted(path.name for path in kept) == [
            "federated-2.safetensors",
            "federated-3.safetensors",
        ]
        assert not (run.hospital("south").path / "moments").exists()

    @pytest.mark.parametrize(("wanted", "patients"), [(None, 3), (1, 1)])
    def test_steps_are_made_up_here(self, run, trained, monkeypatch, wanted, patients):
        """A hospital with few patients can make smaller steps than pooled training."""
        steps = {"rounds": 3, "patients_per_step": wanted}
        config = make_config(training={"patients_per_step": 3}, federation=steps)
        run.config_path.write_text(config.model_dump_json())
        ask(0)
        assert trained[0]["config"].patients_per_step == patients

    def test_hospitals_draw_differently(self, run, trained):
        """Seeds depend on the hospital; and are the same on every machine."""
        ask(0)
        ask(1)
        ask(0)
        assert trained[0]["seed"] != trained[1]["seed"]
        assert trained[0]["seed"] == trained[2]["seed"]

    @pytest.mark.parametrize("is_hidden", [False, True])
    def test_two_hidden_studies_draw_differently(self, run, trained, is_hidden):
        """Else the difference of two sums were the update of who is in one of them alone."""
        config = make_config(federation={"rounds": 3, "secure_sum": is_hidden})
        for digest in ("a" * 64, "b" * 64, "a" * 64):
            split = run.split()
            home = run.hospital("north")
            own = HospitalNode(home, config, split.train["north"], digest=digest)
            own.train_round(RoundOrder("federated", 1), state_of(1, 2))
        first, second, again = (call["seed"] for call in trained)
        assert first == again
        assert (first != second) == is_hidden

    def test_rounds_of(self):
        """Each federated arm has its own number of rounds; no other arm has any."""
        config = make_config()
        assert rounds_of(config, "federated") == 3
        assert rounds_of(config, "federated-private") == 2
        with pytest.raises(FederationError, match="'pooled' is not a federated arm"):
            rounds_of(config, "pooled")

    def test_order_is_frozen(self):
        """An order is a record: valid when made, and not changed."""
        with pytest.raises(AttributeError):
            RoundOrder("federated", 1).round = 2
