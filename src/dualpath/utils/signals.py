"""Ctrl-C and SIGTERM: delayed until a training step is finished, or treated alike."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether an interruption was requested in the meantime.

    A second request raises ``KeyboardInterrupt`` at once. Outside the main thread signals keep
    their handlers, and the function returns false.
    """
    requested = False

    def request(*_: object) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = [signal.signal(number, request) for number in _SIGNALS]
    try:
        yield lambda: requested
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` on SIGTERM, which torchrun sends when a process has failed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def ignore_interrupts(_: int) -> None:
    """Ignore Ctrl-C in a worker, which its parent process will stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
