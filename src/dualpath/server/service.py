"""What the routes share: the gallery, and the one thread that computes."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import torch
from fastapi.concurrency import run_in_threadpool
from PIL import Image

from dualpath.errors import FieldError, GalleryError
from dualpath.gallery.gallery import Gallery
from dualpath.gallery.schema import GalleryImage, Hit, image_id
from dualpath.server.batching import Batcher
from dualpath.server.images import decode_upload, keep_upload
from dualpath.server.metrics import Metrics
from dualpath.server.schemas import FacetResponse, FacetValue, GalleryResponse

_LOOK_EVERY = 30.0  # seconds, as other processes may fill the gallery
_MOST_VALUES = 20
log = logging.getLogger("dualpath.server")
_DECODING = 2  # uploads decoded at a time, as each takes three bytes a pixel


class Service:
    """A gallery being served.

    Attributes:
        ready: whether everything has been used once.
        uploads: the folder for new images; none: nothing can be changed.
    """

    def __init__(
        self,
        gallery: Gallery,
        compute: Executor,
        metrics: Metrics,
        uploads: Path | None,
        max_pixels: int,
    ) -> None:
        self.gallery, self.uploads, self.ready = gallery, uploads, False
        self._compute, self._metrics, self._max_pixels = compute, metrics, max_pixels
        observe = metrics.batch.observe
        self._sentences: Batcher[str] = Batcher(gallery.model.embed_texts, compute, observe)
        self._images: Batcher[torch.Tensor] = Batcher(
            gallery.model.embed_pixels, compute, observe, waiting=64
        )
        self._decoding = asyncio.Semaphore(_DECODING)
        self._about: GalleryResponse | None = None

    def background(self) -> list[Coroutine[Any, Any, None]]:
        """Return what runs beside the requests."""
        return [self._sentences.run(), self._images.run(), self._keep_up()]

    async def search_by_text(
        self, sentence: str, top: int, where: str | None, min_probability: float | None = None
    ) -> list[Hit]:
        """Find images for a sentence."""
        self.gallery.condition(where)
        vector = await self._sentences(sentence)
        search = self.gallery.search_vector
        hits = await run_in_threadpool(search, vector, top=top, where=where)
        return self.gallery.add_probabilities(hits, min_probability)

    async def search_by_image(self, content: bytes, top: int, where: str | None) -> list[Hit]:
        """Find images for an image that was sent, or raise ``ImageError``."""
        self.gallery.condition(where)
        vector = await self._images(await self._render(content))
        return await run_in_threadpool(self.gallery.search_vector, vector, top=top, where=where)

    async def add(self, content: bytes, captions: Sequence[str], metadata: Any) -> GalleryImage:
        """Keep and index an image that was sent."""
        assert self.uploads is not None, "checked by the route"
        await self._render(content)
        path = await run_in_threadpool(keep_upload, content, self.uploads)

        def index() -> GalleryImage:
            return self.gallery.add_image(path, captions=captions, metadata=metadata)

        try:
            added = await asyncio.get_running_loop().run_in_executor(self._compute, index)
        except FieldError:
            if not await run_in_threadpool(self._holds, path):
                path.unlink(missing_ok=True)
            raise
        self._about = None
        return added

    async def remove(self, image: GalleryImage) -> None:
        """Remove an image, and its file if it was sent."""
        await run_in_threadpool(self.gallery.remove, image.id)
        if self.uploads is not None and image.path.parent == self.uploads:
            image.path.unlink(missing_ok=True)
        self._about = None

    @property
    def known(self) -> GalleryResponse | None:
        """What :meth:`about` found when it last looked, if that still holds."""
        return self._about

    def about(self) -> GalleryResponse:
        """Describe the gallery as it was when it was last looked at."""
        if self._about is None:
            self.gallery.refresh()
            info, count = self.gallery.info, len(self.gallery)
            facets = self.gallery.facets(_MOST_VALUES) if count else {}
            self._about = GalleryResponse(
                images=count,
                model=info.name,
                writable=self.uploads is not None,
                calibrated=self.gallery.model.calibration is not None,
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
            self._metrics.images.set(count)
        return self._about

    async def _render(self, content: bytes) -> torch.Tensor:
        def render() -> torch.Tensor:
            return self.gallery.model.render(decode_upload(content, self._max_pixels))

        async with self._decoding:
            return await run_in_threadpool(render)

    def _holds(self, path: Path) -> bool:
        return self.gallery.get(image_id(path)) is not None

    async def _keep_up(self) -> None:
        """Use every part once, as the first time takes longest; then look now and then."""
        vector = await self._sentences("warm-up")
        await self._images(self.gallery.model.render(Image.new("RGB", (64, 64))))
        if await run_in_threadpool(lambda: self.about().images):
            await run_in_threadpool(self.gallery.search_vector, vector, top=1)
        self.ready = True
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            self._about = None
            try:
                await run_in_threadpool(self.about)
            except GalleryError as error:
                log.warning("%s", error)
