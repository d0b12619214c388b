"""Progress of long work, for a person at a terminal or a log file."""

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
        shown = " ".join(f"{name} {value:.3f}" for name, value in self._smoothed.items())
        self._progress.update(self._task, advance=1, detail=f"{shown} {speed:.0f} pictures/s")


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
        with self._bar() as progress:
            task = progress.add_task(title, total=total, detail="")

            def advance(count: int) -> None:
                progress.update(task, advance=count)

            yield advance

    def validated(self, stage: str, entry: dict[str, Any]) -> None:
        """Print the losses and the validation of an epoch on one line."""
        losses = " ".join(f"{name} {value:.3f}" for name, value in entry["losses"].items())
        metrics = entry["validation"]
        to_text, to_image = metrics["image_to_text"], metrics["text_to_image"]
        self.say(
            f"{stage} epoch {entry['epoch']}: {losses} | "
            f"image→text R@1 {to_text['recall_at_1']:.1f} "
            f"text→image R@1 {to_image['recall_at_1']:.1f} rsum {metrics['rsum']:.1f}"
        )

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
        )
