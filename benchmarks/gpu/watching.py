"""Time the steps, epochs and other work of a training, without changes to the package.

The trainer calls ``set_learning_rate`` at the start of every step, and shows epochs and other work
on a display. Both are replaced while a training is measured. Progress events cannot be used: on a
GPU the trainer reads the losses of 20 steps together, so events come in groups.
"""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import torch
from rich.console import Console
from setting import Setting

from dualpath.inference.model import DualPath
from dualpath.recipes.schema import Recipe
from dualpath.training import optim
from dualpath.training.train import train
from dualpath.types import Progress
from dualpath.utils.progress import Display, EpochBar


class StepTool(Protocol):
    """Observes some steps of a training."""

    def after_step(self, stage: str, step: int) -> None:
        """Called when the host has finished ``step`` steps of an epoch."""


@dataclass
class Epoch:
    """An epoch of a stage.

    Attributes:
        stage: its name.
        seconds: of the whole epoch, the start of the loader included.
        steps: number of steps.
        clock: the time at the start of each step in seconds, on the device.
    """

    stage: str
    seconds: float = 0.0
    steps: int = 0
    clock: list[float] = field(default_factory=list)

    def step_seconds(self, skip: int) -> list[float]:
        """Return the seconds of each step after the first ``skip`` steps."""
        times = self.clock[skip:]
        return [end - start for start, end in itertools.pairwise(times)]


class Watch(Display):
    """A silent display that times epochs, steps and other work.

    Args:
        tools: called after every step.
    """

    def __init__(self, setting: Setting, *tools: StepTool) -> None:
        super().__init__(Console(quiet=True))
        self._setting, self._tools = setting, tools
        self.epochs: list[Epoch] = []
        self.bar_seconds: dict[str, float] = {}
        self._events: list[torch.cuda.Event] = []

    @contextmanager
    def epoch(
        self, stage: str, epoch: int, epochs: int, *, steps: int, done: int
    ) -> Iterator[EpochBar]:
        """Time an epoch."""
        measured = Epoch(stage)
        self.epochs.append(measured)
        self._events = []
        started = time.perf_counter()
        with super().epoch(stage, epoch, epochs, steps=steps, done=done) as bar:
            yield bar
        self._mark(measured)
        self._setting.synchronise()
        measured.seconds = time.perf_counter() - started
        measured.steps -= 1  # the mark above starts no step
        if self._events:
            first = self._events[0]
            measured.clock = [first.elapsed_time(event) / 1000 for event in self._events]

    @contextmanager
    def bar(self, title: str, total: int | None = None) -> Iterator[Progress]:
        """Time other work."""
        started = time.perf_counter()
        with super().bar(title, total) as count:
            yield count
        taken = time.perf_counter() - started
        self.bar_seconds[title] = self.bar_seconds.get(title, 0.0) + taken

    def step_starts(self) -> None:
        """Record the time at the start of a step, without waiting for the device."""
        self._mark(self.epochs[-1])

    def _mark(self, epoch: Epoch) -> None:
        for tool in self._tools if epoch.steps else ():
            tool.after_step(epoch.stage, epoch.steps)
        epoch.steps += 1
        if self._setting.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        else:
            epoch.clock.append(time.perf_counter())

    def stage_seconds(self, stage: str) -> float:
        """Return the time of all epochs of a stage, without validation and checkpoints."""
        return sum(epoch.seconds for epoch in self.epochs if epoch.stage == stage)


def train_watched(recipe: Recipe, data: Path, out: Path, watch: Watch) -> DualPath:
    """Train a recipe while ``watch`` measures it."""

    def set_learning_rate(*arguments: Any) -> None:
        watch.step_starts()
        optim.set_learning_rate(*arguments)

    with (
        mock.patch("dualpath.training.train.Display.from_option", return_value=watch),
        mock.patch("dualpath.training.trainer.set_learning_rate", set_learning_rate),
    ):
        return train(recipe, data, out, cache=out.parent / "cache")
