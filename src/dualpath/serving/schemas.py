"""What the API answers."""

from typing import Any

from pydantic import BaseModel

from dualpath.gallery.rows import Hit, Picture


class Item(BaseModel):
    """A picture. ``name`` is its place in the folder it was indexed from."""

    id: str
    name: str
    width: int
    height: int
    captions: list[str]
    metadata: dict[str, Any]
    image: str

    @classmethod
    def of(cls, picture: Picture) -> "Item":
        """Tell of a picture what a client may know; not where it lies on disk."""
        return cls(**_told(picture))


class Found(Item):
    """A picture found; ``score`` is the cosine with the query.

    ``probability``: that it fits the sentence; null for pictures and models without calibration.
    """

    score: float
    probability: float | None

    @classmethod
    def of_hit(cls, hit: Hit) -> "Found":
        """Tell of a hit."""
        return cls(**_told(hit.picture), score=hit.score, probability=hit.probability)


class Results(BaseModel):
    """Pictures, best first. ``total``: the pictures in the gallery."""

    hits: list[Found]
    total: int


class Value(BaseModel):
    """A value of a field, and how many pictures have it."""

    value: str | float | bool
    count: int


class FieldValues(BaseModel):
    """A field with few different values, to filter by."""

    name: str
    kind: str
    values: list[Value]


class About(BaseModel):
    """The gallery. ``fields``: every field a filter may name, with its kind."""

    pictures: int
    model: str
    writable: bool
    calibrated: bool
    fields: dict[str, str]
    facets: list[FieldValues]


class Problem(BaseModel):
    """What is wrong, in one line."""

    detail: str


class Session(BaseModel):
    """A key to look at the page with."""

    key: str


def _told(picture: Picture) -> dict[str, Any]:
    return {
        "id": picture.id,
        "name": picture.name,
        "width": picture.width,
        "height": picture.height,
        "captions": list(picture.captions),
        "metadata": dict(picture.metadata),
        "image": f"/v1/items/{picture.id}/image",
    }
