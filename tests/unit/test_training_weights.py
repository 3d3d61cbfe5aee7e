"""Weights of patients change how often each is drawn, and nothing is guessed for those without."""

import pytest
import torch

from evenhand.config import ExperimentConfig
from evenhand.errors import DataError
from evenhand.training.patient_weights import epoch_order, read_patient_weights


def written(tmp_path, text):
    """A table of weights."""
    path = tmp_path / "w.csv"
    path.write_text(text)
    return path


def test_weights_come_in_the_order_of_training(tmp_path):
    """Ids are text (007 stays 007), rows of other patients do no harm."""
    path = written(tmp_path, "patient,weight\n007,0.5\nx,9\nb,1.5\n")
    assert read_patient_weights(path, ["b", "007"]).tolist() == [1.5, 0.5]
    assert read_patient_weights(None, ["b"]) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("patient,weight\na,1\n", "for 1 of 2 training patients"),
        ("patient,weight\na,1\nb,0\n", "for 1 of 2 training patients"),
        ("patient,weight\na,1\na,2\nb,1\n", "two weights"),
        ("id,weight\na,1\n", "wants the columns"),
        ("patient,weight\na,much\nb,1\n", "wants the columns"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, text, words):
    """A patient without a weight would silently be left out of training."""
    with pytest.raises(DataError, match=words):
        read_patient_weights(written(tmp_path, text), ["a", "b"])


def test_a_missing_table_is_refused(tmp_path):
    """A wrong path is not training without weights."""
    with pytest.raises(DataError, match="There is no table of weights"):
        read_patient_weights(tmp_path / "w.csv", ["a"])


def test_draws_follow_the_weights():
    """Three quarters of the weight are three quarters of the draws; without weights all once."""
    generator = torch.Generator().manual_seed(0)
    order = epoch_order(2, torch.tensor([3.0, 1.0]), generator)
    draws = torch.cat([epoch_order(2, torch.tensor([3.0, 1.0]), generator) for _ in range(2000)])
    assert order.shape == (2,)
    assert (draws == 0).float().mean() == pytest.approx(0.75, abs=0.03)
    assert sorted(epoch_order(5, None, generator).tolist()) == [0, 1, 2, 3, 4]


def test_weights_and_the_private_arm_exclude_each_other(tmp_path):
    """The accountant counts on one probability for everybody."""
    told = {"name": "a", "data": {"phantom": {}}, "training": {"patient_weights": "w.csv"}}
    with pytest.raises(ValueError, match="federated-private"):
        ExperimentConfig.model_validate(told)
    ExperimentConfig.model_validate(told | {"arms": ["pooled"]})
