"""Exchanging tensors between the processes of a training, with gradients.

Each process embeds its share of a batch, then every process computes the loss of the whole batch.
The gradients that flow back through :func:`all_reduce_sum` are those of the *sum* of these equal
losses, ``world_size`` times too large. The mean that DistributedDataParallel takes over the
gradients of its parameters corrects that. Gradients of a sharded tensor are exact.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard


def world_size() -> int:
    """Return the number of processes that train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_slice(total: int) -> slice:
    """Return this process's part of ``total`` rows, split as ``torch.tensor_split`` does.

    >>> local_slice(5)
    slice(0, 5, None)
    """
    each, remainder = divmod(total, world_size())
    first = rank() * each + min(rank(), remainder)
    return slice(first, first + each + (rank() < remainder))


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(_: object, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: object, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def all_reduce_sum(x: Tensor) -> Tensor:
    """Return the sum over all processes of a tensor that has the same shape in each of them."""
    if world_size() == 1:
        return x
    total: Tensor = _AllReduceSum.apply(x)
    return total


@torch.no_grad()
def all_reduce_max(x: Tensor) -> Tensor:
    """Return the maximum of a tensor over all processes, without gradients."""
    highest = x.clone()
    if world_size() > 1:
        dist.all_reduce(highest, dist.ReduceOp.MAX)
    return highest


def all_gather_rows(own: Tensor, total: int) -> Tensor:
    """Concatenate the :func:`local_slice` rows of all processes, (total, ...)."""
    if world_size() == 1:
        return own
    place = local_slice(total)
    # A sum over zero-padded rows works with shares of different length, and the rows are few.
    padding = (0, 0) * (own.ndim - 1) + (place.start, total - place.stop)
    return all_reduce_sum(F.pad(own, padding))


def shard_slice(total: int) -> slice:
    """Return this process's rows of a sharded tensor, split as ``torch.chunk`` does.

    Raises:
        ValueError: a process would have no row.

    >>> shard_slice(5)
    slice(0, 5, None)
    """
    each = -(-total // world_size())
    if each * (world_size() - 1) >= total:
        raise ValueError(f"{total} classes cannot be shared by {world_size()} processes")
    return slice(rank() * each, min((rank() + 1) * each, total))


def as_dtensor(own: Tensor, total: int) -> Tensor:
    """View the :func:`shard_slice` rows of all processes as one sharded tensor, (total, ...)."""
    if world_size() == 1:
        return own
    own = own.contiguous()
    shape = torch.Size((total, *own.shape[1:]))
    return DTensor.from_local(
        own, _mesh(own.device.type), [Shard(0)], run_check=False, shape=shape, stride=own.stride()
    )


def apply_sharded(function: Callable[..., Tensor], replicated: Tensor, sharded: Tensor) -> Tensor:
    """Call ``function`` with a tensor that is equal in all processes and a sharded one.

    Returns:
        The value of the function, equal in all processes.
    """
    if world_size() == 1:
        return function(replicated, sharded)
    mesh = _mesh(replicated.device.type)
    value = function(DTensor.from_local(replicated, mesh, [Replicate()], run_check=False), sharded)
    if not isinstance(value, DTensor):
        raise TypeError("the function must return a tensor computed from the sharded one")
    local: Tensor = value.full_tensor()
    return local


@cache
def _mesh(device: str) -> DeviceMesh:
    return init_device_mesh(device, (world_size(),))
