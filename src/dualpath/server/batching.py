"""Batching: queries that arrive at the same time are answered together."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

_Query = TypeVar("_Query")
_Answer = TypeVar("_Answer")


class OverloadedError(Exception):
    """Too many queries are waiting."""


class Batcher(Generic[_Query, _Answer]):
    """Answers queries in batches.

    The queries that arrive while a batch is computed make the next batch. No query waits for a
    batch to become full, so a single query takes no longer than without batching.

    Args:
        answer: maps queries to one answer each. It is called in ``executor``.
        executor: runs ``answer``.
        observe: called with the size of each batch.
        max_batch: largest number of queries in a batch.
        max_waiting: number of queries that may wait. More are refused.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[_Query]], Iterable[_Answer]],
        executor: Executor,
        observe: Callable[[int], None],
        *,
        max_batch: int = 32,
        max_waiting: int = 512,
    ) -> None:
        self._answer, self._executor, self._observe = answer, executor, observe
        self._max_batch = max_batch
        self._queue: asyncio.Queue[tuple[_Query, asyncio.Future[_Answer]]] = asyncio.Queue(
            max_waiting
        )

    async def __call__(self, query: _Query) -> _Answer:
        """Return the answer to a query.

        Raises:
            OverloadedError: too many queries are waiting.
        """
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((query, future))
        except asyncio.QueueFull as error:
            raise OverloadedError from error
        return await future

    async def run(self) -> None:
        """Answer queries until the task is cancelled."""
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
                answers = await loop.run_in_executor(self._executor, self._answer, queries)
            except Exception as error:
                for _, future in waiting:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(waiting, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
