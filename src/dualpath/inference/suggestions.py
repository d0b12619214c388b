"""Pretrained image-text models that suit a beginning."""

from typing import NamedTuple


class SuggestedModel(NamedTuple):
    """A model of the Hugging Face hub.

    Attributes:
        name: on the hub.
        use: what it suits.
        megabytes: of the download.
        licence: of the weights, as their authors state it.
    """

    name: str
    use: str
    megabytes: int
    licence: str

    def __str__(self) -> str:
        return f"{self.name} ({self.use}, {self.megabytes:,} MB, {self.licence})"


SUGGESTED = (
    SuggestedModel("openai/clip-vit-base-patch32", "small, English", 605, "MIT"),
    SuggestedModel("google/siglip2-base-patch16-224", "multilingual", 1501, "Apache-2.0"),
    SuggestedModel("google/siglip2-so400m-patch14-384", "best, slow", 4544, "Apache-2.0"),
)


def suggestions() -> str:
    """Return the suggested models for a message."""
    return "; ".join(str(model) for model in SUGGESTED)
