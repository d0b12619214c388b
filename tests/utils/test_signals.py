import os
import signal
import threading

import pytest

from dualpath.utils.signals import deferred_interrupts, ignore_interrupts, sigterm_as_interrupt

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@SIGNALS
def test_an_interruption_is_reported_instead_of_raised(number, handlers):
    with deferred_interrupts() as interrupted:
        assert not interrupted()
        os.kill(os.getpid(), number)
        assert interrupted()
    assert {n: signal.getsignal(n) for n in handlers} == handlers


@SIGNALS
def test_a_second_interruption_is_raised_at_once(number, handlers):
    with pytest.raises(KeyboardInterrupt), deferred_interrupts():
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGINT)
    assert {n: signal.getsignal(n) for n in handlers} == handlers


def test_outside_of_the_main_thread_signals_are_left_alone(handlers):
    seen = []

    def work():
        with deferred_interrupts() as interrupted:
            seen.append((interrupted(), {n: signal.getsignal(n) for n in handlers}))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, handlers)]


def test_sigterm_is_an_interruption_within_the_block(handlers):
    with pytest.raises(KeyboardInterrupt), sigterm_as_interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == handlers[signal.SIGTERM]


def test_a_worker_ignores_ctrl_c():
    ignore_interrupts(0)
    os.kill(os.getpid(), signal.SIGINT)
