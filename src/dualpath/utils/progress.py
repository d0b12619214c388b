"""Progress of long work: bars at a terminal, lines in a log file, or calls of a function."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
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
        stage: name of the stage. epoch: within the stage, from 1.
        step: finished steps of the epoch. steps: of the whole epoch.
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
        self._progress.update(self._task, advance=1, detail=detail)
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
        done, logged = 0, time.monotonic()
        with self._bar() as progress:
            task = progress.add_task(title, total=total, detail="")

            def count(finished: int) -> None:
                nonlocal done, logged
                done += finished
                progress.update(task, advance=finished)
                # A log file shows no bar, so it gets a line from time to time.
                if not self._console.is_terminal and time.monotonic() - logged > _LOG_SECONDS:
                    logged = time.monotonic()
                    self.log(f"{title}: {done:,}" + (f" of {total:,}" if total else ""))

            yield count

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


def _format_losses(losses: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in losses.items())
