"""Ctrl-C and a polite kill, kept until a step is done so that the state stays whole."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether an interruption was asked for meanwhile.

    A second one is obeyed at once. Outside the main thread signals are left as they are.
    """
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = [signal.signal(number, ask) for number in _SIGNALS]
    try:
        yield lambda: asked
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)


def ignore_interrupts(_: int) -> None:
    """Leave Ctrl-C to the process that waits for this worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
