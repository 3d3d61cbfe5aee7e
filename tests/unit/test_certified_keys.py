"""Keys and lists of a hidden sum are signed by hospitals that the study names; others are refused.

North is a hospital as it is installed. The other hospitals, and a coordinator that does what it
likes, are played by the tests.
"""

from dataclasses import dataclass, field

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from typer.testing import CliRunner

from evenhand.cli import app as command_line
from evenhand.errors import FederationError
from evenhand_federated import hospital as hospitals
from evenhand_federated import hospital_app
from evenhand_federated.certificates import (
    is_signed_by_node,
    key_name_of,
    make_node_key,
    node_key_of,
    sign_as_node,
)
from evenhand_federated.certified import context_of, key_statement, list_statement
from evenhand_federated.coordinator import CoordinatorFolder, Member
from evenhand_federated.fixed_point import WIDE
from evenhand_federated.hospital import NODE_VARIABLE
from evenhand_federated.masked_sum import Contributor
from evenhand_federated.node import HospitalNode
from evenhand_federated.secure_hospital import AGREE, KEYS, UNMASK
from evenhand_federated.testing import LINK_NODE_ID, FakeGrid
from federation_fakes import context_of as context_for
from federation_fakes import state_of
from federation_places import make_coordinator, make_hospital, make_study

OTHERS = ("east", "south", "west")
START = state_of(1, 2)


@dataclass
class World:
    """North, the others' keys, and what a coordinator has of a round."""

    folder: object
    north: object
    study: object
    trained: list
    number: int = 1
    parts: dict = field(default_factory=dict)
    keys: dict = field(default_factory=dict)
    signatures: dict = field(default_factory=dict)
    masked: dict = field(default_factory=dict)
    sent: int = 0

    def context(self, number=None):
        """Of a round."""
        return context_of(self.study.digest, number or self.number, LINK_NODE_ID)

    def sign(self, name, statement):
        """As a hospital that the test plays."""
        return sign_as_node(self.folder / f"{name}.key", statement)

    def ask(self, kind, **content):
        """A message to north; its answer."""
        context = context_for(0)
        context.run_config["study"] = self.study.digest
        order = ConfigRecord({"arm": "federated", "round": self.number})
        grid = FakeGrid({10: lambda message: hospital_app.app(message, context)})
        self.sent += 1
        grid._number = iter([self.sent])  # no two messages have one id
        message = Message(RecordDict({"config": order, **content}), 10, kind)
        (reply,) = grid.send_and_receive([message])
        return reply

    def begin(self, number=1):
        """All give a key."""
        self.number = number
        reply = self.ask(KEYS)
        self.keys = {"north": reply.content["key"]["north"]}
        self.signatures = {"north": reply.content["signature"]["north"]}
        for name in OTHERS:
            self.parts[name] = Contributor(name, self.context(), 2)
            self.keys[name] = self.parts[name].public()
            statement = key_statement(self.context(), name, self.keys[name])
            self.signatures[name] = self.sign(name, statement)

    def train(self):
        """Send the adapter and everybody's keys to north."""
        arrays = ArrayRecord(START)
        keys, signatures = ConfigRecord(self.keys), ConfigRecord(self.signatures)
        return self.ask("train", arrays=arrays, keys=keys, signatures=signatures)

    def mask(self):
        """All send their numbers."""
        reply = self.train()
        assert reply.has_content(), self.last()
        self.masked = {"north": dict(reply.content["shares"])}
        for name in OTHERS:
            self.masked[name] = dict(
                self.parts[name].mask(self.keys, np.ones(7), ring=WIDE, told="").shares
            )

    def agree(self, came):
        """Ask north to sign a list."""
        return self.ask(AGREE, came=ConfigRecord({"names": list(came)}))

    def lists(self, came, signers, **changes):
        """Signatures of a list, by those whom the test plays."""
        statement = list_statement(self.context(), self.keys, came)
        return {name: self.sign(name, changes.get(name, statement)) for name in signers}

    def unmask(self, came, signatures):
        """Ask north to open."""
        shares = ConfigRecord({name: self.masked[name]["north"] for name in came})
        return self.ask(UNMASK, shares=shares, signatures=ConfigRecord(signatures))

    def last(self):
        """Kind and facts of the last line in north's log."""
        entry = self.north.messages().entries()[-1]
        return entry.kind, entry.body()

    def refused(self, reply, why):
        """Whether an answer is a refusal, and north's log says why in a sentence."""
        kind, facts = self.last()
        assert (reply.has_error(), reply.error.reason) == (True, "RefusedSumError")
        assert kind == "refused"
        assert why in facts["why"]
        assert facts["round"] == self.number
        assert self.north.messages().faults() == []
        return True


