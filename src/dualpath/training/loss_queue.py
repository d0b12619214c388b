"""Losses of steps that a GPU may not have computed yet.

Reading a loss makes the host wait for the device. On a GPU the losses of several steps are read
together for that reason. On a CPU they are read at every step.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dualpath.errors import TrainingError
from dualpath.utils.text import first_n_and_more

_STEPS = 20  # between two reads on a GPU


class StepLosses(NamedTuple):
    """The losses of one step.

    Attributes:
        step: within the epoch, from 0.
        images: of the batch.
        values: the losses by name.
    """

    step: int
    images: int
    values: dict[str, float]


class LossQueue:
    """Collects the losses of steps until they are read.

    >>> queue = LossQueue(torch.device("cpu"))
    >>> queue.add(0, 32, {"ranking": torch.tensor(0.5)})
    >>> queue.is_due, queue.read()
    (True, [StepLosses(step=0, images=32, values={'ranking': 0.5})])
    """

    def __init__(self, device: torch.device) -> None:
        self._interval = _STEPS if device.type == "cuda" else 1
        self._pending: list[tuple[int, int, list[str], Tensor]] = []

    def add(self, step: int, images: int, losses: dict[str, Tensor]) -> None:
        """Add the losses of a step without waiting for them."""
        values = torch.stack([loss.detach() for loss in losses.values()])
        self._pending.append((step, images, list(losses), values))

    @property
    def is_due(self) -> bool:
        """Whether the losses should be read now."""
        return len(self._pending) >= self._interval

    def read(self) -> list[StepLosses]:
        """Return the losses added since the last call; waits for the device once."""
        pending, self._pending = self._pending, []
        if not pending:
            return []
        values = torch.cat([values for *_, values in pending]).tolist()
        steps, start = [], 0
        for step, images, names, _ in pending:
            steps.append(StepLosses(step, images, dict(zip(names, values[start:], strict=False))))
            start += len(names)
        return steps


def not_finite_error(
    stage: str, epoch: int, losses: StepLosses, images: Sequence[str]
) -> TrainingError:
    """Return the error of a step whose losses are not finite.

    Args:
        stage: its name.
        epoch: from 0.
        images: file names of the batch.
    """
    values = ", ".join(f"{name} {value:g}" for name, value in losses.values.items())
    return TrainingError(
        f"stage {stage}, epoch {epoch + 1}, step {losses.step + 1}: the loss is not finite "
        f"({values}); images of the batch: {first_n_and_more(images, 4)}. Lower the stage's "
        "optimizer.lr, or raise schedule.warmup"
    )
