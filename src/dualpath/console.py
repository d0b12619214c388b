"""What commands share: the two consoles, a progress bar, and errors as one clear line."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

out_console = Console(soft_wrap=True)
err_console = Console(stderr=True, soft_wrap=True, highlight=False)


@contextmanager
def errors_for_people(hint: str = "") -> Iterator[None]:
    """Turn what a user can mend into clear lines and exit code 1, an interruption into 130."""
    try:
        yield
    except KeyboardInterrupt as error:
        err_console.print(f"interrupted{hint}", markup=False)
        raise typer.Exit(130) from error
    except (ValueError, OSError, RuntimeError) as error:
        if type(error).__module__.partition(".")[0] != "dualpath" and not isinstance(
            error, OSError
        ):
            raise
        # What a decoding process raised arrives with its whole trace; the last line says it.
        text = str(error)
        text = text.strip().splitlines()[-1] if "Original Traceback" in text else text
        err_console.print(f"error: {text}", markup=False)
        raise typer.Exit(1) from error


@contextmanager
def kill_as_interruption() -> Iterator[None]:
    """Take a polite kill, such as torchrun's when one of its processes was lost, for Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def bar(title: str, total: int | None = None) -> Iterator[Any]:
    """Show progress; yields what is called with the number of things done."""
    from dualpath.training.progress import Display

    with Display().work(title, total) as advance:
        yield advance
