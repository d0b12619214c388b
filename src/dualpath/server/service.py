"""The state that the routes share: the gallery, its model, and the thread that searches."""

import asyncio
import gc
import logging
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from fastapi.concurrency import run_in_threadpool
from PIL import Image

from dualpath.errors import ClassificationError, FieldError, GalleryError, ImageError
from dualpath.gallery.derived.searcher import Found, VectorQuery
from dualpath.gallery.filters import Condition
from dualpath.gallery.gallery import Gallery
from dualpath.gallery.schema import GalleryImage, Hit, image_id
from dualpath.inference.zero_shot import DEFAULT_TEMPLATE, ZeroShotClassifier
from dualpath.server.batching import Batcher
from dualpath.server.images import decode_upload, save_upload
from dualpath.server.metrics import Metrics
from dualpath.server.schemas import (
    ClassifyResponse,
    FacetResponse,
    FacetValue,
    GalleryResponse,
    LabelResponse,
    RowHit,
)
from dualpath.types import Pixels, Vectors

if TYPE_CHECKING:
    from dualpath.inference.model import DualPath

_REFRESH_SECONDS = 30.0  # because other processes may add images
_MAX_FACET_VALUES = 20
_MAX_DECODING = 2  # uploads decoded at the same time, because each needs 3 bytes a pixel
_MAX_WAITING_IMAGES = 64
_CACHED_CLASSIFIERS = 16  # lists of labels
_MAX_WAITING_LABELS = 8  # lists of labels
_MAX_PROMPTS = 2_000  # of one request
log = logging.getLogger("dualpath.server")


_Labels = tuple[tuple[str, ...], tuple[str, ...]]  # labels and templates


def _try_classifier(
    model: "DualPath", labels: _Labels
) -> "ZeroShotClassifier | ClassificationError":
    """Return a classifier, or the error, which a batch must not raise for other requests."""
    try:
        return ZeroShotClassifier.from_labels(model, *labels)
    except ClassificationError as error:
        return error


class _TextQuery(NamedTuple):
    text: str
    top: int
    where: Condition | None


