"""Joining the processes of a training, and what to report when one of them fails."""

import torch
from accelerate import PartialState

from dualpath.distributed.collectives import all_reduce_max, rank, world_size
from dualpath.errors import TrainingError

# Parts of the messages of gloo and NCCL when another process no longer answers.
_PEER_FAILURES = (
    "onnection closed",
    "onnection reset",
    "by peer",
    "roken pipe",
    "imed out",
    "NCCL",
)


def init_distributed() -> PartialState:
    """Return the state of the processes that were launched together; the first call joins them."""
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    return PartialState(cpu=not has_gpu)  # without this, CPUs would each train alone


def all_reduce_any(*flags: bool) -> list[bool]:
    """Return for each flag whether it is set in any process; all processes call it together."""
    if world_size() == 1:
        return list(flags)
    own = torch.tensor(flags, dtype=torch.int32, device=init_distributed().device)
    return [bool(flag) for flag in all_reduce_max(own)]


def peer_failure(error: RuntimeError) -> TrainingError | None:
    """Return a clear error if this one says that another process has failed, else None."""
    if world_size() == 1 or not any(part in str(error) for part in _PEER_FAILURES):
        return None
    return TrainingError(
        f"process {rank()} of {world_size()} lost the connection to another one; read the output "
        "of that one, and start all of them again with --resume"
    )
