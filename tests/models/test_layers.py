import pytest
import torch
from torch import nn

from dualpath.models.layers import evaluation_mode, initialise_linear, projection_head


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


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_mode_ends_with_the_block_also_after_an_error(training):
    network = nn.Dropout().train(training)
    with pytest.raises(ValueError, match="inside"), evaluation_mode(network):
        assert not network.training
        raise ValueError("inside")
    assert network.training is training
