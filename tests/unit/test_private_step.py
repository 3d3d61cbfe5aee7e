"""The private step against a slow hand loop: clipping, bounds, draws, and who gets noise."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from evenhand.errors import PrivacyError
from evenhand.privacy.noise import GRID_BITS
from evenhand.privacy.sampling import poisson_sample
from evenhand.privacy.step import NoisedSum, PrivateStep


def parameters_of(shapes, generator):
    """Random parameters of these shapes."""
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def step_on(parameters, *, noise=0.0, clip=1.0, expected=4.0, rate=1.0):
    """A private step of plain gradient descent."""
    return PrivateStep(
        parameters,
        torch.optim.SGD(parameters, lr=rate),
        noise_multiplier=noise,
        clip_norm=clip,
        expected_patients=expected,
    )


def distances(before, after):
    """All movements in one row."""
    return torch.cat([(a - b).flatten() for a, b in zip(after, before, strict=True)])


def curved_loss(parameters, slices):
    """Mean over (slices, features) of something that is not linear in the parameters."""
    losses = [
        sum(
            torch.tanh((p * row[0]).sum() + row[1]) * row[2] + row[3] * (p**2).mean()
            for p in parameters
        )
        for row in slices
    ]
    return torch.stack(losses).mean()


def hand_loop(parameters, patients, *, clip, expected, rate):
    """What the step should do, patient by patient, one backward pass each, in float64."""
    total = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    for slices in patients:
        copies = [p.detach().double().clone().requires_grad_() for p in parameters]
        curved_loss(copies, slices.double()).backward()
        norm = math.sqrt(sum(float((c.grad**2).sum()) for c in copies))
        factor = min(1.0, clip / norm) if norm else 1.0
        total = [t + factor * c.grad for t, c in zip(total, copies, strict=True)]
    return [
        (p.detach().double() - rate * t / expected) for p, t in zip(parameters, total, strict=True)
    ]


@settings(max_examples=40)
@given(
    shapes=st.lists(
        st.lists(st.integers(1, 4), min_size=0, max_size=3).map(tuple), min_size=1, max_size=4
    ),
    slices=st.lists(st.integers(1, 5), max_size=6),
    clip=st.floats(0.05, 20),
    expected=st.floats(0.5, 10),
    seed=st.integers(0, 10_000),
)
def test_step_equals_a_hand_loop(shapes, slices, clip, expected, seed):
    """Each patient's gradient is clipped as a whole, summed, divided by the expected number."""
    generator = torch.Generator().manual_seed(seed)
    parameters = parameters_of(shapes, generator)
    patients = [torch.randn(n, 4, generator=generator) for n in slices]
    wanted = hand_loop(parameters, patients, clip=clip, expected=expected, rate=0.7)
    step_on(parameters, clip=clip, expected=expected, rate=0.7)(
        patients, lambda rows: curved_loss(parameters, rows)
    )
    for got, want in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(got.detach().double(), want, atol=1e-5, rtol=1e-5)


def test_steps_do_not_remember_each_other():
    """Three steps in a row are three hand loops in a row: no gradient is carried over."""
    generator = torch.Generator().manual_seed(3)
    parameters = parameters_of([(3, 2), (4,)], generator)
    step = step_on(parameters, clip=0.5, expected=2.0)
    for drawn in (3, 0, 2):
        patients = [torch.randn(2, 4, generator=generator) for _ in range(drawn)]
        wanted = hand_loop(parameters, patients, clip=0.5, expected=2.0, rate=1.0)
        step(patients, lambda rows: curved_loss(parameters, rows))
        for got, want in zip(parameters, wanted, strict=True):
            torch.testing.assert_close(got.detach().double(), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6, 1e25, 1e38, math.inf, math.nan])
