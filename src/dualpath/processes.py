"""Sums over the processes of a training, with gradients, and tensors that they hold together.

Each process embeds its share of a batch, and all of them then compute the loss of the whole batch.
What flows back through a sum to a process are the gradients of the *sum* of those equal losses, so
as many times too large as there are processes; the mean that DistributedDataParallel takes of its
parameters' gradients sets that right. Gradients of a tensor that they hold together are exact.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard


def processes() -> int:
    """Return how many processes train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(total: int) -> slice:
    """Return which of ``total`` things are this process's: as ``torch.tensor_split`` does.

    >>> share(5)
    slice(0, 5, None)
    """
    each, left_over = divmod(total, processes())
    first = rank() * each + min(rank(), left_over)
    return slice(first, first + each + (rank() < left_over))


class _Sum(torch.autograd.Function):
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


def sum_over_processes(x: Tensor) -> Tensor:
    """Return the sum of a tensor of the same shape in every process, in each of them."""
    if processes() == 1:
        return x
    total: Tensor = _Sum.apply(x)
    return total


@torch.no_grad()
def max_over_processes(x: Tensor) -> Tensor:
    """Return the maximum of a tensor over the processes; nothing flows back."""
    highest = x.clone()
    if processes() > 1:
        dist.all_reduce(highest, dist.ReduceOp.MAX)
    return highest


def gather_shares(own: Tensor, total: int) -> Tensor:
    """Put the rows of :func:`share` of every process together, (total, ...)."""
    if processes() == 1:
        return own
    place = share(total)
    # Zeros in the rows of others: a sum needs no equal shares, and the rows are few.
    around = (0, 0) * (own.ndim - 1) + (place.start, total - place.stop)
    return sum_over_processes(F.pad(own, around))


def block(total: int) -> slice:
    """Return which rows of a tensor held together are this process's: as ``torch.chunk`` does.

    Raises:
        ValueError: a process would have none.

    >>> block(5)
    slice(0, 5, None)
    """
    each = -(-total // processes())
    if each * (processes() - 1) >= total:
        raise ValueError(f"{total} classes cannot be shared by {processes()} processes")
    return slice(rank() * each, min((rank() + 1) * each, total))


def of_all(own: Tensor, total: int) -> Tensor:
    """View the rows of :func:`block` of every process as the tensor they make, (total, ...)."""
    if processes() == 1:
        return own
    own = own.contiguous()
    shape = torch.Size((total, *own.shape[1:]))
    return DTensor.from_local(
        own, _mesh(own.device.type), [Shard(0)], run_check=False, shape=shape, stride=own.stride()
    )


def as_one(function: Callable[..., Tensor], same: Tensor, spread: Tensor) -> Tensor:
    """Call a function of a tensor that all processes have and one of :func:`of_all`.

    Returns:
        Its value, which is the same in every process.
    """
    if processes() == 1:
        return function(same, spread)
    mesh = _mesh(same.device.type)
    value = function(DTensor.from_local(same, mesh, [Replicate()], run_check=False), spread)
    assert isinstance(value, DTensor)
    local: Tensor = value.full_tensor()
    return local


@cache
def _mesh(device: str) -> DeviceMesh:
    return init_device_mesh(device, (processes(),))
