import pytest
import torch

from dualpath.losses.distillation import distillation_loss


def test_distillation_loss_by_hand():
    features, targets = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0]] * 2)
    assert distillation_loss(features, targets).item() == pytest.approx(0.5)
