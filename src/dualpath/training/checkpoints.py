"""Checkpoints: the state from which a training continues after an interruption.

State that is equal in all processes is in one file. The rows of the classifier, with the state of
their optimiser, are in one file per process, so no process needs to read them all.
"""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from dualpath.distributed.collectives import rank, world_size
from dualpath.errors import CheckpointError
from dualpath.losses.instance import InstanceClassifier
from dualpath.training.optim import Optimizers
from dualpath.utils.files import atomic_path


@dataclass
class TrainingState:
    """How far a training is.

    Attributes:
        stage, epoch, step: of the next step; ``step`` counts within the epoch.
        totals: sums of the losses over the finished steps of the epoch.
        history: for each finished epoch its losses and validation.
        best: the best validation so far; empty if there is none.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)


def save_training(
    path: Path,
    network: nn.Module,
    classifier: InstanceClassifier,
    optimizers: Optimizers | None,
    progress: TrainingState,
) -> None:
    """Write a checkpoint; all processes call it together.

    A kill at any moment leaves the previous checkpoint intact.

    Raises:
        CheckpointError: a file cannot be written.
    """
    replicated = classifier.state_dict()
    sharded: dict[str, Any] = {
        "weights": {name: replicated.pop(name) for name in classifier.row_names()}
    }
    state = {"network": network.state_dict(), "classifier": replicated}
    if optimizers is not None:
        state["optimizer"] = optimizers.network.state_dict()
        sharded["optimizer"] = optimizers.classifier.state_dict()
    _save(path, state, sharded, progress)


def load_training(
    path: Path, network: nn.Module, classifier: InstanceClassifier
) -> tuple[TrainingState, list[dict[str, Any]] | None]:
    """Load the weights of network and classifier from a checkpoint.

    Returns:
        How far the training was, and the states of its two optimisers if they were saved.

    Raises:
        CheckpointError: a file is missing or damaged, or was written by another version.
    """
    state = _read(path)
    try:
        progress = TrainingState(**state.pop("progress"))
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: written by another version of dualpath; remove it and start again"
        ) from error
    shards = [_read(path.with_name(name), mapped=True) for name in state["rows"]]
    sharded: dict[str, Any] = _concatenate(shards, classifier.own)
    network.load_state_dict(state["network"])
    classifier.load_state_dict({**state["classifier"], **sharded["weights"]})
    has_optimizer = "optimizer" in state
    return progress, [state["optimizer"], sharded["optimizer"]] if has_optimizer else None


def _save(
    path: Path, state: dict[str, Any], sharded: dict[str, Any], progress: TrainingState
) -> None:
    """Write the shard of each process, then the file that names the shards."""
    stem = f"{path.stem}.{progress.stage}-{progress.epoch}-{progress.step}"
    names = [f"{stem}.{number + 1}-of-{world_size()}.pt" for number in range(world_size())]
    _write(path.with_name(names[rank()]), sharded)
    _wait()
    if rank() == 0:
        _write(path, {**state, "rows": names, "progress": asdict(progress)})
        for file in path.parent.glob(f"{path.stem}.*.pt"):
            if file.name not in names:
                file.unlink()
    _wait()


def _concatenate(shards: list[Any], own: slice) -> Any:
    """Return the rows ``own`` of nested dictionaries of matrices, for any number of shards."""
    first = shards[0]
    if isinstance(first, dict):
        return {key: _concatenate([shard[key] for shard in shards], own) for key in first}
    if not (isinstance(first, Tensor) and first.ndim == 2):
        return first
    chosen, start = [], 0
    for shard in shards:
        chosen.append(shard[max(0, own.start - start) : max(0, own.stop - start)])
        start += len(shard)
    return torch.cat(chosen)


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint cannot be written ({error}); free some disk space and add "
            "--resume"
        ) from error


def _read(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """Read tensors and plain values; pickled code is refused."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises errors of its dependencies
        raise CheckpointError(
            f"{path}: the checkpoint is damaged ({type(error).__name__}); remove it and start again"
        ) from error
    return state


def _wait() -> None:
    if world_size() > 1:
        dist.barrier()
