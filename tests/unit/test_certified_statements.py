"""What hospitals sign of a hidden sum says one thing, and no other signature fits it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand_federated.certificates import make_node_key, node_key_of, sign_as_node
from evenhand_federated.certified import Roll, key_statement, list_statement

names = st.text(min_size=1, max_size=8)
statements = st.tuples(names, names, st.binary(min_size=1, max_size=8))


@given(one=statements, other=statements)
def test_a_statement_says_one_thing(one, other):
    """No two studies, rounds, hospitals or keys have the same statement, whatever their bytes."""
    assert (key_statement(*one) == key_statement(*other)) == (one == other)
    assert key_statement(*one) != list_statement(one[0], {one[1]: one[2]}, [one[1]])


@given(
    one=st.dictionaries(names, st.binary(min_size=1, max_size=4), min_size=1, max_size=4),
    other=st.dictionaries(names, st.binary(min_size=1, max_size=4), min_size=1, max_size=4),
)
def test_a_list_says_whose_and_among_whom(one, other):
    """Names in any order are one list; another name, or another key of one, is another."""
    same = list_statement("c", one, one) == list_statement("c", other, other)
    assert same == (one == other)
    assert list_statement("c", one, one) == list_statement("c", one, sorted(one, reverse=True))


@given(data=st.data())
def test_no_changed_byte_is_a_signature(data, key_file):
    """Neither of the signature nor of what is signed; nor is anything that is no signature."""
    message = data.draw(st.binary(min_size=1, max_size=40))
    place, bit = data.draw(st.integers(0, 10_000)), 1 << data.draw(st.integers(0, 7))
    anything = data.draw(st.one_of(st.none(), st.text(), st.integers(), st.binary(max_size=8)))
    public, signature = node_key_of(key_file), sign_as_node(key_file, message)
    roll = Roll({"north": public})
    assert roll.is_signed("north", message, signature)
    place %= len(signature)  # which differs from one signature to the next
    changed = signature[:place] + bytes([signature[place] ^ bit]) + signature[place + 1 :]
    assert not roll.is_signed("north", message, changed)
    assert not roll.is_signed("north", message + b"x", signature)
    assert not roll.is_signed("south", message, signature)
    assert not roll.is_signed("north", message, anything)
    assert not Roll({"north": "no key"}).is_signed("north", message, signature)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory):
    """A node's private key."""
    path = tmp_path_factory.mktemp("key") / "node.key"
    make_node_key(path)
    return path
