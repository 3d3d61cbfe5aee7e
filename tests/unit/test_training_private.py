"""Private training: charged first, bounded, noised everywhere, and silent about losses."""

import dataclasses

import pytest
import torch
from small_models import small_model, toy_case, toy_patients

from evenhand.config import PrivacyConfig, TrainingConfig
from evenhand.errors import BudgetError, DataError, PolicyError, PrivacyError
from evenhand.privacy import step as step_module
from evenhand.privacy.accounting import Mechanism, epsilon_of
from evenhand.privacy.cohort import Cohort
from evenhand.privacy.ledger import Ledger
from evenhand.privacy.policy import open_policy
from evenhand.training import private
from evenhand.training.data import TrainingPatient, draw
from evenhand.training.private import PrivacyPlan, Study, train_private

TRAINING = TrainingConfig(tumour_slices=3, other_slices=2, box_slices=1)
PRIVACY = PrivacyConfig(epsilon=20, delta=1e-2, sampling_rate=1.0, rounds=2, steps_per_round=2)


@pytest.fixture
def ledger(tmp_path):
    """A fresh ledger."""
    return Ledger(tmp_path / "ledger.sqlite", "north")


@pytest.fixture(scope="module")
def patients():
    """Two toy patients. Read only."""
    return toy_patients(small_model(), 2)


def run(model, patients, ledger, privacy=PRIVACY, **more):
    """One round."""
    return train_private(
        model,
        patients,
        privacy,
        TRAINING,
        learning_rate=0.01,
        ledger=ledger,
        purpose="round",
        **more,
    )


def moved(model, before):
    """Names of the tensors that are not what they were."""
    return {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}


def copy_of(model):
    """Everything, as it is now."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_too_few_who_are_left_are_refused(ledger, patients):
    """A policy's smallest cohort is that of the patients trained on, not of names in a split."""
    budget = open_policy().budget.model_copy(update={"minimum_cohort": 3})
    policy = open_policy().model_copy(update={"budget": budget})
    with pytest.raises(PolicyError, match="asks for 3 patients; the cohort has 2"):
        run(small_model(), patients, ledger, study=Study("study", policy=policy))
    assert ledger.state().charges == ()
    assert ledger.state().grant is None


class TestPlan:
    """The noise of a round follows from the whole run."""

    def test_the_whole_run_stays_within_its_epsilon(self):
        """All rounds composed reach the configured epsilon and not more."""
        config = PrivacyConfig(epsilon=2, sampling_rate=0.3, rounds=4, steps_per_round=3)
        plan = PrivacyPlan.make(config, 50)
        assert plan.delta == pytest.approx(1 / 500)
        one = plan.mechanism_of_round
        assert (one.sampling_rate, one.steps) == (0.3, 3)
        assert 1.98 <= epsilon_of([one] * 4, plan.delta) <= 2

    def test_delta_can_be_set(self):
        """A hospital's own delta goes before the default."""
        assert PrivacyPlan.make(PRIVACY, 50).delta == 1e-2

    def test_the_granted_delta_goes_before_the_default(self):
        """One ledger keeps one delta: a second cohort of another size plans with it."""
        config = PRIVACY.model_copy(update={"delta": None})
        assert PrivacyPlan.make(config, 50, delta=1e-4).delta == 1e-4

    def test_a_delta_beside_the_granted_one_is_refused(self):
        """Noise for one delta and a ledger at another would not be the same promise."""
        with pytest.raises(PrivacyError, match=r"privacy\.delta is 0\.01, but .* keeps 0\.001"):
            PrivacyPlan.make(PRIVACY, 50, delta=1e-3)

    @pytest.mark.parametrize("patients", [100, 101, 5000])
    def test_a_delta_of_one_in_n_is_refused(self, patients):
        """With it, publishing one patient at random would count as private."""
        with pytest.raises(PrivacyError, match=rf"Delta 0\.01 is at least 1 / {patients}"):
            PrivacyPlan.make(PRIVACY, patients)


