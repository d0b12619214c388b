"""Checkpoints: the state of a training from which it goes on after an interruption.

What all processes have alike is in one file; the rows of the classifier, with what the optimiser
keeps for them, are in a file of each process, which no process needs to read whole.
"""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from dualpath.processes import processes, rank


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, read or continued; the message says the mend."""


@dataclass
class Progress:
    """How far a training is.

    stage, epoch, step: the next step to do; ``step`` counts within the epoch.
    totals: sums of the losses over the steps of the epoch so far.
    history: one entry an epoch with losses and validation.
    best: the best validation so far (empty: none yet).
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    path: Path, state: dict[str, Any], rows: dict[str, Any], progress: Progress
) -> None:
    """Write a checkpoint, whole or not at all: a kill at any moment leaves the one before.

    All processes call it together.

    Args:
        path: of the file that names the others, which lie beside it.
        state: what all processes have alike.
        rows: what this one has alone; nested, every matrix in it a row a class.
    """
    place = f"{path.stem}.{progress.stage}-{progress.epoch}-{progress.step}"
    names = [f"{place}.{number + 1}-of-{processes()}.pt" for number in range(processes())]
    _write(path.with_name(names[rank()]), rows)
    _wait()
    if rank() == 0:
        _write(path, {**state, "rows": names, "progress": asdict(progress)})
        for file in path.parent.glob(f"{path.stem}.*.pt"):
            if file.name not in names:
                file.unlink()
    _wait()


def load_checkpoint(path: Path) -> tuple[dict[str, Any], Progress]:
    """Read what all processes have alike, and under ``rows`` the names of the other files.

    Tensors and plain values alone are accepted, no pickled code.
    """
    state = _read(path)
    try:
        return state, Progress(**state.pop("progress"))
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: is of another version of dualpath; remove it and start anew"
        ) from error


def load_rows(files: list[Path], own: slice) -> dict[str, Any]:
    """Put together the rows ``own`` of what the processes had, however many they were."""
    rows: dict[str, Any] = _joined([_read(file, mapped=True) for file in files], own)
    return rows


def _joined(pieces: list[Any], own: slice) -> Any:
    first = pieces[0]
    if isinstance(first, dict):
        return {key: _joined([piece[key] for piece in pieces], own) for key in first}
    if not (isinstance(first, Tensor) and first.ndim == 2):
        return first
    chosen, start = [], 0
    for piece in pieces:
        chosen.append(piece[max(0, own.start - start) : max(0, own.stop - start)])
        start += len(piece)
    return torch.cat(chosen)


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint cannot be written ({error}); make room and add --resume"
        ) from error


def _read(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises whatever its layers below raise
        raise CheckpointError(
            f"{path}: the checkpoint is damaged ({type(error).__name__}); remove it and start anew"
        ) from error
    return state


def _wait() -> None:
    if processes() > 1:
        dist.barrier()
