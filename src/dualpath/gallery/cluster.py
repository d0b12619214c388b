"""Reading and embedding pictures on a Ray cluster; what comes back is written as always.

Ray Data hands pictures to as many workers as the cluster has CPUs (or GPUs), each with the model in
memory, and gives what a lost worker had to another one. A picture's row is written under its
id, whoever embedded it and however often, so a gallery holds each exactly once.
"""

import logging
import pickle
from collections.abc import Iterator
from itertools import islice
from typing import Any

import ray
import torch

from dualpath.data.pictures import PictureError
from dualpath.embedding import DualPath, load
from dualpath.gallery.adding import Read, Work, read
from dualpath.gallery.errors import GalleryError

_BATCH = 32
_ROUND = 100_000  # pictures handed over at once: what this process remembers


class _Embedder:
    """A worker: the model, and what it does to a batch of rows."""

    def __init__(self, source: str) -> None:
        if not torch.cuda.is_available():
            torch.set_num_threads(1)  # Ray counts a worker as one CPU
        self._model = load(source)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        outcomes = [read(pickle.loads(work), self._model) for work in batch["work"]]
        fresh = [one for one in outcomes if isinstance(one, Read) and one.rendered is not None]
        rendered = [one.rendered for one in fresh if one.rendered is not None]
        vectors = iter(self._model.embed_rendered(rendered))
        told = [
            one._replace(rendered=None, vector=next(vectors))
            if isinstance(one, Read) and one.rendered is not None
            else one
            for one in outcomes
        ]
        return {"place": batch["place"], "outcome": [pickle.dumps(one) for one in told]}


def read_on_ray(
    work: Iterator[Work], model: DualPath
) -> Iterator[tuple[Work, Read | PictureError | None]]:
    """Yield each picture with what became of it, in whatever order they are done.

    Joins the cluster of ``RAY_ADDRESS``, or starts one on this machine.

    Raises:
        GalleryError: the model is nowhere that workers could load it from.
    """
    if model.source is None:
        raise GalleryError("workers load the model from its bundle; save it and load it first")
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="warning")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the caller shows progress
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    workers = gpus or max(1, int(ray.cluster_resources().get("CPU", 1)) - 1)  # one CPU writes
    while chunk := list(islice(work, _ROUND)):
        yield from _round(chunk, model.source, workers, on_gpus=gpus > 0)


def _round(
    work: list[Work], source: str, workers: int, *, on_gpus: bool
) -> Iterator[tuple[Work, Read | PictureError | None]]:
    rows = [{"place": place, "work": pickle.dumps(one)} for place, one in enumerate(work)]
    done = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // _BATCH)).map_batches(
        _Embedder,
        fn_constructor_args=(source,),
        batch_size=_BATCH,
        num_cpus=None if on_gpus else 1,
        num_gpus=1 if on_gpus else None,
        concurrency=workers,
    )
    for row in done.iter_rows():
        yield work[row["place"]], pickle.loads(row["outcome"])
