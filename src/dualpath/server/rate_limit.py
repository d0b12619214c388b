"""Limiting the rate of requests of each client."""

import time
from collections.abc import Hashable
from typing import Any

from limits import RateLimitItem

_Key = tuple[Any, ...]  # the rate and the client
_MAX_CLIENTS = 10_000  # remembered; then those without recent requests are forgotten


class RateLimiter:
    """A sliding window counter of requests, in memory.

    The requests of the window before count as far as the sliding window contains them. The storage
    of the package ``limits`` starts a thread every 10 ms, which took half the time of a request.

    >>> from limits import parse
    >>> limiter = RateLimiter()
    >>> [limiter.hit(parse("2/hour"), "client") for _ in range(3)]
    [True, True, False]
    """

    def __init__(self) -> None:
        self._counts: dict[_Key, tuple[int, int, int]] = {}  # window, requests, those before

    def hit(self, rate: RateLimitItem, *client: Hashable) -> bool:
        """Count a request of a client, and return whether it is within the limit."""
        window, used, before, share = self._read(rate, client)
        if used + int(before * share) >= rate.amount:
            return False
        if len(self._counts) >= _MAX_CLIENTS:
            self._forget()
        self._counts[rate, *client] = (window, used + 1, before)
        return True

    def test(self, rate: RateLimitItem, *client: Hashable) -> bool:
        """Return whether another request would be within the limit, without counting it."""
        _, used, before, share = self._read(rate, client)
        return used + int(before * share) < rate.amount

    def _read(
        self, rate: RateLimitItem, client: tuple[Hashable, ...]
    ) -> tuple[int, int, int, float]:
        """Return the window, its requests, those of the one before, and the share that counts."""
        windows = time.time() / rate.get_expiry()
        current = int(windows)
        window, used, before = self._counts.get((rate, *client), (current, 0, 0))
        if window != current:
            before, used = (used if window == current - 1 else 0), 0
        return current, used, before, 1 - (windows - current)

    def _forget(self) -> None:
        now = time.time()
        self._counts = {
            key: count
            for key, count in self._counts.items()
            if count[0] >= int(now / key[0].get_expiry()) - 1
        }
