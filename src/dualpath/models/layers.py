"""Layers that both encoders share: batch normalisation, initialisation and heads."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualpath.distributed.collectives import all_reduce_sum, world_size

_RUNNING_RATE = 0.05


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the rows of all processes.

    torch's own SyncBatchNorm needs GPUs.

    Attributes:
        averages_sigma: the running statistics are those of the authors' code, which averages
            ``sigma = sqrt(biased variance + eps)`` where torch averages the unbiased variance.
            ``running_var`` then holds ``sigma ** 2 - eps``, so that evaluation and export need not
            know the style. The authors' averages start from 0; here they are divided by the sum of
            their weights, ``1 - 0.95 ** batches``, which is 1 after some hundred batches. Without
            it, features overflow in evaluation after a few batches.
    """

    averages_sigma = False
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (rows, channels); processes may have different numbers of rows."""
        if self.training and self.averages_sigma and world_size() == 1:
            return self._forward_averaging_sigma(x)
        if not self.training or world_size() == 1:
            return super().forward(x)
        x = x.to(self.weight.dtype)  # statistics stay in single precision under autocast
        rows = all_reduce_sum(x.new_tensor(float(len(x))))
        mean = all_reduce_sum(x.sum(dim=0)) / rows
        centred = x - mean
        variance = all_reduce_sum(centred.square().sum(dim=0)) / rows
        with torch.no_grad():
            if self.averages_sigma:
                self._average_sigma(mean, variance)
            else:
                self.running_mean.lerp_(mean, _RUNNING_RATE)
                self.running_var.lerp_(variance * rows / (rows - 1), _RUNNING_RATE)
                self.num_batches_tracked += 1
        return centred * (variance + self.eps).rsqrt() * self.weight + self.bias

    def _forward_averaging_sigma(self, x: Tensor) -> Tensor:
        # With a rate of 1, torch writes the statistics of the batch into the two tensors.
        mean, variance = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        normalised = F.batch_norm(
            x, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps
        )
        self._average_sigma(mean, variance * ((len(x) - 1) / len(x)))
        return normalised

    @torch.no_grad()
    def _average_sigma(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics by the mean and the biased variance of a batch."""
        self.num_batches_tracked += 1
        batches = self.num_batches_tracked.to(self.running_var.dtype)
        rate = _RUNNING_RATE / (1 - (1 - _RUNNING_RATE) ** batches)
        sigma = (self.running_var + self.eps).sqrt().lerp((variance + self.eps).sqrt(), rate)
        self.running_mean.lerp_(mean, rate)
        self.running_var.copy_(sigma.square() - self.eps)


def batch_norm(channels: int) -> BatchNorm:
    """Return batch normalisation with epsilon 1e-3 and running rate 0.05 (authors' code)."""
    return BatchNorm(channels, eps=1e-3, momentum=_RUNNING_RATE)


def average_sigma(network: nn.Module) -> None:
    """Let the batch normalisation of heads and text encoder average as the authors' code does."""
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.averages_sigma = True


class Concat(nn.ModuleList):
    """Modules with the same input whose outputs are concatenated, (batch, sum of widths)."""

    def forward(self, x: Tensor) -> Tensor:
        """Call all modules."""
        return torch.cat([module(x) for module in self], dim=1)


def projection_head(
    features: int, hidden: int, dim: int, *, dropout: float = 0.0, num_heads: int = 1
) -> nn.Module:
    """Return linear, BN, ReLU, linear, BN: the layers between pretrained features and the space.

    Args:
        features: width of the input.
        hidden: of the hidden layer.
        dim: of the output.
        dropout: dropout rate of the hidden layer.
        num_heads: equal parts of the output, each with layers of its own.

    >>> projection_head(8, 4, 6, num_heads=2)(torch.zeros(3, 8)).shape
    torch.Size([3, 6])
    """
    if num_heads > 1:
        width = dim // num_heads
        return Concat(
            projection_head(features, hidden, width, dropout=dropout) for _ in range(num_heads)
        )
    layers = nn.Sequential(
        nn.Linear(features, hidden, bias=False),
        batch_norm(hidden),
        nn.Sequential(nn.ReLU(), nn.Dropout(dropout)),
        nn.Linear(hidden, dim, bias=False),
        batch_norm(dim),
    )
    layers.apply(initialise_linear)
    return layers


def initialise_linear(module: nn.Module) -> None:
    """Draw weights uniformly in +-sqrt(3 / fan_in), a variance of 1 / fan_in (authors' code)."""
    if isinstance(module, nn.Linear):
        bound = math.sqrt(3 / module.in_features)
        nn.init.uniform_(module.weight, -bound, bound)


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode, and restore its mode afterwards."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


class GridPool(nn.Module):
    """Average a map over the cells of a grid, (n, channels, h, w) to (n, channels, grid, grid)."""

    def __init__(self, grid: int) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, maps: Tensor) -> Tensor:
        if not torch.onnx.is_in_onnx_export():
            return F.adaptive_avg_pool2d(maps, self.grid)
        # The exporter supports cells of one size alone.
        rows, columns = (cell_weights(int(side), self.grid) for side in maps.shape[2:])
        return rows @ maps @ columns.T


def cell_weights(length: int, cells: int) -> Tensor:
    """Return the weights of a mean over each cell of adaptive pooling, (cells, length).

    >>> cell_weights(3, 2)
    tensor([[0.5000, 0.5000, 0.0000],
            [0.0000, 0.5000, 0.5000]])
    """
    starts = torch.arange(cells) * length // cells
    ends = -(-(torch.arange(cells) + 1) * length // cells)
    place = torch.arange(length)
    inside = (place >= starts[:, None]) & (place < ends[:, None])
    return inside / inside.sum(dim=1, keepdim=True)
