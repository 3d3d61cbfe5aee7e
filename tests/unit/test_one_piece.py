"""Tensors travel in one piece and arrive as they were; a damaged piece is refused."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from evenhand.errors import FederationError
from evenhand_federated import hospital_app
from evenhand_federated.answers import tensor_fault
from evenhand_federated.hospital import NODE_VARIABLE
from evenhand_federated.message_log import weigh
from evenhand_federated.node import HospitalNode
from evenhand_federated.one_piece import is_in_one_piece, joined, taken_apart
from evenhand_federated.prompt_grid import PromptGrid
from evenhand_federated.testing import FakeGrid
from federation_fakes import answering, context_of, state_of
from federation_places import make_coordinator, make_hospital, make_study

TENSORS = {
    "z.vector": np.arange(5, dtype=np.float32) / 3,
    "a.matrix": np.arange(6, dtype=np.float64).reshape(2, 3),
    "number": np.array(7, dtype=np.uint64),
    "none": np.empty((0, 4), dtype=np.float32),
    "b": np.array([np.nan, np.inf, -0.0], dtype=np.float32),
}


def content_of(tensors):
    """An adapter and what goes with it."""
    arrays = ArrayRecord({name: Array(value) for name, value in tensors.items()})
    return RecordDict({"arrays": arrays, "config": ConfigRecord({"round": 1})})


def piece_of(data):
    """What is sent as a piece, whatever it holds."""
    (name,) = joined(content_of(TENSORS))["arrays"]
    piece = Array(np.frombuffer(data, np.uint8))
    return RecordDict({"arrays": ArrayRecord({name: piece})})


def test_arrives_as_it_was():
    """Names in their order, shapes, types and every bit; what is no tensor is untouched."""
    content = content_of(TENSORS)
    found = taken_apart(joined(content))
    assert list(found["arrays"]) == list(TENSORS)
    assert weigh(found) == weigh(content)
    assert found["config"] == content["config"]
    assert is_in_one_piece(joined(content))
    assert not is_in_one_piece(found)


def test_whatever_way_it_lies_in_memory():
    """A turned matrix arrives turned."""
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    found = taken_apart(joined(content_of({"turned": turned})))["arrays"]["turned"].numpy()
    assert np.array_equal(found, turned)


def test_is_few_requests():
    """Each object of a message is a request on every leg; the number of tensors does not count."""
    many = content_of({f"t{number}": np.full(3, number, np.float32) for number in range(66)})
    FakeGrid({})  # makes messages possible
    assert len(get_all_nested_objects(Message(many, 10, "train"))) > 100
    assert len(get_all_nested_objects(Message(joined(many), 10, "train"))) < 10


def npy(header):
    """A file of NumPy's that begins so and has nothing in it."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


@pytest.mark.parametrize(
    "header",
    ["{'descr': '|u1', 'fortran_order': False, 'shape': (1125899906842624,), }", "{'descr': ("],
    ids=["huge", "unclosed"],
)
def test_a_header_that_numpy_breaks_on(header):
    """A petabyte, and a header without an end: a sentence, not an error that ends the study."""
    array = Array("uint8", (4,), "numpy.ndarray", npy(header))
    assert tensor_fault(array, (4,), "uint8") == "a tensor that cannot be read"
    content = RecordDict({"arrays": ArrayRecord({"in one piece": array})})
    with pytest.raises(FederationError, match="cannot be read"):
        taken_apart(content)


@pytest.mark.parametrize(
    "data", [b"", b"rubbish", b"\xff" * 40, np.array([object]).dumps(), b"\x02\0\0\0\0\0\0\0{}x"]
)
def test_a_damaged_piece(data):
    """Rubbish is no tensors, and nothing in it is run."""
    with pytest.raises(FederationError, match="cannot be read"):
        taken_apart(piece_of(data))


class TestGrid:
    """The coordinator's strategies need not know."""

    def test_tensors_again(self):
        """A hospital gets one piece; its answer in one piece comes back as tensors."""
        came = []

        def node(message):
            came.append(message.content)
            return Message(message.content, reply_to=message)

        grid = PromptGrid(FakeGrid({10: node}))
        message = Message(content := content_of(TENSORS), 10, "train")
        (reply,) = grid.send_and_receive([message], timeout=5)
        assert is_in_one_piece(came[0])
        assert weigh(reply.content) == weigh(content)
        assert message.content is content
        assert reply.metadata.reply_to_message_id == message.metadata.message_id

    def test_what_cannot_be_read_comes_as_it_is(self):
        """It is the strategy that refuses it, and names the hospital."""
        rubbish = piece_of(b"rubbish")
        grid = PromptGrid(FakeGrid({10: lambda m: Message(rubbish, reply_to=m)}))
        (reply,) = grid.send_and_receive([Message(content_of(TENSORS), 10, "train")], timeout=5)
        assert weigh(reply.content) == weigh(rubbish)

    def test_tensors_one_by_one(self):
        """An answer of an older node is taken, too."""
        state = state_of(1, 2)
        grid = PromptGrid(FakeGrid({10: lambda m: answering(lambda *_: state)(plain(m))}))
        message = Message(
            RecordDict({"arrays": ArrayRecord(state), "config": ConfigRecord({"round": 1})}),
            10,
            "train",
        )
        (reply,) = grid.send_and_receive([message], timeout=5)
        assert set(reply.content["arrays"]) == set(state)


def plain(message):
    """A message whose tensors are taken apart."""
    message.content = taken_apart(message.content)
    return message


class TestHospital:
    """The hospital's log tells what a person can compare, in whatever form it travels."""

    @pytest.fixture
    def ask(self, tmp_path, tiny_stores, monkeypatch):
        """Send content through the real ClientApp; its answer as it leaves, and the log."""
        centre = make_coordinator(tmp_path / "centre")
        north = make_hospital(tmp_path / "north", centre, tiny_stores["north"].path)
        monkeypatch.setenv(NODE_VARIABLE, str(north.path))
        study = make_study(centre, tmp_path / "study.toml")
        north.approve(study, study.digest)
        monkeypatch.setattr(HospitalNode, "train_round", lambda *given: (given[2], {"patients": 2}))

        def go(content):
            answers = []

            def node(message):
                context = context_of(0)
                context.run_config["study"] = study.digest
                answers.append(hospital_app.app(message, context))
                return answers[0]

            FakeGrid({10: node}).push_messages([Message(content, 10, "train")])
            return answers[0], north.messages().entries()

        return go

    def test_answers_as_it_was_asked(self, ask):
        """In one piece to a piece; the log has bytes and hash of the tensors."""
        config = ConfigRecord({"arm": "federated", "round": 1})
        content = RecordDict({"arrays": ArrayRecord(state_of(1, 2)), "config": config})
        answer, (came, left) = ask(joined(content))
        assert is_in_one_piece(answer.content)
        assert came.body()["sha256"] == weigh(content).sha256
        assert left.body()["sha256"] == weigh(taken_apart(answer.content)).sha256
        assert left.body()["tensors"] == 2

    def test_a_damaged_piece_is_refused_and_written_down(self, ask):
        """Nothing is trained."""
        answer, (entry,) = ask(piece_of(b"rubbish"))
        assert answer.has_error()
        assert (entry.kind, entry.body()["what"]) == ("refused", "tensors")