def test_every_trainable_tensor_is_noised_and_nothing_frozen_moves(patients, ledger):
    """Also tensors that got no gradient; also not one buffer of the backbone."""
    model = small_model()
    before = copy_of(model)
    run(model, patients, ledger)
    assert moved(model, before) == set(model.adapter())
    for name, value in model.adapter_state().items():
        assert value.isfinite().all(), name


def test_patterns_choose_what_is_trained(patients, ledger):
    """Fewer tensors need less noise; the others stay bit for bit."""
    model = small_model()
    before = copy_of(model)
    run(model, patients, ledger, PRIVACY.model_copy(update={"trainable": ("head.leave.*",)}))
    assert moved(model, before) == {n for n in model.adapter() if n.startswith("head.leave.")}


def test_the_noise_is_that_of_the_plan(ledger, monkeypatch):
    """With nobody drawn a round is pure noise: rate sigma C / (q N) times the root of its steps."""
    monkeypatch.setattr(step_module, "poisson_sample", lambda *_: [])
    model = small_model()
    before = model.adapter_state()
    privacy = PRIVACY.model_copy(update={"clip_norm": 0.5, "sampling_rate": 0.5})
    run(model, toy_patients(model, 3), ledger, privacy)
    sigma = PrivacyPlan.make(privacy, 3).mechanism_of_round.noise_multiplier
    wanted = 0.01 * sigma * 0.5 / (0.5 * 3) * 2**0.5
    after = model.adapter_state()
    noise = torch.cat([(after[n] - before[n]).flatten() for n in before])
    assert noise.std().item() == pytest.approx(wanted, rel=0.05)


def test_rounds_are_charged_until_the_grant_is_used_up(patients, ledger):
    """Two planned rounds fit; a third is refused and leaves the model as it is."""
    model = small_model()
    first, second = (run(model, patients, ledger) for _ in range(2))
    assert 0 < first.epsilon < second.epsilon <= 20
    assert (first.steps, second.steps) == (2, 4)
    before = copy_of(model)
    with pytest.raises(BudgetError):
        run(model, patients, ledger)
    assert moved(model, before) == set()
    assert ledger.spent() == second


def test_the_charge_comes_before_the_first_look_at_a_patient(patients, ledger, monkeypatch):
    """A round that dies in its first step stays charged."""

    def die(*_, **__):
        assert ledger.spent().steps == 2
        raise KeyboardInterrupt

    monkeypatch.setattr(private, "draw", die)
    with pytest.raises(KeyboardInterrupt):
        run(small_model(), patients, ledger)
    assert ledger.spent().steps == 2


def test_nobody_to_train_on_is_an_error_and_costs_nothing(ledger):
    """An empty hospital is refused before anything is granted or charged."""
    with pytest.raises(DataError, match="no patient"):
        run(small_model(), [], ledger)
    assert ledger.spent() is None


def test_a_patient_gives_a_bounded_number_of_slices(patients, ledger, monkeypatch):
    """The contribution bound of the config reaches every draw."""
    sizes = []

    def spy(*args, **kwargs):
        batch = draw(*args, **kwargs)
        sizes.append(len(batch.masks))
        return batch

    monkeypatch.setattr(private, "draw", spy)
    run(small_model(), patients, ledger, PRIVACY.model_copy(update={"slices_per_patient": 2}))
    assert sizes == [2, 2, 2, 2]  # two patients, two steps


@pytest.mark.parametrize("trainable", [("*",), ("backbone.mask_decoder.*",)])
def test_a_patient_without_tumour_does_not_end_the_round(ledger, trainable):
    """Who has no box gives a zero gradient to the decoder; a crash would tell of him."""
    model = small_model()
    healthy = [TrainingPatient("p", (toy_case(model, 0, tumours=()),))]
    privacy = PRIVACY.model_copy(update={"trainable": trainable})
    assert run(model, healthy, ledger, privacy).steps == 2


