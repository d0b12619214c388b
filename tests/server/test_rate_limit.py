"""The limit on the rate of requests."""

import pytest
from limits import parse

from dualpath.server import rate_limit
from dualpath.server.rate_limit import RateLimiter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [6_000.0]
    monkeypatch.setattr(rate_limit.time, "time", lambda: now[0])
    return now


def test_a_client_may_send_as_many_requests_as_the_rate_says(clock: list[float]) -> None:
    limiter, rate = RateLimiter(), parse("10/minute")
    assert [limiter.hit(rate, "a") for _ in range(12)] == [True] * 10 + [False] * 2
    assert limiter.hit(rate, "b")
    clock[0] += 120
    assert limiter.hit(rate, "a")


def test_the_window_slides(clock: list[float]) -> None:
    limiter, rate = RateLimiter(), parse("10/minute")
    for _ in range(10):
        limiter.hit(rate, "a")
    clock[0] += 60 + 30  # half of the earlier requests still count
    assert [limiter.hit(rate, "a") for _ in range(6)] == [True] * 5 + [False]


@pytest.mark.usefixtures("clock")
def test_a_test_does_not_count() -> None:
    limiter, rate = RateLimiter(), parse("1/minute")
    assert all(limiter.test(rate, "a") for _ in range(5))
    assert limiter.hit(rate, "a")
    assert not limiter.test(rate, "a")


def test_clients_without_recent_requests_are_forgotten(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit, "_MAX_CLIENTS", 100)
    limiter, rate = RateLimiter(), parse("1/minute")
    for number in range(1_000):
        limiter.hit(rate, number)
        clock[0] += 60
    assert len(limiter._counts) <= 100