@pytest.fixture
def world(tmp_path, tiny_stores, monkeypatch):
    """A hidden study of four hospitals, which north has approved."""
    centre = make_coordinator(tmp_path / "centre")
    north = make_hospital(tmp_path / "north", centre, tiny_stores["north"].path)
    for name in OTHERS:
        centre.keep_member(Member(name, make_node_key(tmp_path / f"{name}.key"), "2026-01-01"))
    study = make_study(
        centre,
        tmp_path / "study.toml",
        hospitals=("north", *OTHERS),
        federation={"rounds": 3, "secure_sum": True},
    )
    north.approve(study, study.digest)
    monkeypatch.setenv(NODE_VARIABLE, str(north.path))
    trained = []

    def train_round(self, order, state):
        trained.append(order.round)
        return {name: value + 1 for name, value in state.items()}, {"patients": 2}

    monkeypatch.setattr(HospitalNode, "train_round", train_round)
    return World(tmp_path, north, study, trained)


def invented(world):
    """The coordinator adds a hospital, with a key of its own making."""
    own = Contributor("ghost", world.context(), 2)
    make_node_key(world.folder / "ghost.key")
    world.keys["ghost"] = own.public()
    world.signatures["ghost"] = world.sign(
        "ghost", key_statement(world.context(), "ghost", own.public())
    )


def impersonated(world):
    """It answers for south, with a node key that south does not have."""
    own = Contributor("south", world.context(), 2)
    make_node_key(world.folder / "false.key")
    world.keys["south"] = own.public()
    world.signatures["south"] = world.sign(
        "false", key_statement(world.context(), "south", own.public())
    )


def swapped(world):
    """It gives south's key, with south's signature, as west's, and west's as south's."""
    for of in (world.keys, world.signatures):
        of["south"], of["west"] = of["west"], of["south"]


def of_an_older_round(world):
    """It keeps a key that south gave and signed in the round before."""
    old = world.keys["south"], world.signatures["south"]
    world.begin(2)
    world.keys["south"], world.signatures["south"] = old


def of_an_older_run(world):
    """It keeps one of the same round, from when the study was started before."""
    before = context_of(world.study.digest, 1, LINK_NODE_ID + 1)
    statement = key_statement(before, "south", world.keys["south"])
    world.signatures["south"] = world.sign("south", statement)


def tampered(world):
    """One bit of a signature is another."""
    whole = world.signatures["south"]
    world.signatures["south"] = whole[:-1] + bytes([whole[-1] ^ 1])


def unsigned(world):
    """No signature came, as from a version of before."""
    world.signatures.clear()


def none_at_all(world):
    """Neither keys nor signatures: nothing that could be looked at."""
    world.keys.clear()
    world.signatures.clear()


def no_point(world):
    """South has signed bytes that are no key: all would pay, and then fail."""
    world.keys["south"] = b"\x02" + b"\xff" * 48
    statement = key_statement(world.context(), "south", world.keys["south"])
    world.signatures["south"] = world.sign("south", statement)


