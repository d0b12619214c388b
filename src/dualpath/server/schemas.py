"""The JSON of requests and responses."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import to_json

from dualpath.gallery.schema import GalleryImage, Hit, decode_json
from dualpath.gallery.stores.base import Row


class ImageResponse(BaseModel):
    """An image.

    ``name`` is its path in the indexed folder. ``image`` is the URL of the image as JPEG.
    """

    id: str
    name: str
    width: int
    height: int
    captions: list[str]
    metadata: dict[str, Any]
    image: str

    @classmethod
    def from_image(cls, image: GalleryImage) -> "ImageResponse":
        """Return what a client may see of an image, which excludes the path on disk."""
        return cls(**_image_fields(image))


class HitResponse(ImageResponse):
    """An image found by a search.

    ``score`` is the cosine similarity with the query. ``probability`` is the probability that the
    image fits the sentence; it is null if the query is an image or the model has no calibration.
    """

    score: float
    probability: float | None


class SearchResponse(BaseModel):
    """The images found, best first. ``total`` is the number of images in the gallery."""

    hits: list[HitResponse]
    total: int


class RowHit(NamedTuple):
    """An image found by a search, as a row of the image table.

    Attributes:
        row: of the image.
        score: cosine similarity with the query.
        probability: see :class:`HitResponse`.
    """

    row: Row
    score: float
    probability: float | None = None


def search_response(hits: Iterable[RowHit | Hit], total: int) -> bytes:
    """Return a :class:`SearchResponse` as JSON.

    Creating and validating a model of every hit would take longer than the search.
    """
    fields = [
        {
            **(_row_fields(hit.row) if isinstance(hit, RowHit) else _image_fields(hit.image)),
            "score": hit.score,
            "probability": hit.probability,
        }
        for hit in hits
    ]
    return to_json({"hits": fields, "total": total}, inf_nan_mode="null")


class LabelResponse(BaseModel):
    """A label of an image and its probability among the given labels."""

    label: str
    probability: float


class ClassifyResponse(BaseModel):
    """The most probable labels of an image, most probable first."""

    labels: list[LabelResponse]


class FacetValue(BaseModel):
    """A value of a field, and the number of images with it."""

    value: str | float | bool
    count: int


class FacetResponse(BaseModel):
    """A field with few different values."""

    name: str
    kind: str
    values: list[FacetValue]


class GalleryResponse(BaseModel):
    """A gallery. ``fields`` has the type of each metadata field that filters can use."""

    images: int
    model: str
    writable: bool
    calibrated: bool
    fields: dict[str, str]
    facets: list[FacetResponse]


class ErrorResponse(BaseModel):
    """An error in one line."""

    detail: str


class SessionRequest(BaseModel):
    """The API key for a session of the web page."""

    key: str


def _image_fields(image: GalleryImage) -> dict[str, Any]:
    return {
        "id": image.id,
        "name": image.name,
        "width": image.width,
        "height": image.height,
        "captions": image.captions,
        "metadata": image.metadata,
        "image": f"/v1/items/{image.id}/image",
    }


def _row_fields(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "width": row["width"],
        "height": row["height"],
        "captions": decode_json(row["captions"]),
        "metadata": decode_json(row["metadata"]),
        "image": f"/v1/items/{row['id']}/image",
    }