@pytest.mark.parametrize("slices", [1, 50])
def test_a_patient_moves_the_model_by_no_more_than_the_clipping_norm(scale, slices):
    """Whatever a patient's loss and number of slices: at most C / expected, and never NaN."""
    generator = torch.Generator().manual_seed(0)
    parameters = parameters_of([(5,), (2, 3)], generator)
    inputs = torch.randn(slices, 5, generator=generator)
    before = [p.detach().clone() for p in parameters]

    def loss(factor):
        return ((inputs * parameters[0]).sum(1) * factor).mean() + parameters[1].sum() * factor

    step_on(parameters, clip=0.8, expected=4.0)([scale], loss)
    moved = distances(before, [p.detach() for p in parameters])
    assert moved.isfinite().all()
    assert moved.norm() <= 0.8 / 4 * (1 + 1e-5)


def test_one_patient_more_changes_the_sum_by_at_most_the_clipping_norm():
    """Neighbouring draws differ by one clipped gradient: the divisor is not the number drawn."""
    generator = torch.Generator().manual_seed(8)
    patients = [100 * torch.randn(3, 4, generator=generator) for _ in range(5)]
    outcomes = []
    for drawn in (patients, patients[:-1]):
        parameters = parameters_of([(6,)], torch.Generator().manual_seed(1))
        step_on(parameters, clip=0.3, expected=2.5)(
            drawn, lambda rows, own=parameters: curved_loss(own, rows)
        )
        outcomes.append([p.detach() for p in parameters])
    difference = distances(*outcomes).norm()
    assert 0 < difference <= 0.3 / 2.5 * (1 + 1e-5)


def test_an_empty_draw_is_a_step_of_noise_with_the_stated_deviation():
    """Noise has deviation sigma C / expected, is Gaussian, centred, and new at every step."""
    parameters = [nn.Parameter(torch.zeros(4000)), nn.Parameter(torch.zeros(50, 80))]
    step = step_on(parameters, noise=1.3, clip=0.7, expected=5.0)
    wanted = 1.3 * 0.7 / 5.0
    steps = []
    for _ in range(20):
        before = [p.detach().clone() for p in parameters]
        step([], lambda _: pytest.fail("nobody was drawn"))
        steps.append(
            torch.stack(
                [(p - b).detach().flatten() for p, b in zip(parameters, before, strict=True)]
            )
        )
    noise = torch.stack(steps)  # (step, tensor, value): 160,000 draws
    assert noise.std().item() == pytest.approx(wanted, rel=0.015)  # 8 standard errors
    assert noise.mean().abs().item() < 8 * wanted / math.sqrt(noise.numel())
    within = (noise.abs() < wanted).float().mean().item()
    assert within == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.01)
    rows = noise.flatten(0, 1)
    together = torch.corrcoef(rows) - torch.eye(len(rows))
    assert together.abs().max() < 8 / math.sqrt(4000)  # no two tensors or steps share noise


def test_noise_on_a_step_with_patients_has_the_same_deviation():
    """Who was drawn does not change the noise: clipped sum plus the same deviation."""
    parameters = [nn.Parameter(torch.zeros(20_000))]
    step = step_on(parameters, noise=2.0, clip=0.5, expected=4.0)
    step([1.0, 2.0, 3.0], lambda factor: (parameters[0] * factor).sum())
    moved = parameters[0].detach()
    assert moved.std().item() == pytest.approx(2.0 * 0.5 / 4.0, rel=0.04)


def test_two_steppers_never_share_their_noise():
    """Noise is seeded from the system: the same run twice gives other noise."""
    outcomes = []
    for _ in range(2):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.zeros(100))]
        step_on(parameters, noise=1.0)([], lambda _: pytest.fail("nobody was drawn"))
        outcomes.append(parameters[0].detach())
    assert not torch.equal(*outcomes)


def test_every_trainable_tensor_gets_noise_and_no_frozen_one_moves():
    """A tensor without noise would be released as it is; also one that the loss does not touch."""
    touched, untouched = nn.Parameter(torch.zeros(50)), nn.Parameter(torch.zeros(3, 7))
    frozen = nn.Parameter(torch.ones(5), requires_grad=False)
    step = step_on([touched, untouched], noise=1.0)
    step([1.0], lambda factor: (touched * factor * frozen.sum()).sum())
    assert (touched != 0).all()
    assert (untouched != 0).all()
    assert torch.equal(frozen, torch.ones(5))


