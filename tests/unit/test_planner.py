"""The planner: noise that keeps the promise, and an expectation that promises nothing more."""

import json
import math

import pytest
from typer.testing import CliRunner

from evenhand.cli import app
from evenhand.cli.plan_plot import draw_plan
from evenhand.errors import ConfigError, PrivacyError, UsageError
from evenhand.privacy.accounting import Mechanism, epsilon_of, noise_for
from evenhand.privacy.planner import USEFUL, PlanRequest, make_plan


@pytest.fixture(scope="module")
def plan():
    """Four hospitals as in the glioma experiment."""
    return make_plan(PlanRequest(patients=(7, 20, 6, 15), epsilon=8.0, parameters=964, steps=32))


def signal(patients, noise, *, parameters=964, rate=0.5, steps=32):
    """The rule, written out."""
    return math.sqrt(steps) * rate * patients / (noise * math.sqrt(parameters))


class TestPlan:
    """Noise by the accountant; signal to noise by hand."""

    def test_the_noise_keeps_the_promise(self, plan):
        """The union's noise, run as planned, costs the epsilon that was asked for."""
        (noise,), (delta,) = plan.secure_sum.noise_multipliers, plan.secure_sum.deltas
        assert delta == pytest.approx(1 / 480)
        assert 7.9 < epsilon_of([Mechanism(0.5, noise, 32)], delta) <= 8.0

    def test_each_hospital_has_its_own_noise_locally(self, plan):
        """Smaller hospitals have a weaker delta, and so a little less noise."""
        assert len(plan.local.noise_multipliers) == len(plan.local.deltas) == 4
        assert plan.local.deltas[2] == pytest.approx(1 / 60)
        assert min(plan.local.noise_multipliers) == plan.local.noise_multipliers[2]

    def test_signal_to_noise_is_the_stated_rule(self, plan):
        """Independent noises of an average add up as squares."""
        together = math.hypot(*plan.local.noise_multipliers)
        assert plan.local.expectation.signal_to_noise == pytest.approx(signal(48, together))
        (noise,) = plan.secure_sum.noise_multipliers
        found = plan.secure_sum.expectation
        seen = noise * math.sqrt(4 / 3)  # of four shares, three make the whole noise
        assert found.signal_to_noise == pytest.approx(signal(48, seen))
        assert found.noise_per_step == pytest.approx(seen * math.sqrt(964) / 24)

    def test_one_noise_for_all_is_the_lever(self, plan):
        """Four hospitals with one noise see sqrt(3) times as far or a bit less."""
        local, together = plan.local.expectation, plan.secure_sum.expectation
        assert 1.4 < together.signal_to_noise / local.signal_to_noise < math.sqrt(3)
        assert together.patients_needed < local.patients_needed

    def test_whoever_may_drop_out_costs_noise(self, plan):
        """The one who looks and one who is gone: two of four shares make the whole noise."""
        request = PlanRequest((7, 20, 6, 15), epsilon=8.0, parameters=964, steps=32, tolerated=1)
        careful = make_plan(request)
        assert careful.secure_sum.noise_multipliers == plan.secure_sum.noise_multipliers
        ratio = plan.secure_sum.expectation.signal_to_noise
        ratio /= careful.secure_sum.expectation.signal_to_noise
        assert ratio == pytest.approx(math.sqrt(3 / 2))
        assert careful.local == plan.local

    def test_somebody_has_to_be_left(self):
        """Nobody would make the noise."""
        with pytest.raises(PrivacyError, match="somebody has to be left"):
            make_plan(PlanRequest((7, 20), epsilon=8.0, parameters=964, steps=2, tolerated=2))

    def test_the_measured_experiments_come_out_as_they_did(self, plan):
        """Glioma, four hospitals alone: nothing was gained; 257 numbers, 73 patients: half."""
        assert plan.local.expectation.verdict == "no useful model"
        assert plan.local.expectation.kept < 0.1
        noise = 1.13  # of 50 patients at delta 2e-3, as in the planner's text
        found = signal(73, noise, parameters=257, rate=0.2, steps=100)
        assert found == pytest.approx(USEFUL, rel=0.05)

    def test_as_many_as_needed_are_enough(self, plan):
        """Asked again with the number that it named, the planner no longer doubts."""
        needed = plan.secure_sum.expectation.patients_needed
        quarter = needed // 4
        four = (quarter, quarter, quarter, needed - 3 * quarter)
        again = make_plan(PlanRequest(four, epsilon=8.0, parameters=964, steps=32))
        assert again.secure_sum.expectation.signal_to_noise == pytest.approx(USEFUL, rel=0.06)

    def test_the_quick_table_is_close_to_the_accountant(self, plan):
        """Other promises within the 5% that is stated."""
        row = next(row for row in plan.table if row.epsilon == 4.0)
        exact = noise_for(4.0, 1 / 480, 0.5, 32)
        assert row.secure_sum[0] == pytest.approx(exact, rel=0.05)

    def test_more_patients_never_hurt(self, plan):
        """The curve rises."""
        for curve in (plan.curve.local, plan.curve.secure_sum):
            assert list(curve) == sorted(curve)
        assert 48 in plan.curve.patients


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"epsilon": 0.0}, "above 0"),
        ({"epsilon": -1.0}, "above 0"),
        ({"epsilon": math.nan}, "above 0"),
        ({"delta": 1 / 12}, "below 1/N"),
        ({"delta": 0.0}, "above 0 and below"),
        ({"patients": (9, 20), "delta": 1 / 25}, "1/29"),  # a promise to 9 or 20, none to all
        ({"sampling_rate": 1.1}, "at most 1"),
        ({"sampling_rate": 0.0}, "above 0"),
        ({"minimum_cohort": 13}, "at least 13"),
        ({"patients": ()}, "at least one patient"),
        ({"patients": (12, 0)}, "at least one patient"),
        ({"steps": 0}, "at least one step"),
        ({"parameters": 0}, "one trained number"),
        ({"clip_norm": 0.0}, "clipping norm"),
    ],
)
def test_what_cannot_be_planned_is_refused(wrong, words):
    """Each with a sentence that says what was wanted."""
    with pytest.raises(PrivacyError, match=words):
        PlanRequest(**{"patients": (12,), "epsilon": 8.0, "parameters": 964} | wrong)


