"""Indexing on a Ray cluster.

Ray Data starts one worker for each CPU (or GPU) of the cluster, and each worker loads the model. If
a worker is lost, another one gets its images. Rows are upserted by id, so retries never create
duplicates.
"""

import logging
import pickle
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import ray

from dualpath.errors import GalleryError
from dualpath.gallery.filters import Field
from dualpath.gallery.indexing import Indexer
from dualpath.gallery.pipeline import (
    IndexResult,
    IndexTask,
    PreparedImage,
    RemoteResult,
    embed_captions,
    try_prepare,
    write_images,
)
from dualpath.gallery.stores.factory import open_store
from dualpath.inference.model import DualPath, load
from dualpath.inference.runtimes import has_gpu, limit_threads

_BATCH = 32  # images
_ROUND = 100_000  # images that are handed to Ray at once and held in the memory of this process


class _WorkerArguments(NamedTuple):
    """What a worker needs.

    Attributes:
        source: of the model.
        address: of the gallery that the worker writes to. None: it returns what it has embedded.
        fields: the metadata fields of the gallery.
    """

    source: str
    address: str | None
    fields: Mapping[str, Field]


class EmbeddingWorker:
    """A process of the cluster that prepares, embeds and perhaps writes batches of images."""

    def __init__(self, arguments: _WorkerArguments) -> None:
        if not has_gpu():
            limit_threads(1)  # Ray reserves one CPU for a worker
        self._model = load(arguments.source)
        self._store = None if arguments.address is None else open_store(arguments.address)
        self._fields = arguments.fields

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        results: list[IndexResult] = [
            try_prepare(pickle.loads(task), self._model) for task in batch["task"]
        ]
        prepared = [result for result in results if isinstance(result, PreparedImage)]
        if self._store is not None:
            write_images(self._store, self._fields, self._model, prepared)
            finished: Iterator[IndexResult] = iter([RemoteResult()] * len(prepared))
        else:
            finished = iter(_embed(self._model, prepared))
        complete = [next(finished) if isinstance(r, PreparedImage) else r for r in results]
        return {"place": batch["place"], "result": [pickle.dumps(one) for one in complete]}


def run_on_ray(
    indexer: Indexer, tasks: Iterator[IndexTask]
) -> Iterator[tuple[IndexTask, IndexResult]]:
    """Process images on a cluster and yield each with its result, in any order.

    Connects to the cluster of the environment variable ``RAY_ADDRESS``, or starts one on this
    machine. If the store allows parallel writers, the workers also write the images.

    Raises:
        GalleryError: the model was not loaded from a bundle, so workers cannot load it.
    """
    source = indexer.model.source
    if source is None:
        raise GalleryError("the workers load the model from a bundle; save the model and load it")
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="warning")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the caller shows progress
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    cpus = int(ray.cluster_resources().get("CPU", 1))
    workers = gpus or max(1, cpus - 1)  # one CPU is for this process
    address = indexer.address if indexer.store.allows_parallel_writers else None
    arguments = _WorkerArguments(source, address, indexer.info.fields)
    while chunk := list(islice(tasks, _ROUND)):
        yield from _run_round(chunk, arguments, workers, on_gpus=gpus > 0)


def _run_round(
    tasks: list[IndexTask], arguments: _WorkerArguments, workers: int, *, on_gpus: bool
) -> Iterator[tuple[IndexTask, IndexResult]]:
    rows = [{"place": place, "task": pickle.dumps(task)} for place, task in enumerate(tasks)]
    results = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // _BATCH)).map_batches(
        EmbeddingWorker,
        fn_constructor_args=(arguments,),
        batch_size=_BATCH,
        num_cpus=None if on_gpus else 1,
        num_gpus=1 if on_gpus else None,
        concurrency=workers,
    )
    for row in results.iter_rows():
        yield tasks[row["place"]], pickle.loads(row["result"])


def _embed(model: DualPath, prepared: list[PreparedImage]) -> list[PreparedImage]:
    """Replace the pixels of images by their vectors, and add the vectors of their captions."""
    vectors = iter(model.embed_pixels([p.pixels for p in prepared if p.pixels is not None]))
    caption_vectors = embed_captions(model, prepared)
    return [
        PreparedImage(
            one.image,
            pixels=None,
            vector=None if one.pixels is None else next(vectors),
            caption_vectors=caption_vectors[one.image.id],
        )
        for one in prepared
    ]
