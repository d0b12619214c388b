"""Progress of long work: bars at a terminal, lines in a log file, or calls of a function."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from dualpath.types import Progress

_LOG_SECONDS = 30.0  # between two lines in a log file


@dataclass(frozen=True)
class TrainingEvent:
    """What a training reports to a progress function.

    Attributes:
        message: a line for people, otherwise empty.
        stage: name of the stage.
        epoch: within the stage, from 1.
        step: finished steps of the epoch.
        steps: of the whole epoch.
        losses: of the step; of the whole epoch if ``step`` equals ``steps`` and the epoch is done.
        validation: metrics of the validation split, after an epoch that was validated.
    """

    message: str = ""
    stage: str = ""
    epoch: int = 0
    step: int = 0
    steps: int = 0
    losses: Mapping[str, float] = field(default_factory=dict)
    validation: Mapping[str, Any] | None = None


ProgressOption = bool | Callable[[TrainingEvent], None]


class EpochBar:
    """The bar of one epoch: smoothed losses, images per second, time left."""

    def __init__(
        self, progress: RichProgress, task: TaskID, event: TrainingEvent, display: "Display"
    ) -> None:
        self._progress, self._task, self._event, self._display = progress, task, event, display
        self._step = event.step
        self._smoothed: dict[str, float] = {}
        title = str(progress.tasks[task].description)
        self._count = _Count(display, progress, task, title, event.steps, event.step)
        self._images = 0

    def update(self, *, images: int, losses: dict[str, float]) -> None:
        """Count a step with this many images and these losses."""
        self._images += images
        self._step += 1
        for name, value in losses.items():
            self._smoothed[name] = 0.95 * self._smoothed.get(name, value) + 0.05 * value
        elapsed = self._progress.tasks[self._task].elapsed or 0.0
        speed = self._images / elapsed if elapsed > 0 else 0.0
        detail = f"{_format_losses(self._smoothed)} {speed:.0f} images/s"
        self._progress.update(self._task, detail=detail)
        self._count(1)
        event = self._event
        self._display.emit(
            TrainingEvent("", event.stage, event.epoch, self._step, event.steps, losses)
        )


class Display:
    """Shows progress on a console, and reports events to a function.

    Args:
        console: default: standard error.
        callback: called with every event.
    """

    def __init__(
        self,
        console: Console | None = None,
        callback: Callable[[TrainingEvent], None] | None = None,
    ) -> None:
        self._console = console or Console(stderr=True)
        self._callback = callback

    @classmethod
    def from_option(cls, progress: ProgressOption) -> "Display":
        """Return a display: ``True`` on standard error, ``False`` silent, or a function."""
        if progress is True:
            return cls()
        return cls(Console(quiet=True), callback=progress or None)

    def emit(self, event: TrainingEvent) -> None:
        """Report an event to the function, if there is one."""
        if self._callback is not None:
            self._callback(event)

    def log(self, message: str) -> None:
        """Print a line."""
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)
        self.emit(TrainingEvent(message=message))

    @contextmanager
    def epoch(
        self, stage: str, epoch: int, epochs: int, *, steps: int, done: int
    ) -> Iterator[EpochBar]:
        """Show a bar over the steps of an epoch, of which ``done`` are finished already."""
        with self._bar() as progress:
            task = progress.add_task(
                f"{stage} {epoch}/{epochs}", total=steps, completed=done, detail=""
            )
            event = TrainingEvent(stage=stage, epoch=epoch, step=done, steps=steps)
            yield EpochBar(progress, task, event, self)

    @contextmanager
    def bar(self, title: str, total: int | None = None) -> Iterator[Progress]:
        """Show a bar over ``total`` items; yield a function that counts finished items."""
        with self._bar() as progress:
            task = progress.add_task(title, total=total, detail="")
            yield _Count(self, progress, task, title, total)

    def log_sometimes(self, counted: "_Count") -> None:
        """Print a line about counted items if the last one is old: a log file shows no bar."""
        if not self._console.is_terminal and counted.is_due():
            self.log(counted.line())

    def epoch_done(self, entry: Mapping[str, Any]) -> None:
        """Print the losses of an epoch, and its validation if there was one, on one line."""
        line = f"{entry['stage']} epoch {entry['epoch']}: " + _format_losses(entry["losses"])
        validation = entry.get("validation")
        if validation is not None:
            line += (
                f" | image→text R@1 {validation['image_to_text']['recall_at_1']:.1f}"
                f" text→image R@1 {validation['text_to_image']['recall_at_1']:.1f}"
                f" rsum {validation['rsum']:.1f}"
            )
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        self.emit(
            TrainingEvent(
                line,
                stage=entry["stage"],
                epoch=entry["epoch"],
                losses=entry["losses"],
                validation=validation,
            )
        )

    def _bar(self) -> RichProgress:
        return RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )


class _Count:
    """The function of :meth:`Display.bar`; :func:`dualpath.types.expect` announces its total."""

    def __init__(
        self,
        display: Display,
        progress: RichProgress,
        task: TaskID,
        title: str,
        total: int | None,
        done: int = 0,
    ) -> None:
        self._display, self._progress, self._task = display, progress, task
        self._title, self._total = title, total
        self._done = self._done_before = done
        self._first = self._logged = time.monotonic()

    def __call__(self, finished: int) -> None:
        self._done += finished
        self._progress.update(self._task, advance=finished)
        self._display.log_sometimes(self)

    def expect(self, more: int) -> None:
        """Raise the number of items."""
        self._total = (self._total or 0) + more
        self._progress.update(self._task, total=self._total)

    def is_due(self) -> bool:
        """Return whether the last line is old. If so, a line is printed now."""
        now = time.monotonic()
        if now - self._logged <= _LOG_SECONDS:
            return False
        self._logged = now
        return True

    def line(self) -> str:
        """Return how much is done, in which time, and how much time is left."""
        seconds = time.monotonic() - self._first
        elapsed = timedelta(seconds=round(seconds))
        now = self._done - self._done_before
        if not self._total or not now:
            return f"{self._title}: {self._done:,} in {elapsed}"
        left = timedelta(seconds=round(seconds * (self._total - self._done) / now))
        return f"{self._title}: {self._done:,} of {self._total:,} in {elapsed}, about {left} left"


def _format_losses(losses: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in losses.items())
