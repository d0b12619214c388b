"""Progress of long work, for a person at a terminal or a log file."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LOG_SECONDS = 30.0


class EpochBar:
    """The bar of one epoch: losses (smoothed), pictures a second, time left."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress, self._task = progress, task
        self._smoothed: dict[str, float] = {}
        self._pictures = 0

    def update(self, *, pictures: int, losses: dict[str, float]) -> None:
        """Count a step of so many pictures with these losses."""
        self._pictures += pictures
        for name, value in losses.items():
            self._smoothed[name] = 0.95 * self._smoothed.get(name, value) + 0.05 * value
        elapsed = self._progress.tasks[self._task].elapsed or 0.0
        speed = self._pictures / elapsed if elapsed > 0 else 0.0
        detail = f"{_losses(self._smoothed)} {speed:.0f} pictures/s"
        self._progress.update(self._task, advance=1, detail=detail)


class Display:
    """Show progress on a console (default: standard error)."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)

    def say(self, message: str) -> None:
        """Print a line."""
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def epoch(self, title: str, *, total: int, done: int) -> Iterator[EpochBar]:
        """Show a bar over the steps of an epoch, of which ``done`` were done before."""
        with self._bar() as progress:
            yield EpochBar(
                progress, progress.add_task(title, total=total, completed=done, detail="")
            )

    @contextmanager
    def work(self, title: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Show a bar over ``total`` things and give what is called with the number newly done."""
        done, told = 0, time.monotonic()
        with self._bar() as progress:
            task = progress.add_task(title, total=total, detail="")

            def advance(count: int) -> None:
                nonlocal done, told
                done += count
                progress.update(task, advance=count)
                # A log file shows no bar; it gets a line now and then.
                if not self._console.is_terminal and time.monotonic() - told > _LOG_SECONDS:
                    told = time.monotonic()
                    self.say(f"{title}: {done:,}" + (f" of {total:,}" if total else ""))

            yield advance

    def epoch_done(self, entry: dict[str, Any]) -> None:
        """Print the losses of an epoch, and its validation if there was one, on one line."""
        line = f"{entry['stage']} epoch {entry['epoch']}: " + _losses(entry["losses"])
        if "validation" in entry:
            metrics = entry["validation"]
            line += (
                f" | image→text R@1 {metrics['image_to_text']['recall_at_1']:.1f}"
                f" text→image R@1 {metrics['text_to_image']['recall_at_1']:.1f}"
                f" rsum {metrics['rsum']:.1f}"
            )
        self.say(line)

    def _bar(self) -> Progress:
        return Progress(
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


def _losses(losses: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in losses.items())