def test_a_patient_with_absurd_voxels_is_bounded_like_any_other(ledger, monkeypatch):
    """Without noise: NaN and huge activations move the adapter by at most rate C / (q N) a step."""
    model = small_model(encoder_lora_rank=0)
    case = toy_case(model, 0)
    wild = dataclasses.replace(case, hidden=case.hidden * 0 + 6e4)
    broken = dataclasses.replace(case, slices=case.slices * float("nan"))
    people = [TrainingPatient("wild", (wild,)), TrainingPatient("broken", (broken,))]
    real = private.PrivateStep

    def quiet(*args, **kwargs):
        return real(*args, **{**kwargs, "noise_multiplier": 0.0})

    monkeypatch.setattr(private, "PrivateStep", quiet)
    before = model.adapter_state()
    run(model, people, ledger)
    after = model.adapter_state()
    movement = torch.cat([(after[n] - before[n]).flatten() for n in before])
    assert movement.isfinite().all()
    assert 0 < movement.norm() <= 2 * 0.01 * 2 * PRIVACY.clip_norm / 2 * (1 + 1e-4)


def test_nothing_but_the_cost_is_returned(patients, ledger):
    """A loss would be a release of its own."""
    told = []
    spending = run(small_model(), patients, ledger, advance=told.append)
    assert {field.name for field in dataclasses.fields(spending)} == {
        "hospital",
        "epsilon",
        "delta",
        "granted",
        "steps",
        "unit",
        "accountant",
    }
    assert told == [1, 1]


def test_the_model_is_ready_to_predict_afterwards(patients, ledger):
    """Dropout ends with training."""
    model = small_model()
    run(model, patients, ledger)
    assert not any(part.training for part in model.modules())


def test_what_is_charged_is_what_is_run(patients, ledger, monkeypatch):
    """Rate, noise and number of steps of the ledger are those that the step gets."""
    seen = []
    real = private.PrivateStep

    def spy(parameters, optimiser, **kwargs):
        seen.append(kwargs)
        return real(parameters, optimiser, **kwargs)

    rates = []
    monkeypatch.setattr(private, "PrivateStep", spy)
    monkeypatch.setattr(step_module, "poisson_sample", lambda _, rate: rates.append(rate) or [])
    privacy = PRIVACY.model_copy(update={"sampling_rate": 0.25, "clip_norm": 0.3})
    spending = run(small_model(), patients, ledger, privacy)
    (used,) = seen
    assert used["clip_norm"] == 0.3
    assert used["expected_patients"] == 0.25 * 2
    ran = Mechanism(rates[0], used["noise_multiplier"], len(rates))
    assert set(rates) == {0.25}
    assert spending.epsilon == pytest.approx(epsilon_of([ran], 1e-2))


def test_a_hospitals_own_grant_is_not_raised(patients, ledger):
    """A config that asks for more than the hospital has granted is refused, not obeyed."""
    ledger.grant(0.5, 1e-2)
    model = small_model()
    with pytest.raises(BudgetError):
        run(model, patients, ledger)
    assert ledger.spent().granted == 0.5


