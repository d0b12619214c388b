"""Time two calls in turns, so that whatever slows one down slows the other down as well."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        part: of the suite.
        measured: what was measured. compared_with: what it is compared with.
        own_seconds, other_seconds: of one call of each, medians.
        ratio: ``other_seconds / own_seconds`` of a turn, median; above 1, DualPath is faster.
        spread: lowest and highest ratio.
        target: the least ratio that was set as a goal before measuring. None: no goal.
        note: further results.
    """

    part: str
    measured: str
    compared_with: str
    own_seconds: float
    other_seconds: float
    ratio: float
    spread: tuple[float, float]
    target: float | None = None
    note: str = ""


def compare(
    part: str,
    measured: str,
    own: Callable[[], object],
    compared_with: str,
    other: Callable[[], object],
    *,
    rounds: int = 5,
    target: float | None = None,
    note: str = "",
) -> Row:
    """Call both functions once to warm up, then in turns, and compare them within each turn.

    The other arguments are as in :class:`Row`.
    """
    own()
    other()
    times = []
    for turn in range(rounds):
        if turn % 2 == 0:
            own_seconds, other_seconds = _time(own), _time(other)
        else:
            other_seconds, own_seconds = _time(other), _time(own)
        times.append((own_seconds, other_seconds))
    ratios = [others / ours for ours, others in times]
    return Row(
        part,
        measured,
        compared_with,
        own_seconds=statistics.median(ours for ours, _ in times),
        other_seconds=statistics.median(others for _, others in times),
        ratio=statistics.median(ratios),
        spread=(min(ratios), max(ratios)),
        target=target,
        note=note,
    )


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
