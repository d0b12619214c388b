"""Two things timed in turns, so that what disturbs one disturbs the other."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A line of the table.

    what, ours, beside: what was done, by which code, and what it is compared with.
    own, other: seconds of one call of each, medians.
    ratio, spread: of ``other`` over ``own`` (more is faster), median, lowest and highest.
    asked: what the ratio should be at least; none where nothing is asked.
    """

    part: str
    what: str
    beside: str
    own: float
    other: float
    ratio: float
    spread: tuple[float, float]
    asked: float | None = None
    note: str = ""


def paired(
    part: str,
    what: str,
    own: Callable[[], object],
    beside: str,
    other: Callable[[], object],
    *,
    rounds: int = 5,
    asked: float | None = None,
    note: str = "",
) -> Row:
    """Call both once to warm up and then in turns; compare within each turn."""
    own(), other()
    times: list[tuple[float, float]] = []
    for turn in range(rounds):
        pair = []
        for call in (own, other) if turn % 2 == 0 else (other, own):
            begun = time.perf_counter()
            call()
            pair.append(time.perf_counter() - begun)
        times.append((pair[0], pair[1]) if turn % 2 == 0 else (pair[1], pair[0]))
    ratios = [theirs / ours for ours, theirs in times]
    return Row(
        part,
        what,
        beside,
        statistics.median(ours for ours, _ in times),
        statistics.median(theirs for _, theirs in times),
        statistics.median(ratios),
        (min(ratios), max(ratios)),
        asked,
        note,
    )
