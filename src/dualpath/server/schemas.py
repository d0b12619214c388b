"""What the API answers."""

from typing import Any

from pydantic import BaseModel

from dualpath.gallery.schema import GalleryImage, Hit


class ImageResponse(BaseModel):
    """An image. ``name`` is its place in the folder it was indexed from."""

    id: str
    name: str
    width: int
    height: int
    captions: list[str]
    metadata: dict[str, Any]
    image: str

    @classmethod
    def of(cls, image: GalleryImage) -> "Item":
        """Tell of an image what a client may know; not where it lies on disk."""
        return cls(**_image_fields(image))


class HitResponse(ImageResponse):
    """An image found; ``score`` is the cosine with the query.

    ``probability``: that it fits the sentence; null for images and models without calibration.
    """

    score: float
    probability: float | None

    @classmethod
    def of_hit(cls, hit: Hit) -> "Found":
        """Tell of a hit."""
        return cls(**_image_fields(hit.image), score=hit.score, probability=hit.probability)


class SearchResponse(BaseModel):
    """Images, best first. ``total``: the images in the gallery."""

    hits: list[HitResponse]
    total: int


class FacetValue(BaseModel):
    """A value of a field, and how many images have it."""

    value: str | float | bool
    count: int


class FacetResponse(BaseModel):
    """A field with few different values, to filter by."""

    name: str
    kind: str
    values: list[FacetValue]


class GalleryResponse(BaseModel):
    """The gallery. ``fields``: every field a filter may name, with its kind."""

    images: int
    model: str
    writable: bool
    calibrated: bool
    fields: dict[str, str]
    facets: list[FacetResponse]


class ErrorResponse(BaseModel):
    """What is wrong, in one line."""

    detail: str


class SessionRequest(BaseModel):
    """A key to look at the page with."""

    key: str


def _image_fields(image: GalleryImage) -> dict[str, Any]:
    return {
        "id": image.id,
        "name": image.name,
        "width": image.width,
        "height": image.height,
        "captions": list(image.captions),
        "metadata": dict(image.metadata),
        "image": f"/v1/items/{image.id}/image",
    }