def call(*arguments):
    """The command, in this process."""
    return CliRunner().invoke(app, ["plan-privacy", *map(str, arguments)], catch_exceptions=True)


class TestCommand:
    """`evenhand plan-privacy`."""

    def test_says_what_nine_patients_give(self, tmp_path):
        """The sentence that a data officer needs, a picture, and numbers for programs."""
        picture, data = tmp_path / "plan.svg", tmp_path / "plan.json"
        found = call("--patients", 9, "--epsilon", 8, "--parameters", 964, "--plot", picture,
                     "--json", data)  # fmt: skip
        assert found.exit_code == 0, found.output
        assert "at 9 patients no useful model comes out" in found.output.replace("\n", " ").lower()
        assert "<svg" in picture.read_text("utf-8")
        record = json.loads(data.read_text("utf-8"))
        assert record["local"]["expectation"]["verdict"] == "no useful model"

    def test_a_config_for_more_hospitals_plans_for_fewer(self, tmp_path):
        """What a config tolerates is lowered to what is possible; what was typed is refused."""
        path = tmp_path / "small.toml"
        path.write_text(
            'name = "small"\n[data]\nsource = "x"\n[privacy]\ntolerated = 2\nrounds = 2\n'
        )
        for patients, lowered in (("12", 0), ("12,9", 0), ("12,9,8", 1)):
            data = tmp_path / f"{patients}.json"
            given = ("--config", path, "--patients", patients, "--parameters", 9)
            found = call(*given, "--json", data)
            assert found.exit_code == 0, found.output
            assert json.loads(data.read_text("utf-8"))["request"]["tolerated"] == lowered
        found = call(*given, "--tolerated", 2)
        assert "somebody has to be left" in str(found.exception)

    def test_reads_a_config(self, tmp_path):
        """Patients less those who test, steps, and the numbers that are trained."""
        path = tmp_path / "small.toml"
        path.write_text(
            'name = "small"\n[data.phantom]\npatients = { north = 9, south = 6 }\n'
            '[model]\nimage_size = 128\nhead = "small"\nhead_size = 64\n'
            "[privacy]\nepsilon = 4.0\nrounds = 3\nsteps_per_round = 5\n"
            'trainable = ["head.leave.*"]\n'
        )
        data = tmp_path / "plan.json"
        found = call("--config", path, "--json", data)
        assert found.exit_code == 0, found.output
        request = json.loads(data.read_text("utf-8"))["request"]
        assert request["patients"] == [6, 4]
        assert (request["epsilon"], request["steps"]) == (4.0, 15)
        assert request["parameters"] == 8 * 16 * 9 + 16  # a 3 x 3 convolution of 8 to 16 channels

    @pytest.mark.parametrize(
        ("arguments", "kind", "words"),
        [
            (("--epsilon", 8), UsageError, "--patients"),
            (("--patients", "12"), UsageError, "--parameters"),
            (("--patients", "12,x", "--parameters", 9), UsageError, "whole numbers"),
            (("--patients", "12", "--parameters", 9, "--epsilon", -2), PrivacyError, "above 0"),
            (("--config", "no.toml"), ConfigError, "no config file"),
        ],
    )
    def test_wrong_input_is_one_sentence(self, arguments, kind, words):
        """Not a traceback, and before anything is computed."""
        found = call(*arguments)
        assert isinstance(found.exception, kind)
        assert words in str(found.exception)

    def test_an_unknown_kind_of_picture_is_refused(self, plan, tmp_path):
        """The endings that work are named."""
        with pytest.raises(UsageError, match=r"\.png"):
            draw_plan(plan, tmp_path / "plan.bmp")
