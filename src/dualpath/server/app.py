"""The application: routes of the API and of the page, over one gallery."""

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from dualpath.errors import FieldError, FilterError, GalleryError, ImageError
from dualpath.gallery.gallery import Gallery
from dualpath.server.access import Access, Keys
from dualpath.server.batching import OverloadedError
from dualpath.server.metrics import Metrics, MetricsMiddleware
from dualpath.server.routes import items, probes, searching
from dualpath.server.security import SecurityMiddleware
from dualpath.server.service import Service

WEB = Path(__file__).with_name("web")
log = logging.getLogger("dualpath.server")


@dataclass(frozen=True)
class Settings:
    """How a gallery is served.

    Attributes:
        keys: who may ask; none: everybody.
        hosts: names the server answers to; none: any.
        uploads: folder for images that are sent to be indexed; none: nothing can be changed.
        rate: requests that one client may send, as "3000/minute".
        max_bytes: longest body. max_pixels: largest image that is sent.
    """

    keys: Keys | None = None
    hosts: frozenset[str] | None = None
    uploads: Path | None = None
    rate: str = "3000/minute"
    max_bytes: int = 20 * 2**20
    max_pixels: int = 40_000_000


def create_app(gallery: Gallery, settings: Settings) -> FastAPI:
    """Build the application over a gallery that was opened with its model.

    Raises:
        GalleryError: the gallery has no model.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ThreadPoolExecutor(1, "compute") as compute:
            service = Service(gallery, compute, metrics, settings.uploads, settings.max_pixels)
            app.state.service = service
            tasks = [asyncio.create_task(work) for work in service.background()]
            yield
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    assert gallery.model, "searching needs a model"
    app = FastAPI(
        title="DualPath",
        description="Search images by sentence or by image.",
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
    )
    app.state.access = Access(settings.keys, settings.rate)
    app.state.metrics = metrics
    app.include_router(searching, prefix="/v1")
    app.include_router(items, prefix="/v1")
    app.include_router(probes, prefix="/v1")
    app.include_router(probes, include_in_schema=False)
    app.mount("/assets", StaticFiles(directory=WEB), name="assets")

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(WEB / "index.html", headers={"Cache-Control": "no-cache"})

    _tell_errors(app)
    app.add_middleware(SecurityMiddleware, hosts=settings.hosts, max_bytes=settings.max_bytes)
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    return app


def _tell_errors(app: FastAPI) -> None:
    """Answer errors with one line that shows neither paths nor traces."""

    @app.exception_handler(FilterError)
    @app.exception_handler(FieldError)
    async def unfit(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(ImageError)
    async def no_image(_: Request, error: ImageError) -> JSONResponse:
        log.info("%s", error)
        return JSONResponse(
            {"detail": "not an image that can be read (JPEG, PNG, WebP, BMP, GIF, TIFF)"}, 415
        )

    @app.exception_handler(GalleryError)
    async def unusable(_: Request, error: GalleryError) -> JSONResponse:
        log.error("%s", error)
        return JSONResponse(
            {"detail": "the gallery cannot be used just now; see the server's log"}, 503
        )

    @app.exception_handler(OverloadedError)
    async def overloaded(_: Request, __: OverloadedError) -> JSONResponse:
        return JSONResponse(
            {"detail": "too many queries at once; try again"}, 503, {"Retry-After": "1"}
        )

    @app.exception_handler(RequestValidationError)
    async def bad_request(_: Request, error: RequestValidationError) -> JSONResponse:
        details = [f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors()]
        return JSONResponse({"detail": "; ".join(details)[:500]}, 422)
