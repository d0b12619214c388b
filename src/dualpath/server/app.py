"""The application: the routes of the API and the web page over one gallery."""

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from dualpath.errors import (
    ClassificationError,
    FieldError,
    FilterError,
    GalleryError,
    ImageError,
    UnknownImageError,
)
from dualpath.gallery.gallery import Gallery
from dualpath.server.access import AccessControl
from dualpath.server.batching import OverloadedError
from dualpath.server.metrics import Metrics, MetricsMiddleware
from dualpath.server.routes import items, probes, searching
from dualpath.server.security import SecurityMiddleware
from dualpath.server.service import Service
from dualpath.server.settings import Settings

_WEB = Path(__file__).with_name("web")
_MAX_DETAIL = 500  # characters of an error
log = logging.getLogger("dualpath.server")


def create_app(gallery: Gallery, settings: Settings) -> FastAPI:
    """Create the application.

    Use :func:`dualpath.server.server.serve` to run it, which also checks that a public server
    requires keys.

    Raises:
        GalleryError: the model of the gallery cannot be loaded.
    """
    metrics = Metrics()
    model = gallery.model  # loaded before the server starts
    uploads = _prepare_uploads(gallery, settings.uploads)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ThreadPoolExecutor(1, "compute") as compute:
            service = Service(
                gallery,
                model,
                compute,
                metrics,
                uploads=uploads,
                max_pixels=settings.max_pixels,
            )
            app.state.service = service
            tasks = [asyncio.create_task(work) for work in service.background_tasks()]
            yield
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    app = FastAPI(
        title="DualPath",
        description="Search images by sentence or by image.",
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # these pages load scripts from other servers
        redoc_url=None,
    )
    app.state.access = AccessControl(settings.keys, settings.rate)
    app.state.metrics = metrics
    app.include_router(searching, prefix="/v1")
    app.include_router(items, prefix="/v1")
    app.include_router(probes, prefix="/v1")
    app.include_router(probes, include_in_schema=False)
    app.mount("/assets", StaticFiles(directory=_WEB), name="assets")

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(_WEB / "index.html", headers={"Cache-Control": "no-cache"})

    _add_error_handlers(app)
    app.add_middleware(SecurityMiddleware, hosts=settings.hosts, max_bytes=settings.max_bytes)
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    return app


def _prepare_uploads(gallery: Gallery, folder: Path | None) -> Path | None:
    """Create the folder of uploads, and allow the gallery to show the images in it."""
    if folder is None:
        return None
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    gallery.add_root(folder)
    return folder


def _add_error_handlers(app: FastAPI) -> None:
    """Answer an error with one line that contains neither paths nor a traceback."""

    @app.exception_handler(ClassificationError)
    @app.exception_handler(FilterError)
    @app.exception_handler(FieldError)
    async def handle_bad_input(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(ImageError)
    async def handle_image_error(_: Request, error: ImageError) -> JSONResponse:
        log.info("%s", error)
        return JSONResponse(
            {"detail": "not an image that can be read (JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF)"}, 415
        )

    @app.exception_handler(UnknownImageError)
    async def handle_unknown_image(_: Request, __: UnknownImageError) -> JSONResponse:
        return JSONResponse({"detail": "no such image"}, 404)

    @app.exception_handler(GalleryError)
    async def handle_gallery_error(_: Request, error: GalleryError) -> JSONResponse:
        log.error("%s", error)
        return JSONResponse({"detail": "the gallery is not available; see the server's log"}, 503)

    @app.exception_handler(OverloadedError)
    async def handle_overload(_: Request, __: OverloadedError) -> JSONResponse:
        return JSONResponse(
            {"detail": "too many queries at once; try again"}, 503, {"Retry-After": "1"}
        )

    @app.exception_handler(RequestValidationError)
    async def handle_bad_request(_: Request, error: RequestValidationError) -> JSONResponse:
        details = [f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors()]
        return JSONResponse({"detail": "; ".join(details)[:_MAX_DETAIL]}, 422)
