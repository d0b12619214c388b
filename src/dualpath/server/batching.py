"""Batching: queries that arrive at the same time are embedded together."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

from dualpath.types import Vectors

_Query = TypeVar("_Query")


class OverloadedError(Exception):
    """Too many queries are waiting."""


class Batcher(Generic[_Query]):
    """Embeds queries in batches.

    The queries that arrive while a batch is computed make the next batch. No query waits for a
    batch to become full, so a single query takes no longer than without batching.

    Args:
        embed: maps queries to unit vectors, (queries, dim). It is called in ``executor``.
        executor: runs ``embed``.
        observe: called with the size of each batch.
        max_batch: largest number of queries in a batch.
        max_waiting: number of queries that may wait. More are refused.
    """

    def __init__(
        self,
        embed: Callable[[Sequence[_Query]], Vectors],
        executor: Executor,
        observe: Callable[[int], None],
        *,
        max_batch: int = 32,
        max_waiting: int = 512,
    ) -> None:
        self._embed, self._executor, self._observe = embed, executor, observe
        self._max_batch = max_batch
        self._queue: asyncio.Queue[tuple[_Query, asyncio.Future[Vectors]]] = asyncio.Queue(
            max_waiting
        )

    async def __call__(self, query: _Query) -> Vectors:
        """Return the vector of a query, (dim,) float32.

        Raises:
            OverloadedError: too many queries are waiting.
        """
        future: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((query, future))
        except asyncio.QueueFull as error:
            raise OverloadedError from error
        return await future

    async def run(self) -> None:
        """Embed queries until the task is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self._max_batch and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            waiting = [(query, future) for query, future in batch if not future.cancelled()]
            if not waiting:
                continue
            self._observe(len(waiting))
            try:
                queries = [query for query, _ in waiting]
                vectors = await loop.run_in_executor(self._executor, self._embed, queries)
            except Exception as error:
                for _, future in waiting:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), vector in zip(waiting, vectors, strict=True):
                if not future.done():
                    future.set_result(vector)
