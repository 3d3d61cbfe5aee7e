"""How numbers travel: half precision against a slow oracle, and what is refused."""

import fractions
import math
import warnings

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from evenhand.config import ExperimentConfig
from evenhand.errors import FederationError
from evenhand_federated import wire
from evenhand_federated.one_piece import joined, taken_apart
from evenhand_federated.orders import precision_of
from federation_fakes import make_config, state_of

SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
HUGE = float(np.finfo(np.float32).max)

tensors = nps.arrays(
    np.float32,
    nps.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def slowly_halved(values, power):
    """Each number times 2^-power at the nearest float16 (ties to even), by whole numbers."""
    found = []
    for value in np.ravel(values).tolist():
        exact = fractions.Fraction(value) / fractions.Fraction(2) ** power
        # Below 2^-14 float16 counts in steps of 2^-24, above in 2^-10 of the power of two.
        size = abs(exact)
        octave = -14
        while size >= fractions.Fraction(2) ** (octave + 1):
            octave += 1
        step = fractions.Fraction(2) ** (octave - 10)
        found.append(float(round(exact / step) * step))
    return found


@given(tensors)
@example(np.zeros((2, 3), np.float32))
@example(np.zeros((0,), np.float32))
@example(np.array(7.25, np.float32))
@example(np.array([SMALLEST, -3 * SMALLEST, 0.0], np.float32))
@example(np.array([HUGE, -HUGE, SMALLEST, 1.0], np.float32))
@example(np.array([0.99999994, 1e-6, 65504.0], np.float32))
def test_equals_the_slow_rounding_within_its_bound(values):
    """Nothing overflows or vanishes: |x| 2^-11 + m 2^-39 in a tensor whose largest is m."""
    half, power = wire.halved(values)
    assert half.dtype == np.float16
    assert half.shape == values.shape
    assert np.isfinite(half).all()
    assert np.ravel(half).astype(float).tolist() == slowly_halved(values, power)
    exact, found = values.astype(np.float64), wire.restored(half, power)
    largest = np.abs(exact).max(initial=0.0)
    assert (np.abs(found - exact) <= np.abs(exact) * 2.0**-11 + largest * 2.0**-39).all()
    assert largest == 0 or np.abs(found).max() > 0


@given(tensors)
def test_rounding_again_changes_nothing(values):
    """What came back rounds to itself: passing it on costs no more."""
    once = wire.restored(*wire.halved(values))
    assert np.array_equal(wire.restored(*wire.halved(once)), once)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(bad):
    """Never clipped to the largest number there is."""
    values = np.array([1.0, bad], np.float32)
    with pytest.raises(FederationError, match=r"not finite\. Nothing is sent"):
        wire.halved(values)
    state = ArrayRecord({"w": Array(values)})
    with pytest.raises(FederationError, match="not finite"):
        wire.common(state, "float16")
    fine = ArrayRecord({"w": Array(np.ones(2, np.float32))})
    for before, after in ((fine, state), (state, state)):
        with pytest.raises(FederationError, match="not finite"):
            wire.update(before, after, "float16")


def record(**named):
    """Tensors by name."""
    return ArrayRecord({n: Array(np.asarray(v, np.float32)) for n, v in named.items()})


def numbers(arrays):
    """Of a record, by name."""
    return {name: one.numpy() for name, one in arrays.items()}


START = ArrayRecord(state_of(1.0, 1e-3, -2.5))
LATER = ArrayRecord({n: t * 1.001 + 1e-5 for n, t in state_of(1.0, 1e-3, -2.5).items()})


class TestFloat32:
    """As it always was."""

    def test_nothing_is_touched(self):
        """The same objects: bit for bit, byte for byte."""
        assert wire.common(START, "float32") == {"arrays": START}
        content = RecordDict({"arrays": START})
        assert wire.received(content, "float32") is content["arrays"]
        assert wire.update(START, LATER, "float32") == {"arrays": LATER}
        answer = RecordDict({"arrays": LATER})
        assert wire.answer_fault(answer, START, "float32") is None
        assert wire.answered(answer, START, "float32") is answer["arrays"]
        assert wire.bytes_of(answer) == LATER.count_bytes()


def there_and_back(start, train):
    """What the coordinator has after a hospital has trained, and what the hospital started from."""
    out = taken_apart(joined(RecordDict(dict(wire.common(start, "float16")))))
    common = wire.received(out, "float16")
    after = ArrayRecord({n: Array(train(one)) for n, one in numbers(common).items()})
    back = taken_apart(joined(RecordDict(dict(wire.update(common, after, "float16")))))
    assert wire.answer_fault(back, start, "float16") is None
    return numbers(wire.answered(back, start, "float16")), numbers(common), numbers(after)


class TestFloat16:
    """There and back, as messages between real hospitals go."""

    def test_both_ways(self):
        """What travels is the rounded adapter, and the change that training made to it."""
        found, common, after = there_and_back(START, lambda one: one * np.float32(1.01))
        for name, one in numbers(START).items():
            assert common[name].dtype == found[name].dtype == np.float32
            np.testing.assert_allclose(common[name], one, rtol=2.0**-11)
            change = after[name].astype(float) - common[name]
            bound = np.abs(change) * 2.0**-11 + np.abs(change).max() * 2.0**-39
            assert (np.abs(found[name] - (one + change)) <= bound + np.spacing(np.abs(one))).all()

    def test_small_changes_add_up(self):
        """A hundredth of what rounding the adapter loses, a hundred times, is all there."""
        state = record(w=np.array([1.0 + 2.0**-12, 3.0]))
        for _ in range(100):
            found, _, _ = there_and_back(state, lambda one: one + np.float32(2.0**-18))
            state = ArrayRecord({n: Array(one) for n, one in found.items()})
        moved = numbers(state)["w"] - np.array([1.0 + 2.0**-12, 3.0])
        np.testing.assert_allclose(moved, 100 * 2.0**-18, rtol=1e-3)

    def test_half_the_bytes(self):
        """Of an adapter that is not tiny: half, and a few for the powers."""
        large = record(**{f"w{n}": np.random.default_rng(n).normal(size=2000) for n in range(3)})
        half = wire.bytes_of(wire.common(large, "float16"))
        assert 0.5 < half / large.count_bytes() < 0.55
        assert wire.bytes_of(wire.update(large, large, "float16")) == half

    def test_a_part_may_stay(self):
        """Of tensors that were trained only those travel that may."""
        sent = wire.update(START, ArrayRecord({"head.a": LATER["head.a"]}), "float16")
        assert list(sent["arrays"]) == ["head.a"]

    def test_the_order_of_names_does_not_matter(self):
        """Powers go by name, whatever order the tensors come in."""
        mixed = record(b=[1e-9, 2e-9], a=[1e9, 3e9], c=[0.0])
        out = RecordDict(dict(wire.common(mixed, "float16")))
        turned = {name: out["arrays"][name] for name in ("c", "a", "b")}
        found = numbers(
            wire.received(RecordDict({**out, "arrays": ArrayRecord(turned)}), "float16")
        )
        for name, one in numbers(mixed).items():
            np.testing.assert_allclose(found[name], one, rtol=2.0**-11)


def spoilt(change):
    """A good answer, after somebody has changed it."""
    content = RecordDict(dict(wire.update(START, LATER, "float16")))
    change(content)
    return content


def powers(*values):
    """Change the powers to these."""

    def change(content):
        content["powers"] = ConfigRecord({"powers": list(values)})

    return change


def tensor(value):
    """Change the first tensor to this."""

    def change(content):
        content["arrays"]["head.a"] = Array(value)

    return change


FAULTS = {
    "no powers": (lambda c: c.pop("powers"), "without a power"),
    "one power less": (powers(0), "without a power"),
    "one power more": (powers(0, 0, 0), "without a power"),
    "a fraction": (powers(0.5, 1.5), "that is none"),
    "true": (powers(True, True), "that is none"),
    "words": (powers("0", "1"), "that is none"),
    "a huge power": (powers(0, 2**40), "that is none"),
    "beyond float32": (powers(1000, 1000), "not finite"),
    "float32 in place of float16": (tensor(np.ones(3, np.float32)), "another shape or type"),
    "another shape": (tensor(np.ones(4, np.float16)), "another shape or type"),
    "NaN": (tensor(np.full(3, np.nan, np.float16)), "not finite"),
    "infinity": (tensor(np.full(3, np.inf, np.float16)), "not finite"),
    "another name": (lambda c: c["arrays"].update({"more": c["arrays"]["head.a"]}), "other names"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_answer(fault):
    """Is named for what it is, without a warning on the way; nothing of it is added up."""
    change, reason = FAULTS[fault]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason in wire.answer_fault(spoilt(change), START, "float16")


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "another name"])
def test_a_bad_adapter(fault):
    """A hospital does not train on what it cannot read, or on another form than was agreed on."""
    change, _ = FAULTS[fault]
    if fault == "another shape":
        return  # the model looks at shapes
    with pytest.raises(FederationError, match="The common adapter came"):
        wire.received(spoilt(change), "float16")


def test_float32_where_float16_was_agreed_on():
    """And the other way round: the form is part of what was signed."""
    whole, half = RecordDict({"arrays": LATER}), spoilt(lambda _: None)
    with pytest.raises(FederationError, match="float16 was agreed on"):
        wire.received(whole, "float16")
    assert wire.answer_fault(whole, START, "float16") is not None
    assert wire.answer_fault(half, START, "float32") == "a tensor of another shape or type"


def config_with(precision, **privacy):
    """A small experiment."""
    sections = {"federation": {"rounds": 3, "precision": precision}}
    if privacy:
        sections["privacy"] = {"rounds": 2, "steps_per_round": 1, "delta": 0.01} | privacy
    return make_config(**sections)


def test_shared_noise_travels_in_float32():
    """Parts of one noise are priced as a sum, which parts rounded one by one are not."""
    assert precision_of(config_with("float16"), "federated") == "float16"
    assert precision_of(config_with("float16"), "federated-private") == "float16"
    assert precision_of(config_with("float32"), "federated") == "float32"
    shared = config_with("float16", trust="secure-sum")
    assert precision_of(shared, "federated-private") == "float32"
    assert precision_of(shared, "federated") == "float16"


def test_half_is_what_hospitals_agree_on_unless_they_say_other():
    """It moves half the bytes; what it costs: docs/results/federation.md."""
    made = ExperimentConfig.model_validate({"name": "tiny", "data": {"source": "nowhere"}})
    assert made.federation.precision == "float16"


def test_torch_reads_what_comes():
    """The common adapter is loaded as float32 tensors."""
    content = RecordDict(dict(wire.common(START, "float16")))
    state = wire.received(content, "float16").to_torch_state_dict()
    assert {one.dtype for one in state.values()} == {torch.float32}
