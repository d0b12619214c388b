"""Queries that come at the same time go through the network together."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

from dualpath.types import Vectors

_Query = TypeVar("_Query")


class OverloadedError(Exception):
    """More queries wait than can be answered soon."""


class Batcher(Generic[_Query]):
    """Embeds queries; those that arrive while a batch is computed make up the next one.

    Nobody waits for a batch to fill, so a single query is as fast as without.

    Args:
        embed: queries to unit vectors, (queries, dim); called in ``executor``.
        largest: queries in a batch.
        waiting: queries that may wait before new ones are refused.
        observe: called with the size of each batch.
    """

    def __init__(
        self,
        embed: Callable[[Sequence[_Query]], Vectors],
        executor: Executor,
        observe: Callable[[int], None],
        *,
        largest: int = 32,
        waiting: int = 512,
    ) -> None:
        self._embed, self._executor, self._observe = embed, executor, observe
        self._largest = largest
        self._queue: asyncio.Queue[tuple[_Query, asyncio.Future[Vectors]]] = asyncio.Queue(waiting)

    async def __call__(self, query: _Query) -> Vectors:
        """Return the vector of a query, (dim,) float32, or raise :class:`OverloadedError`."""
        answer: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((query, answer))
        except asyncio.QueueFull as error:
            raise OverloadedError from error
        return await answer

    async def run(self) -> None:
        """Answer queries until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self._largest and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            waited = [(query, answer) for query, answer in batch if not answer.cancelled()]
            if not waited:
                continue
            self._observe(len(waited))
            try:
                queries = [query for query, _ in waited]
                vectors = await loop.run_in_executor(self._executor, self._embed, queries)
            except Exception as error:
                for _, answer in waited:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), vector in zip(waited, vectors, strict=True):
                if not answer.done():
                    answer.set_result(vector)