def test_a_patient_whom_nothing_trainable_touches_is_a_zero_gradient():
    """Such a patient (no slice with a box, say) must not end the step: that would be seen."""
    weight = nn.Parameter(torch.zeros(3))
    step_on([weight], clip=10.0, expected=2.0)(
        [None, 1.0], lambda x: torch.zeros(()) if x is None else (weight * x).sum()
    )
    assert torch.allclose(weight.detach(), torch.full((3,), -0.5))


def test_a_step_that_was_broken_off_leaves_nothing_for_the_next():
    """A patient of a failed step must not be counted again in the next one."""
    weight = nn.Parameter(torch.zeros(3))
    step = step_on([weight], clip=10.0, expected=1.0)

    def loss(factor):
        if factor is None:
            raise KeyboardInterrupt
        return (weight * factor).sum()

    with pytest.raises(KeyboardInterrupt):
        step([1.0, None], loss)
    step([2.0], loss)
    assert torch.allclose(weight.detach(), torch.full((3,), -2.0))


class TestPoissonSample:
    """Each patient is drawn by an own coin."""

    def test_rate(self):
        """The share of those drawn is the rate, and neighbours are drawn independently."""
        patients = list(range(40_000))
        drawn = set(poisson_sample(patients, 0.3))
        assert len(drawn) / len(patients) == pytest.approx(0.3, abs=0.015)  # over 6 deviations
        pairs = sum(n in drawn and n + 1 in drawn for n in patients[:-1]) / len(patients)
        assert pairs == pytest.approx(0.09, abs=0.015)

    def test_number_drawn_varies(self):
        """A fixed number would not be Poisson sampling, and the accountant would be wrong."""
        sizes = {len(poisson_sample(range(100), 0.5)) for _ in range(50)}
        assert len(sizes) > 3

    def test_everybody_at_rate_one(self):
        """Rate 1 draws all, once, in order."""
        assert poisson_sample(list("abc"), 1.0) == ["a", "b", "c"]

    def test_nobody_among_nobody(self):
        """An empty hospital gives an empty draw."""
        assert poisson_sample([], 0.5) == []

    def test_global_seed_does_not_decide(self):
        """The draw comes from the system: no seed of the program repeats it."""
        draws = []
        for _ in range(2):
            torch.manual_seed(0)
            draws.append(poisson_sample(range(200), 0.5))
        assert draws[0] != draws[1]