class TestKeys:
    """A key of a round counts only if its hospital, which the study names, has signed it."""

    @pytest.mark.parametrize(
        ("attack", "why"),
        [
            (invented, "A key came for 'ghost', whom the study does not name"),
            (impersonated, "The key that came for south is not one that south has signed"),
            (swapped, "is not one that"),
            (of_an_older_round, "The key that came for south is not one that south has signed"),
            (of_an_older_run, "The key that came for south is not one that south has signed"),
            (tampered, "The key that came for south is not one that south has signed"),
            (unsigned, "is not one that"),
            (none_at_all, "0 hospitals would take part in this sum"),
            (no_point, "A key is no key at all"),
        ],
    )
    def test_refused_and_logged(self, world, attack, why):
        """Nothing is trained, so nothing is charged; the log says whose key it was."""
        world.begin()
        attack(world)
        assert world.refused(world.train(), why)
        assert world.trained == []

    def test_right_ones_are_taken(self, world):
        """Else the test above would show nothing."""
        world.begin()
        world.mask()
        assert world.trained == [1]
        assert world.last()[0] == "sent"

    def test_a_key_under_the_own_name_in_the_study_is_looked_at(self, world, tmp_path, tiny_stores):
        """A study in which the coordinator names its own key for a hospital is not approved."""
        centre = make_coordinator(tmp_path / "centre2")
        north = make_hospital(tmp_path / "north2", centre, tiny_stores["north"].path)
        centre.members_path.unlink()
        for name in ("north", "south"):
            public = make_node_key(tmp_path / f"false-{name}.key")
            centre.keep_member(Member(name, public, "2026-01-01"))
        hidden = {"rounds": 1, "secure_sum": True}
        study = make_study(centre, tmp_path / "false.toml", federation=hidden)
        with pytest.raises(FederationError, match="names another key for north"):
            north.approve(study, study.digest)
        assert north.approved_digests() == []

    def test_the_keys_are_shown_to_be_compared(self, world, monkeypatch):
        """By `study show` and by `approve`: each hospital's, as `join` and `admit` showed it."""
        monkeypatch.setattr(hospitals, "prepare", lambda *_: 0)
        path, digest = world.folder / "study.toml", world.study.digest
        place = ("--hash", digest, "--folder", world.north.path)
        for words in (
            ("study", "show", path),
            ("federation", "approve", path, "north", *place),
        ):
            done = CliRunner().invoke(command_line, [str(word) for word in words])
            assert done.exit_code == 0, done.output
            for name, key in world.study.terms.keys.items():
                assert f"key of {name}:" in done.output
                assert key_name_of(key) in done.output

    def test_a_hospital_that_was_admitted_anew(self, world):
        """Its key is another than the study's: the study is not taken into the queue."""
        centre = CoordinatorFolder(world.folder / "centre")
        centre.submit(world.study)
        rows = centre.members_path.read_text()
        west = world.study.terms.keys["west"]
        centre.members_path.write_text(rows.replace(west, make_node_key(world.folder / "new.key")))
        with pytest.raises(FederationError, match=r"Admitted with another key .*: west\. Make"):
            centre.submit(world.study)


