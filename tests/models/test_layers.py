import pytest
import torch
from torch import nn

from dualpath.models.layers import (
    average_sigma,
    batch_norm,
    evaluation_mode,
    initialise_linear,
    projection_head,
)


def test_a_head_of_several_vectors_consists_of_heads_side_by_side():
    torch.manual_seed(0)
    together = projection_head(7, 5, 6, num_heads=3).eval()
    x = torch.randn(4, 7)
    assert together(x).shape == (4, 6)
    assert isinstance(together, nn.ModuleList)
    torch.testing.assert_close(together(x)[:, 2:4], together[1](x))
    assert not torch.equal(together(x)[:, :2], together(x)[:, 2:4])


def test_linear_layers_start_with_a_variance_of_one_over_fan_in():
    torch.manual_seed(0)
    layer = nn.Linear(300, 200)
    initialise_linear(layer)
    assert layer.weight.abs().max() <= (3 / 300) ** 0.5
    assert layer.weight.var().item() == pytest.approx(1 / 300, rel=0.02)


def paper_norm(channels):
    norm = batch_norm(channels)
    average_sigma(norm)
    return norm


def test_the_style_of_the_paper_changes_nothing_in_training():
    torch.manual_seed(0)
    ours, theirs, x = batch_norm(5), paper_norm(5), torch.randn(7, 5)
    a, b = (x.clone().requires_grad_() for _ in range(2))
    for norm, one in ((ours, a), (theirs, b)):
        norm.train()(one).square().mean().backward()
    assert ours(x).equal(theirs(x))
    assert a.grad.equal(b.grad)
    assert ours.weight.grad.equal(theirs.weight.grad)


def test_the_style_of_the_paper_averages_mean_and_sigma():
    torch.manual_seed(0)
    norm, batches = paper_norm(3).train(), torch.randn(40, 6, 3) * 3 + 1
    mean, sigma = torch.zeros(3), torch.zeros(3)
    for number, batch in enumerate(batches, start=1):
        norm(batch)
        mean = 0.95 * mean + 0.05 * batch.mean(dim=0)
        sigma = 0.95 * sigma + 0.05 * (batch.var(dim=0, correction=0) + 1e-3).sqrt()
        weights = 1 - 0.95**number
        torch.testing.assert_close(norm.running_mean, mean / weights)
        torch.testing.assert_close((norm.running_var + 1e-3).sqrt(), sigma / weights)
    x = torch.randn(4, 3)
    expected = (x - mean / weights) / (sigma / weights)
    torch.testing.assert_close(norm.eval()(x), expected)
    assert int(norm.num_batches_tracked) == 40


def test_channels_that_never_vary_are_normalised_by_the_root_of_epsilon():
    norm = paper_norm(2).train()
    norm(torch.ones(3, 2))
    x = torch.tensor([[1.0, 2.0]])
    expected = torch.tensor([[0.0, 1e-3**-0.5]])
    torch.testing.assert_close(norm.eval()(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_mode_ends_with_the_block_also_after_an_error(training):
    network = nn.Dropout().train(training)
    with pytest.raises(ValueError, match="inside"), evaluation_mode(network):
        assert not network.training
        raise ValueError("inside")
    assert network.training is training
