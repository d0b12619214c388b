"""The routes of the API."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, HTTPException, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from dualpath.errors import ImageError
from dualpath.gallery.schema import GalleryImage
from dualpath.server.access import COOKIE, Access
from dualpath.server.images import thumbnail
from dualpath.server.schemas import (
    ErrorResponse,
    GalleryResponse,
    HitResponse,
    ImageResponse,
    SearchResponse,
    SessionRequest,
)
from dualpath.server.service import Service

_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorResponse} for code in (400, 401, 403, 404, 413, 415, 422, 429, 503)
}


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _access(request: Request) -> Access:
    access: Access = request.app.state.access
    return access


def _read(request: Request) -> None:
    _access(request).read(request)


def _write(request: Request) -> None:
    _access(request).write(request)
    if _service(request).uploads is None:
        raise HTTPException(403, "nothing can be changed here; start the server with --uploads")


def _item(service: "Shared", item: "Id") -> GalleryImage:
    image = service.gallery.get(item)
    if image is None:
        raise HTTPException(404, "no such image")
    return image


Shared = Annotated[Service, Depends(_service)]
Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
Top = Annotated[int, Query(ge=1, le=500, description="Images to find.")]
Where = Annotated[
    str | None, Query(max_length=2000, description="Filter, as colour = 'red' and year >= 2020.")
]
Likely = Annotated[
    float | None, Query(ge=0, le=1, description="Leave out what is less likely to fit.")
]
Named = Annotated[GalleryImage, Depends(_item)]
reader, writer = [Depends(_read)], [Depends(_write)]

searching = APIRouter(tags=["search"], responses=_ERRORS)
items = APIRouter(tags=["items"], responses=_ERRORS)
probes = APIRouter(tags=["server"])


@searching.get("/search", dependencies=reader)
async def search(
    service: Shared,
    q: Annotated[str, Query(min_length=1, max_length=1000, description="A sentence.")],
    top: Top = 20,
    where: Where = None,
    min_probability: Likely = None,
) -> SearchResponse:
    """Find the images that fit a sentence."""
    return await _results(service, await service.search_by_text(q, top, where, min_probability))


@searching.post("/search/image", dependencies=reader)
async def search_image(
    service: Shared,
    file: Annotated[bytes, File(description="An image.")],
    top: Top = 20,
    where: Where = None,
) -> SearchResponse:
    """Find the images that look like one that is sent; it is not kept."""
    return await _results(service, await service.search_by_image(file, top, where))


@searching.get("/items/{item}/similar", dependencies=reader)
async def similar(
    service: Shared, image: Named, top: Top = 20, where: Where = None
) -> SearchResponse:
    """Find the images that look like one of the gallery."""
    try:
        hits = await run_in_threadpool(service.gallery.similar, image.id, top=top, where=where)
    except KeyError as error:  # removed this moment
        raise HTTPException(404, "no such image") from error
    return await _results(service, hits)


@searching.get("/about", dependencies=reader)
def about(service: Shared) -> GalleryResponse:
    """Describe the gallery and what it can be filtered by."""
    return service.about()


@searching.post("/session", status_code=204)
def begin_session(request: Request, session: SessionRequest) -> Response:
    """Let the page of this browser look at the gallery with a key."""
    _access(request).check(request, session.key)
    response = Response(status_code=204)
    if not _access(request).open:
        response.set_cookie(
            COOKIE,
            session.key,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
    return response


@items.get("/items/{item}", dependencies=reader)
def get_item(image: Named) -> ImageResponse:
    """Return an image's captions and metadata."""
    return ImageResponse.of(image)


@items.get(
    "/items/{item}/image",
    dependencies=reader,
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}},
)
def get_image(
    service: Shared,
    image: Named,
    size: Annotated[int, Query(ge=16, le=2048, description="Longer side in pixels.")] = 1024,
) -> Response:
    """Return an image as JPEG, upright, without the file's own metadata."""
    try:
        content = thumbnail(image.path, size, service.gallery.info.roots)
    except ImageError as error:
        raise HTTPException(404, "the image's file is gone or broken") from error
    return Response(content, 200, {"Cache-Control": "private, max-age=600"}, "image/jpeg")


@items.post("/items", dependencies=writer, status_code=201)
async def add_item(
    service: Shared,
    file: Annotated[bytes, File(description="An image.")],
    captions: Annotated[list[str] | None, Form(description="Sentences about it.")] = None,
    metadata: Annotated[str, Form(description="A JSON object.")] = "{}",
) -> ImageResponse:
    """Keep an image and index it; the same image again replaces captions and metadata."""
    try:
        fields = json.loads(metadata)
    except ValueError as error:
        raise HTTPException(422, "metadata: not valid JSON") from error
    if not isinstance(fields, dict):
        raise HTTPException(422, "metadata: is a JSON object")
    kept = [caption.strip() for caption in captions or [] if caption.strip()]
    return ImageResponse.of(await service.add(file, kept, fields))


@items.delete("/items/{item}", dependencies=writer, status_code=204)
async def remove_item(service: Shared, image: Named) -> Response:
    """Remove an image. Files of indexed folders stay; the next indexing finds them again."""
    await service.remove(image)
    return Response(status_code=204)


@probes.get("/healthz")
def healthz() -> dict[str, str]:
    """Tell that the server runs."""
    return {"status": "ok"}


@probes.get("/readyz", responses={503: {"model": ErrorResponse}})
def readyz(service: Shared) -> dict[str, str]:
    """Tell whether queries are answered: warm, and the store can be reached."""
    if not service.ready:
        raise HTTPException(503, "warming up")
    len(service.gallery)
    return {"status": "ready"}


@probes.get("/metrics", dependencies=reader, response_class=Response, responses=_ERRORS)
def metrics(request: Request) -> Response:
    """Return counts for Prometheus."""
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4")


async def _results(service: Service, hits: list[Any]) -> SearchResponse:
    details = service.known
    if details is None:
        details = await run_in_threadpool(service.about)
    return SearchResponse(hits=[HitResponse.of_hit(hit) for hit in hits], total=details.images)
