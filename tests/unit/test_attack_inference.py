"""Membership inference and reconstruction: right about who is exposed, honest about how sure."""

import numpy as np
import pytest
import torch

from evenhand.errors import UsageError
from evenhand.privacy.accounting import Mechanism
from evenhand_audit.attack.membership import (
    attack_phantoms,
    likelihood_ratios,
    membership_of,
    offline_scores,
)
from evenhand_audit.attack.people import TokenHead, embedded_patients, loss_of_slices
from evenhand_audit.attack.reconstruction import invert, reconstruct
from evenhand_audit.attack.run_folder import _named as named
from federation_fakes import make_config


class TestMembership:
    """Scores become rates with intervals."""

    def test_rates_by_hand(self):
        """200 non-members: at 1% two may raise an alarm, at 0.1% none, and that is said."""
        others = np.arange(200.0)
        members = np.array([197.5, 198.5, 199.5, 300.0, -5.0])
        found = membership_of("any", members, others)
        at_one, at_tenth = found.points
        assert (at_one.found, at_one.alarms, at_one.measurable) == (4 / 5, 2, True)
        assert (at_tenth.found, at_tenth.alarms, at_tenth.measurable) == (2 / 5, 0, False)
        assert at_one.low < 0.8 < at_one.high
        assert (found.members, found.others) == (5, 200)

    def test_ties_raise_no_alarm(self):
        """Whoever scores like a non-member at the threshold is not found."""
        found = membership_of("any", np.ones(4), np.ones(10))
        assert found.auc == 0.5
        assert found.points[0].found == 0

    def test_too_few_people_are_refused(self):
        """One patient on either side is no statistic."""
        with pytest.raises(UsageError, match="at least two"):
            membership_of("any", np.ones(1), np.ones(10))

    def test_likelihood_ratio_by_hand(self):
        """Three models, one patient: target fits as those with the patient did."""
        fits = np.array([[2.0], [2.0], [3.0], [0.0], [1.0]])
        taken = np.array([[True], [True], [True], [False], [False]])
        # Without the target: in 2 and 3 (mean 2.5, spread sqrt(.5)), out 0 and 1 (.5, sqrt(.5)).
        wanted = ((2 - 0.5) ** 2 - (2 - 2.5) ** 2) / 2 / 0.5
        assert likelihood_ratios(fits, taken)[0, 0] == pytest.approx(wanted)

    def test_no_reference_no_ratio(self):
        """Where no other model had the patient in, nothing is made up."""
        ratios = likelihood_ratios(np.zeros((3, 1)), np.array([[True], [False], [False]]))
        assert np.isnan(ratios[0, 0])

    def test_offline_takes_off_how_hard_a_patient_is(self):
        """A hard patient who was trained on scores above an easy one who was not."""
        scores = offline_scores([1.5, 0.4], [[2.0, 2.2], [0.4, 0.4]])
        assert scores[0] > scores[1]
        with pytest.raises(UsageError, match="reference"):
            offline_scores([1.0], [[]])

    def test_an_overfitted_model_gives_its_patients_away_and_noise_hides_them(self):
        """Without noise both attacks find members; at much noise they guess."""
        steps = Mechanism(0.5, 8.0, 30)
        # Sampling comes from the system's randomness: with 8 models the figures vary too much.
        kinds = {"patients": 12, "models": 24, "size": 48}
        open_threshold, open_ratio = attack_phantoms(steps, private=False, **kinds)
        _, hidden = attack_phantoms(steps, private=True, **kinds)
        assert open_threshold.auc_low > 0.5
        assert open_ratio.auc > 0.8
        assert hidden.auc < 0.65


class TestReconstruction:
    """Clipping hides nothing; noise does."""

    def test_one_slice_is_recovered_exactly(self):
        """Weight gradient over bias gradient is the input, at any clipping."""
        (person,) = embedded_patients(1, slices=1, size=20, seed=3)
        head = TokenHead(20)
        weight, bias = torch.autograd.grad(loss_of_slices(head, person), list(head.parameters()))
        assert torch.allclose(invert(0.01 * weight, 0.01 * bias), person.embeddings[0], atol=1e-5)

    def test_noise_stands_between(self):
        """Named nearly always without noise, hardly ever with it."""
        kinds = {"patients": 12, "slices": 1, "size": 128}
        bare, noised = reconstruct(0.0, **kinds), reconstruct(2.0, **kinds)
        assert bare.likeness > 0.999
        assert bare.named == 1.0
        assert bare.named_low < 1
        assert noised.likeness < bare.likeness_of_guess
        assert noised.named < 0.5
        assert bare.record()["named_by_guessing"] == 1 / 12

    def test_a_hidden_layer_gives_no_shelter(self):
        """The first layer of a deeper head leaks alike."""
        assert reconstruct(0.0, patients=6, slices=1, size=32, hidden=8).named == 1.0

    def test_one_patient_cannot_be_named_among_one(self):
        """A gallery of one would always be right."""
        with pytest.raises(UsageError, match="at least 2"):
            reconstruct(0.0, patients=1)


@pytest.mark.parametrize(("parts", "says"), [((), False), (("head.leave.*",), True)])
def test_where_parts_stay_only_what_left_is_claimed(parts, says):
    """The common adapter lacks what stays at hospitals: the report says what was attacked."""
    config = make_config(arms=["federated"], federation={"rounds": 1, "local_parts": list(parts)})
    assert ("only the part that leaves" in named("federated", config)) == says
    assert named("pooled", config) == "pooled"
