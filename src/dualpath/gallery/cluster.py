"""Reading and embedding pictures on a Ray cluster, and writing them where many may write at once.

Ray Data hands pictures to as many workers as the cluster has CPUs (or GPUs), each with the model in
memory, and gives what a lost worker had to another one. A picture's row is written under its
id, whoever embedded it and however often, so a gallery holds each exactly once.
"""

import logging
import pickle
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import ray
import torch

from dualpath.embedding import DualPath, load
from dualpath.gallery.adding import Outcome, Read, Work, Written, embed_captions, read, write
from dualpath.gallery.errors import GalleryError
from dualpath.gallery.filters import Field
from dualpath.gallery.gallery import Gallery
from dualpath.gallery.store import open_store

_BATCH = 32
_ROUND = 100_000  # pictures handed over at once: what this process remembers


class _Embedder:
    """A worker: the model, and what it does to a batch of rows.

    Args:
        source: of the model.
        address: of the gallery it writes to; none: what it embeds is given back.
    """

    def __init__(self, source: str, address: str | None, fields: Mapping[str, Field]) -> None:
        if not torch.cuda.is_available():
            torch.set_num_threads(1)  # Ray counts a worker as one CPU
        self._model = load(source)
        self._store = None if address is None else open_store(address)
        self._fields = fields

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        outcomes: list[Outcome] = [read(pickle.loads(work), self._model) for work in batch["work"]]
        found = [one for one in outcomes if isinstance(one, Read)]
        if self._store is not None:
            write(self._store, self._fields, self._model, found)
            done: Iterator[Outcome] = iter([Written()] * len(found))
        else:
            done = iter(_embedded(self._model, found))
        told = [next(done) if isinstance(one, Read) else one for one in outcomes]
        return {"place": batch["place"], "outcome": [pickle.dumps(one) for one in told]}


def _embedded(model: DualPath, found: list[Read]) -> list[Read]:
    rendered = [one.rendered for one in found if one.rendered is not None]
    vectors = iter(model.embed_rendered(rendered))
    captions = embed_captions(model, found)
    return [
        Read(
            one.picture,
            None,
            None if one.rendered is None else next(vectors),
            captions[one.picture.id],
        )
        for one in found
    ]


def read_on_ray(work: Iterator[Work], gallery: Gallery) -> Iterator[tuple[Work, Outcome]]:
    """Yield each picture with what became of it, in whatever order they are done.

    Joins the cluster of ``RAY_ADDRESS``, or starts one on this machine.

    Raises:
        GalleryError: the model is nowhere that workers could load it from.
    """
    source = gallery.model.source
    if source is None:
        raise GalleryError("workers load the model from its bundle; save it and load it first")
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="warning")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the caller shows progress
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    workers = gpus or max(1, int(ray.cluster_resources().get("CPU", 1)) - 1)  # one CPU for this
    address = gallery.address if gallery.store.many_writers else None
    arguments = (source, address, gallery.filled.fields)
    while chunk := list(islice(work, _ROUND)):
        yield from _round(chunk, arguments, workers, on_gpus=gpus > 0)


def _round(
    work: list[Work], arguments: tuple[Any, ...], workers: int, *, on_gpus: bool
) -> Iterator[tuple[Work, Outcome]]:
    rows = [{"place": place, "work": pickle.dumps(one)} for place, one in enumerate(work)]
    done = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // _BATCH)).map_batches(
        _Embedder,
        fn_constructor_args=arguments,
        batch_size=_BATCH,
        num_cpus=None if on_gpus else 1,
        num_gpus=1 if on_gpus else None,
        concurrency=workers,
    )
    for row in done.iter_rows():
        yield work[row["place"]], pickle.loads(row["outcome"])
