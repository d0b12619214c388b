"""Checkpoints: the state of a training from which it goes on after an interruption."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch


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


def save_checkpoint(path: Path, state: dict[str, Any], progress: Progress) -> None:
    """Write a checkpoint, whole or not at all: a kill at any moment leaves the one before."""
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save({**state, "progress": asdict(progress)}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint cannot be written ({error}); make room and add --resume"
        ) from error


def load_checkpoint(path: Path) -> tuple[dict[str, Any], Progress]:
    """Read a checkpoint. Tensors and plain values alone are accepted, no pickled code."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return state, Progress(**state.pop("progress"))
    except Exception as error:  # torch raises whatever its layers below raise
        raise CheckpointError(
            f"{path}: the checkpoint is damaged ({type(error).__name__}); remove it and start anew"
        ) from error