class TestSampled:
    """The whole step: patients and slices are drawn inside, the bound is kept there."""

    @settings(max_examples=20)
    @given(
        shapes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3),
        slices=st.lists(st.integers(1, 9), max_size=5),
        cap=st.integers(1, 6),
        clip=st.floats(0.05, 20),
        seed=st.integers(0, 10_000),
    )
    def test_equals_a_hand_loop_over_what_was_drawn(self, shapes, slices, cap, clip, seed):
        """Whatever patients and caps: the clipped sum of means over at most `cap` slices."""
        generator = torch.Generator().manual_seed(seed)
        parameters = parameters_of(shapes, generator)
        patients = [torch.randn(n, 4, generator=generator) for n in slices]
        start = [p.detach().clone() for p in parameters]
        seen = []

        def draw(rows, at_most):
            chosen = torch.randperm(len(rows), generator=generator)[:at_most]
            seen.append(rows[chosen])
            return seen[-1]

        step_on(parameters, clip=clip, expected=3.0).sampled(
            patients,
            rate=1.0,
            slices_at_most=cap,
            draw=draw,
            loss=lambda rows: curved_loss(parameters, rows),
        )
        assert [len(rows) for rows in seen] == [min(n, cap) for n in slices]
        fresh = [nn.Parameter(value) for value in start]
        wanted = hand_loop(fresh, seen, clip=clip, expected=3.0, rate=1.0)
        for got, want in zip(parameters, wanted, strict=True):
            torch.testing.assert_close(got.detach().double(), want, atol=1e-5, rtol=1e-5)

    def test_more_slices_than_allowed_are_refused(self):
        """A draw that does not keep the bound ends the step, and nothing moves."""
        weight = nn.Parameter(torch.zeros(3))
        with pytest.raises(PrivacyError, match="than the 2 that may be"):
            step_on([weight], noise=1.0).sampled(
                [torch.ones(5)],
                rate=1.0,
                slices_at_most=2,
                draw=lambda rows, _: rows,
                loss=lambda rows: (weight.sum() * rows).mean(),
            )
        assert torch.equal(weight.detach(), torch.zeros(3))

    def test_the_rate_decides_who_is_drawn(self):
        """Half of 600 patients at rate 0.5, each at most once."""
        weight = nn.Parameter(torch.zeros(1))
        drawn = []
        step_on([weight]).sampled(
            range(600),
            rate=0.5,
            slices_at_most=1,
            draw=lambda patient, _: drawn.append(patient) or [patient],
            loss=lambda _: weight.sum(),
        )
        assert len(drawn) == len(set(drawn)) == pytest.approx(300, abs=74)  # six deviations


class TestNoisedSum:
    """On the grid nobody counts for more than the clipping norm, in exact arithmetic."""

    @settings(max_examples=40)
    @given(
        size=st.integers(1, 1000),
        scale=st.floats(1e-6, 1e6),
        clip=st.floats(0.01, 50),
        noise=st.floats(0.1, 20),
        seed=st.integers(0, 10_000),
    )
    def test_one_patient_is_within_the_norm_in_exact_arithmetic(
        self, size, scale, clip, noise, seed
    ):
        """The sum of squares of a patient's integers, as Python counts, is at most (C / step)^2."""
        generator = torch.Generator().manual_seed(seed)
        total = NoisedSum(size, noise_multiplier=noise, clip_norm=clip)
        total.add(scale * torch.randn(size, generator=generator))
        squares = sum(value * value for value in total._total.tolist())
        limit = Fraction(clip) / Fraction(total.grid_step)
        assert squares <= limit**2

    def test_rounding_never_lengthens(self):
        """A vector at the norm is rounded towards zero, coordinate by coordinate."""
        total = NoisedSum(4, noise_multiplier=1.0, clip_norm=1.0)
        vector = torch.tensor([0.3, -0.3, 1e-14, -1e-14], dtype=torch.float64)
        total.add(vector)
        came = total._total.double() * total.grid_step
        assert (came.abs() <= vector.abs()).all()
        assert (came[2:] == 0).all()

    def test_the_noise_is_two_to_the_forty_grid_steps(self):
        """So the noise is sigma C, and rounding is a trillion times smaller."""
        total = NoisedSum(20_000, noise_multiplier=1.7, clip_norm=0.3)
        assert total.grid_step * 2**GRID_BITS == pytest.approx(1.7 * 0.3)
        assert total.release().std().item() == pytest.approx(1.7 * 0.3, rel=0.03)

    def test_what_is_released_lies_on_the_grid(self):
        """Every released number is a whole multiple of one step: its low bits tell nothing."""
        total = NoisedSum(1000, noise_multiplier=1.0, clip_norm=1.0)
        total.add(torch.randn(1000, generator=torch.Generator().manual_seed(0)))
        steps = total.release() / total.grid_step
        assert torch.equal(steps, steps.round())

    def test_next_to_no_noise_is_refused_before_the_integers_run_over(self):
        """An overflow would wrap a patient's weight around; a sentence comes instead."""
        total = NoisedSum(2, noise_multiplier=1e-7, clip_norm=1.0)
        with pytest.raises(PrivacyError, match="noise multiplier is too small"):
            total.add(torch.ones(2))