class TestLists:
    """A sum of fewer than began is opened only for a list that enough hospitals have signed."""

    CAME = ("north", "east", "south")

    @pytest.fixture
    def masked(self, world):
        """All have sent; the coordinator says that west has not."""
        world.begin()
        world.mask()
        return world

    def test_signed_by_enough(self, masked):
        """Then shares of those who came and the pair seed with the one who did not leave."""
        mine = masked.agree(self.CAME).content["signature"]["north"]
        signatures = masked.lists(self.CAME, ("east", "south")) | {"north": mine}
        statement = list_statement(masked.context(), masked.keys, self.CAME)
        assert is_signed_by_node(node_key_of(masked.north.key_path), statement, mine)
        content = masked.unmask(self.CAME, signatures).content
        assert (set(content["shares"]), set(content["pairs"])) == (set(self.CAME), {"west"})

    def test_two_lists(self, masked):
        """North has signed one; for another it neither signs nor opens."""
        masked.agree(self.CAME)
        other = ("north", "east", "west")
        why = "This hospital has signed that numbers of east, north, south came"
        assert masked.refused(masked.agree(other), why)
        signatures = masked.lists(other, ("east", "west"))
        assert masked.refused(masked.unmask(other, signatures), why)
        everybody = ("north", *OTHERS)
        assert masked.refused(masked.unmask(everybody, {}), why)

    def test_others_were_told_another_list(self, masked):
        """South's signature is of another list, so too few have signed this one."""
        mine = masked.agree(self.CAME).content["signature"]["north"]
        other = list_statement(masked.context(), masked.keys, ("south", "east", "west"))
        signatures = masked.lists(self.CAME, ("east", "south"), south=other) | {"north": mine}
        why = "2 hospitals have signed this list"
        assert masked.refused(masked.unmask(self.CAME, signatures), why)

    def test_others_were_told_other_keys(self, masked):
        """Who was told other keys is in another sum: its signature does not count in this one."""
        mine = masked.agree(self.CAME).content["signature"]["north"]
        keys = {name: masked.keys[name] for name in self.CAME}
        other = list_statement(masked.context(), keys, self.CAME)
        signatures = masked.lists(self.CAME, ("east", "south"), south=other) | {"north": mine}
        why = "2 hospitals have signed this list"
        assert masked.refused(masked.unmask(self.CAME, signatures), why)

    def test_a_replayed_signature(self, masked):
        """Of the same list in the round before."""
        old = masked.lists(self.CAME, ("east", "south"))
        masked.begin(2)
        masked.mask()
        mine = masked.agree(self.CAME).content["signature"]["north"]
        why = "1 hospitals have signed this list"
        assert masked.refused(masked.unmask(self.CAME, old | {"north": mine}), why)

    def test_a_tampered_signature(self, masked):
        """One bit of one, and one too few is left."""
        mine = masked.agree(self.CAME).content["signature"]["north"]
        signatures = masked.lists(self.CAME, ("east", "south")) | {"north": mine}
        whole = signatures["east"]
        signatures["east"] = whole[:-1] + bytes([whole[-1] ^ 1])
        why = "2 hospitals have signed this list"
        assert masked.refused(masked.unmask(self.CAME, signatures), why)

    def test_a_round_is_opened_for_one_list(self, masked):
        """Begun again, it gives the same numbers: another list would show whose are missing."""
        mine = masked.agree(self.CAME).content["signature"]["north"]
        signatures = masked.lists(self.CAME, ("east", "south")) | {"north": mine}
        assert masked.unmask(self.CAME, signatures).has_content()
        masked.begin()
        masked.mask()
        why = "Round 1 was opened for east, north, south"
        other = ("north", "east", "west")
        assert masked.refused(masked.agree(other), why)
        assert masked.refused(masked.unmask(("north", *OTHERS), {}), why)
        mine = masked.agree(self.CAME).content["signature"]["north"]
        signatures = masked.lists(self.CAME, ("east", "south")) | {"north": mine}
        assert masked.unmask(self.CAME, signatures).has_content()

    def test_a_share_that_is_a_number(self, masked):
        """As bytes it would be as many as it says."""
        masked.masked["east"]["north"] = 30_000_000_000
        why = "What came as shares are none"
        assert masked.refused(masked.unmask(("north", *OTHERS), {}), why)

    @pytest.mark.parametrize("change", ["gone", "older"])
    def test_what_it_remembers_is_put_back(self, masked, change):
        """Restored from a copy, a hospital does not know for whom it opened; its log knows that."""
        (path,) = masked.north.path.glob("studies/*/north/secure-sum.json")
        everybody, opened = ("north", *OTHERS), path.with_name("secure-sums-opened.json")
        copy = path.read_bytes()
        assert masked.unmask(everybody, {}).has_content()
        path.write_bytes(copy)
        opened.unlink() if change == "gone" else opened.write_text("{}")
        why = "The message log says that round 1 was opened here"
        assert masked.refused(masked.agree(self.CAME), why)
        assert masked.refused(masked.unmask(everybody, {}), why)
        masked.begin(2)
        masked.mask()
        assert masked.unmask(everybody, {}).has_content()

    def test_its_own_shares_as_those_of_others(self, masked):
        """It would open its own mask alone; with what others share with it, it were bare."""
        for name in OTHERS:
            masked.masked[name] = {"north": masked.masked["north"][name]}
        why = "A share was not meant for this hospital"
        assert masked.refused(masked.unmask(("north", *OTHERS), {}), why)

    @pytest.mark.parametrize("number", [0, -1, 4, 10**9])
    def test_a_round_that_the_study_does_not_have(self, masked, number):
        """It were the latest that was begun here, and all that are to come were over."""
        masked.number = number
        assert masked.ask(KEYS).has_error()
        assert f"The study has 3 rounds; {number} was asked" in masked.last()[1]["why"]
        masked.begin(2)
        masked.mask()
        assert masked.trained == [1, 2]

    def test_a_list_without_oneself(self, masked):
        """North has sent its numbers, and knows it; nor is a list of too few one."""
        assert masked.refused(masked.agree(OTHERS), "This hospital is not on the list")
        assert masked.refused(masked.agree(("north", "south")), "A sum of 2 hospitals")