class TestStudy:
    """What a round belongs to: a study, a cohort, a policy."""

    def test_a_second_run_over_the_same_patients_is_refused(self, patients, ledger):
        """It does not start with a fresh accountant: the grant was for both."""
        cohort = Cohort.of(ledger.key, {"p0": ["a"], "p1": ["b"]})
        for _ in range(2):
            run(small_model(), patients, ledger, study=Study("first", cohort))
        model = small_model()
        before = copy_of(model)
        with pytest.raises(BudgetError, match="would bring it to"):
            run(model, patients, ledger, study=Study("second", cohort))
        assert moved(model, before) == set()

    def test_other_patients_have_their_own_budget(self, patients, ledger):
        """The same run over a disjoint cohort fits."""
        for name in ("first", "second"):
            cohort = Cohort.of(ledger.key, {name: [name]})
            for _ in range(2):
                spending = run(small_model(), patients, ledger, study=Study(name, cohort))
        assert spending.steps == 4
        assert len(ledger.state().charges) == 4

    def test_what_is_returned_is_what_the_study_has_spent(self, patients, ledger):
        """What the same patients were used for before stays with the hospital."""
        ledger.grant(100.0, 1e-2)
        alone = run(small_model(), patients, ledger, study=Study("first"))
        second = run(small_model(), patients, ledger, study=Study("second"))
        assert second.epsilon == pytest.approx(alone.epsilon)
        assert ledger.spent().epsilon > second.epsilon

    def test_the_receipt_comes_before_the_first_look_at_a_patient(
        self, patients, ledger, monkeypatch
    ):
        """It is kept even where the round dies in its first step."""
        kept = []

        def die(*_, **__):
            assert len(kept) == 1
            raise KeyboardInterrupt

        monkeypatch.setattr(private, "draw", die)
        with pytest.raises(KeyboardInterrupt):
            run(small_model(), patients, ledger, study=Study(keep=kept.append))
        assert kept[0].position == 3  # after the ledger's own entry and the grant

    def test_a_policy_that_wants_an_officer_gets_no_grant_from_a_config(self, patients, ledger):
        """Nothing is trained until somebody has granted."""
        grants = open_policy().grants.model_copy(update={"from_config": False})
        strict = open_policy().model_copy(update={"grants": grants})
        model = small_model()
        before = copy_of(model)
        with pytest.raises(PrivacyError, match="granted no privacy budget"):
            run(model, patients, ledger, study=Study(policy=strict))
        assert ledger.spent() is None
        assert moved(model, before) == set()

    def test_a_delta_beyond_the_policy_is_refused(self, patients, ledger):
        """Also where it is the default for so few patients, which no config names."""
        budget = open_policy().budget.model_copy(update={"maximum_delta": 1e-3})
        strict = open_policy().model_copy(update={"budget": budget})
        with pytest.raises(PolicyError, match="maximum_delta"):
            run(small_model(), patients, ledger, study=Study(policy=strict))
        assert ledger.state().charges == ()


def test_a_patient_who_stands_twice_is_refused(patients, ledger):
    """Twice the contribution would be one patient's, at half the noise that it needs."""
    with pytest.raises(DataError, match="stands twice"):
        run(small_model(), [*patients, patients[0]], ledger)
    assert ledger.spent() is None


def test_a_draw_beyond_the_bound_ends_the_round(patients, ledger, monkeypatch):
    """The bound is kept by the step, not only asked of the draw."""

    def all_slices(patient, *args, **kwargs):
        return draw(patient, *args, **kwargs | {"slices_at_most": None})

    monkeypatch.setattr(private, "draw", all_slices)
    with pytest.raises(PrivacyError, match="More slices"):
        run(small_model(), patients, ledger, PRIVACY.model_copy(update={"slices_per_patient": 1}))


def test_shares_reach_the_gradient_of_their_patient(patients, ledger, monkeypatch, tmp_path):
    """With everybody drawn each step adds each patient once, with the share of the table."""
    table = tmp_path / "shares.csv"
    first, second = (patient.patient_id for patient in patients)
    table.write_text(f"patient,share\n{second},1\n{first},0.25\n")
    seen = []
    add = step_module.NoisedSum.add
    monkeypatch.setattr(
        step_module.NoisedSum,
        "add",
        lambda total, vector, share: seen.append(share) or add(total, vector, share),
    )
    run(small_model(), patients, ledger, PRIVACY.model_copy(update={"patient_shares": table}))
    assert seen == [0.25, 1.0] * PRIVACY.steps_per_round


def test_a_table_of_shares_that_does_not_fit_costs_nothing(patients, ledger, tmp_path):
    """It is read before anything is charged."""
    privacy = PRIVACY.model_copy(update={"patient_shares": tmp_path / "none.csv"})
    with pytest.raises(DataError, match="no table of shares"):
        run(small_model(), patients, ledger, privacy)
    assert ledger.spent().steps == 0
