"""What an optimiser remembers from one round to the next."""

import pytest
import torch
from torch import nn

from evenhand.errors import DataError
from evenhand.training.moments import moments_of, read_moments, remember, write_moments


def layer():
    """A small layer, always the same, of which no gradient reaches one parameter."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return dict(model.named_parameters()) | {"untouched": nn.Parameter(torch.ones(4))}


def step(optimiser, parameters, times):
    """Step along gradients that depend on where the parameters are."""
    for _ in range(times):
        optimiser.zero_grad()
        loss = (parameters["weight"] ** 2).sum() + (parameters["bias"] - 1).abs().sum()
        loss.backward()
        optimiser.step()


def adamw(parameters):
    """An optimiser that remembers nothing yet."""
    return torch.optim.AdamW(list(parameters.values()), lr=0.1, weight_decay=0.01)


def test_two_pieces_are_one(tmp_path):
    """Through a file and into another optimiser: the steps go on to the last bit."""
    whole = layer()
    step(adamw(whole), whole, 7)

    pieces = layer()
    first = adamw(pieces)
    step(first, pieces, 3)
    write_moments(tmp_path / "new" / "moments", moments_of(first, pieces))
    second = adamw(pieces)
    kept = read_moments(tmp_path / "new" / "moments")
    assert kept is not None
    remember(second, pieces, kept)
    step(second, pieces, 4)

    for name, one in whole.items():
        assert torch.equal(one, pieces[name]), name


def test_forgetting_is_another_way(tmp_path):
    """The test above could fail: without the memory the steps differ."""
    whole, pieces = layer(), layer()
    step(adamw(whole), whole, 7)
    step(adamw(pieces), pieces, 3)
    step(adamw(pieces), pieces, 4)
    assert not torch.equal(whole["weight"], pieces["weight"])


def test_what_was_given_is_not_changed():
    """A round that is run again starts from the same memory."""
    parameters = layer()
    first = adamw(parameters)
    step(first, parameters, 2)
    kept = moments_of(first, parameters)
    before = {name: one.clone() for name, one in kept.items()}
    second = adamw(parameters)
    remember(second, parameters, kept)
    step(second, parameters, 2)
    assert all(torch.equal(kept[name], one) for name, one in before.items())


def test_no_file_is_no_memory(tmp_path):
    """The first round has nothing to remember."""
    assert read_moments(tmp_path / "none") is None


def test_a_damaged_file_is_named(tmp_path):
    """It is not read as far as it goes."""
    path = tmp_path / "moments"
    write_moments(path, {"weight/step": torch.tensor(1.0)})
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"is damaged\. Delete it"):
        read_moments(path)


@pytest.mark.parametrize("spoil", ["shape", "missing"])
def test_memory_of_another_model_is_refused(spoil):
    """Nothing is stretched to fit."""
    parameters = layer()
    first = adamw(parameters)
    step(first, parameters, 1)
    kept = moments_of(first, parameters)
    if spoil == "shape":
        kept["weight/exp_avg"] = torch.zeros(5)
    else:
        del kept["weight/exp_avg_sq"]
    with pytest.raises(DataError, match="'weight' does not fit"):
        remember(adamw(parameters), parameters, kept)
