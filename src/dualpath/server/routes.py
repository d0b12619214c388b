"""The routes of the API."""

from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, HTTPException, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import StringConstraints

from dualpath.data.json_values import parse_json
from dualpath.errors import ImageError
from dualpath.gallery.schema import GalleryImage, Hit
from dualpath.server.access import COOKIE, AccessControl
from dualpath.server.images import thumbnail
from dualpath.server.schemas import (
    ClassifyResponse,
    ErrorResponse,
    GalleryResponse,
    ImageResponse,
    RowHit,
    SearchResponse,
    SessionRequest,
    search_response,
)
from dualpath.server.service import Service
from dualpath.types import DEFAULT_TOP
from dualpath.utils.text import error_reason

_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorResponse} for code in (400, 401, 403, 404, 413, 415, 422, 429, 503)
}


# These dependencies are coroutines, because FastAPI runs a plain function in another thread.
async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _access(request: Request) -> AccessControl:
    access: AccessControl = request.app.state.access
    return access


async def _require_read(request: Request) -> None:
    _access(request).require_read(request)


async def _require_write(request: Request) -> FilePath:
    """Admit a request that writes, and return the folder of uploads."""
    _access(request).require_write(request)
    uploads = (await _service(request)).uploads
    if uploads is None:
        raise HTTPException(403, "the gallery is read-only; start the server with --uploads")
    return uploads


def _image(service: "ServiceParameter", id: "ImageId") -> GalleryImage:
    image = service.gallery.get(id)
    if image is None:
        raise HTTPException(404, "no such image")
    return image


ServiceParameter = Annotated[Service, Depends(_service)]
UploadFolder = Annotated[FilePath, Depends(_require_write)]
ImageId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="Id of an image.")]
ImageParameter = Annotated[GalleryImage, Depends(_image)]
Top = Annotated[int, Query(ge=1, le=500, description="Number of images.")]
Where = Annotated[
    str | None,
    Query(max_length=2000, description="Filter, such as colour = 'red' and year >= 2020."),
]
MinProbability = Annotated[
    float | None,
    Query(ge=0, le=1, description="Hide images that are less likely than this to fit."),
]
LabelText = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Upload = Annotated[bytes, File(description="An image file.")]
reader, writer = [Depends(_require_read)], [Depends(_require_write)]

searching = APIRouter(tags=["search"], responses=_ERRORS)
items = APIRouter(tags=["items"], responses=_ERRORS)
probes = APIRouter(tags=["server"])


@searching.get("/search", dependencies=reader, response_model=SearchResponse)
async def search(
    service: ServiceParameter,
    q: Annotated[str, Query(min_length=1, max_length=1000, description="A sentence.")],
    top: Top = DEFAULT_TOP,
    where: Where = None,
    min_probability: MinProbability = None,
) -> Response:
    """Search for the images that fit a sentence."""
    return await _response(service, await service.search_by_text(q, top, where, min_probability))


@searching.post("/search/image", dependencies=reader, response_model=SearchResponse)
async def search_image(
    service: ServiceParameter, file: Upload, top: Top = DEFAULT_TOP, where: Where = None
) -> Response:
    """Search for images that are similar to an uploaded image, which is not stored."""
    return await _response(service, await service.search_by_image(file, top, where))


@searching.post("/classify", dependencies=reader)
async def classify(
    service: ServiceParameter,
    file: Upload,
    labels: Annotated[
        list[LabelText], Form(min_length=1, max_length=900, description="Labels, such as dog.")
    ],
    templates: Annotated[
        list[LabelText] | None,
        Form(max_length=20, description="Prompts with {} for the label; several are averaged."),
    ] = None,
    top: Annotated[int, Query(ge=1, le=100, description="Number of labels.")] = 5,
) -> ClassifyResponse:
    """Return the most probable labels of an uploaded image, which is not stored."""
    return await service.classify(file, labels, templates, top)


@searching.get("/items/{id}/similar", dependencies=reader, response_model=SearchResponse)
async def similar(
    service: ServiceParameter, image: ImageParameter, top: Top = DEFAULT_TOP, where: Where = None
) -> Response:
    """Search for images that are similar to an image of the gallery."""
    hits = await run_in_threadpool(service.gallery.similar, image.id, top=top, where=where)
    return await _response(service, hits)


@searching.get("/about", dependencies=reader)
def about(service: ServiceParameter) -> GalleryResponse:
    """Describe the gallery and the fields that filters can use."""
    return service.describe()


@searching.post("/session", status_code=204)
def begin_session(request: Request, session: SessionRequest) -> Response:
    """Exchange an API key for a cookie, with which the web page can read the gallery."""
    _access(request).check_key(request, session.key)
    response = Response(status_code=204)
    if _access(request).requires_key:
        response.set_cookie(
            COOKIE,
            session.key,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
    return response


@items.get("/items/{id}", dependencies=reader)
def get_item(image: ImageParameter) -> ImageResponse:
    """Return the captions and the metadata of an image."""
    return ImageResponse.from_image(image)


@items.get(
    "/items/{id}/image",
    dependencies=reader,
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}},
)
def get_image(
    service: ServiceParameter,
    image: ImageParameter,
    size: Annotated[int, Query(ge=16, le=2048, description="Longer side in pixels.")] = 1024,
) -> Response:
    """Return an image as JPEG, upright, without the metadata of its file."""
    try:
        content = thumbnail(image.path, size, service.gallery.info.roots)
    except ImageError as error:
        raise HTTPException(404, "the image file is missing or broken") from error
    return Response(content, 200, {"Cache-Control": "private, max-age=600"}, "image/jpeg")


@items.post("/items", status_code=201)
async def add_item(
    service: ServiceParameter,
    uploads: UploadFolder,
    file: Upload,
    captions: Annotated[list[str] | None, Form(description="Captions of the image.")] = None,
    metadata: Annotated[str, Form(description="A JSON object.")] = "{}",
) -> ImageResponse:
    """Store an image and index it. If it is indexed already, replace its captions and metadata."""
    try:
        fields = parse_json(metadata)
    except ValueError as error:
        raise HTTPException(422, f"metadata: {error_reason(error)}") from error
    if not isinstance(fields, dict):
        raise HTTPException(422, "metadata: must be a JSON object")
    texts = [caption.strip() for caption in captions or [] if caption.strip()]
    return ImageResponse.from_image(await service.add(file, uploads, texts, fields))


@items.delete("/items/{id}", dependencies=writer, status_code=204)
async def remove_item(service: ServiceParameter, image: ImageParameter) -> Response:
    """Remove an image. The file is deleted only if it was uploaded."""
    await service.remove(image)
    return Response(status_code=204)


@probes.get("/healthz")
def healthz() -> dict[str, str]:
    """Return a status while the server runs."""
    return {"status": "ok"}


@probes.get("/readyz", responses={503: {"model": ErrorResponse}})
def readyz(service: ServiceParameter) -> dict[str, str]:
    """Return whether the server is warm and can reach its store."""
    if not service.ready:
        raise HTTPException(503, "warming up")
    len(service.gallery)
    return {"status": "ready"}


@probes.get("/metrics", dependencies=reader, response_class=Response, responses=_ERRORS)
def metrics(request: Request) -> Response:
    """Return metrics for Prometheus."""
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4")


async def _response(service: Service, hits: Sequence[Hit | RowHit]) -> Response:
    content = search_response(hits, await service.total())
    return Response(content, media_type="application/json")