class Service:
    """A gallery that is served.

    Attributes:
        gallery: the gallery.
        uploads: the folder of uploaded images. None: the gallery cannot be changed.
        ready: whether the model and the store have been used once.
    """

    def __init__(
        self,
        gallery: Gallery,
        model: "DualPath",
        compute: Executor,
        metrics: Metrics,
        *,
        uploads: Path | None,
        max_pixels: int,
    ) -> None:
        self.gallery, self.uploads, self.ready = gallery, uploads, False
        self._model, self._compute, self._metrics = model, compute, metrics
        self._max_pixels = max_pixels
        observe = metrics.batch.observe
        self._search_texts: Batcher[_TextQuery, Found] = Batcher(
            self._answer_texts, compute, observe
        )
        self._embed_pixels: Batcher[Pixels, Vectors] = Batcher(
            model.embed_pixels, compute, observe, max_waiting=_MAX_WAITING_IMAGES
        )
        self._decoding = asyncio.Semaphore(_MAX_DECODING)
        # Clients ask with the same labels again and again.
        classifiers = lru_cache(_CACHED_CLASSIFIERS)(_try_classifier)
        self._embed_labels: Batcher[_Labels, ZeroShotClassifier | ClassificationError] = Batcher(
            lambda keys: [classifiers(model, key) for key in keys],
            compute,
            lambda _: None,
            max_batch=1,
            max_waiting=_MAX_WAITING_LABELS,
        )
        self._description: GalleryResponse | None = None
        self._describing = Lock()

    def background_tasks(self) -> list[Coroutine[Any, Any, None]]:
        """Return the tasks that run as long as the server."""
        return [
            self._search_texts.run(),
            self._embed_pixels.run(),
            self._embed_labels.run(),
            self._warm_up_and_refresh(),
        ]

    async def search_by_text(
        self, text: str, top: int, where: str | None, min_probability: float | None = None
    ) -> list[RowHit]:
        """Return the images nearest to a sentence; see :meth:`Gallery.search`."""
        condition = self.gallery.parse_filter(where)
        found = await self._search_texts(_TextQuery(text, top, condition))
        calibration = self._model.calibration
        if calibration is None:
            self.gallery.add_probabilities([], min_probability)  # refuses a minimum
            return [RowHit(row, score) for row, score in found]
        hits = (RowHit(row, score, calibration.probability(score)) for row, score in found)
        least = min_probability or 0.0
        return [hit for hit in hits if (hit.probability or 0.0) >= least]

    async def search_by_image(self, content: bytes, top: int, where: str | None) -> list[Hit]:
        """Return the images nearest to an uploaded image.

        Raises:
            ImageError: the upload is not an image, or too large.
        """
        self.gallery.parse_filter(where)
        vector = await self._embed_pixels(await self._preprocess(content))
        return await run_in_threadpool(self.gallery.search_vector, vector, top=top, where=where)

    async def classify(
        self, content: bytes, labels: Sequence[str], templates: Sequence[str] | None, top: int
    ) -> ClassifyResponse:
        """Return the most probable labels of an uploaded image.

        Raises:
            ImageError: the upload is not an image, or too large.
            ClassificationError: labels or templates cannot be used.
        """
        key = (tuple(labels), tuple(templates or (DEFAULT_TEMPLATE,)))
        if len(key[0]) * len(key[1]) > _MAX_PROMPTS:
            raise ClassificationError(
                f"labels times templates must be at most {_MAX_PROMPTS:,}; send fewer"
            )
        pixels = await self._preprocess(content)
        classifier = await self._embed_labels(key)
        if isinstance(classifier, ClassificationError):
            raise classifier
        vector = await self._embed_pixels(pixels)
        [scores] = classifier.classify(vector[None], top)
        return ClassifyResponse(labels=[LabelResponse(**one._asdict()) for one in scores])

    async def add(
        self, content: bytes, folder: Path, captions: Sequence[str], metadata: Mapping[str, Any]
    ) -> GalleryImage:
        """Write an uploaded image to a folder and index it.

        Raises:
            ImageError: the upload is not an image, or too large.
            FieldError: a value does not have the type of its field.
        """
        await self._preprocess(content)
        path = await run_in_threadpool(save_upload, content, folder)

        def index() -> GalleryImage:
            return self.gallery.add_image(path, captions=captions, metadata=metadata)

        try:
            added = await asyncio.get_running_loop().run_in_executor(self._compute, index)
        except (FieldError, ImageError):
            if await run_in_threadpool(self.gallery.get, image_id(path)) is None:
                path.unlink(missing_ok=True)
            raise
        self._description = None
        return added

    async def remove(self, image: GalleryImage) -> None:
        """Remove an image from the gallery. If it was uploaded, delete its file."""
        await run_in_threadpool(self.gallery.remove, image.id)
        if self.uploads is not None and image.path.parent == self.uploads:
            image.path.unlink(missing_ok=True)
        self._description = None

    async def total(self) -> int:
        """Return the number of images, as of the last call of :meth:`describe`."""
        description = self._description
        if description is None:
            description = await run_in_threadpool(self.describe)
        return description.images

    def describe(self) -> GalleryResponse:
        """Return a description of the gallery. It is cached until the gallery changes."""
        with self._describing:  # requests that wait for a description do not all compute it
            return self._description or self._refresh()

    def _refresh(self) -> GalleryResponse:
        """Describe the gallery again. Until this is done, requests get the earlier description."""
        description = self._description = self._describe()
        self._metrics.images.set(description.images)
        return description

    def _describe(self) -> GalleryResponse:
        self.gallery.refresh()
        info, count = self.gallery.info, len(self.gallery)
        facets = self.gallery.facets(_MAX_FACET_VALUES) if count else {}
        return GalleryResponse(
            images=count,
            model=info.name,
            writable=self.uploads is not None,
            calibrated=self._model.calibration is not None,
            fields={name: field.kind for name, field in info.fields.items()},
            facets=[
                FacetResponse(
                    name=name,
                    kind=info.fields[name].kind,
                    values=[FacetValue(value=value, count=n) for value, n in values],
                )
                for name, values in facets.items()
            ],
        )

    def _answer_texts(self, queries: Sequence[_TextQuery]) -> list[Found]:
        vectors = self._model.embed_texts([query.text for query in queries])
        return self.gallery.search_rows(
            [VectorQuery(v, q.top, q.where) for v, q in zip(vectors, queries, strict=True)]
        )

    async def _preprocess(self, content: bytes) -> Pixels:
        def preprocess() -> Pixels:
            return self._model.preprocess(decode_upload(content, self._max_pixels))

        async with self._decoding:
            return await run_in_threadpool(preprocess)

    async def _warm_up_and_refresh(self) -> None:
        """Use model and store once, because the first use is slow. Then refresh regularly."""
        await run_in_threadpool(self.gallery.prepare)
        await self._embed_pixels(self._model.preprocess(Image.new("RGB", (64, 64))))
        if await self.total():
            await self.search_by_text("warm-up", 1, None)
        else:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._compute, self._model.embed_texts, ["warm-up"])
        # The objects made until now live as long as the server. To search all of them for garbage
        # again and again would stop every request for half a second.
        gc.collect()
        gc.freeze()
        self.ready = True
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            try:
                await run_in_threadpool(self._refresh)
            except GalleryError as error:
                log.warning("%s", error)
