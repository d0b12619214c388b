"""What the suite measures on: images of a folder, larger copies of them, models, vocabulary."""

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dualpath.data.manifest import read_manifest
from dualpath.data.table import ImageTable
from dualpath.data.tokenizer import Tokenizer, count_words, modern_vocabulary
from dualpath.inference.model import DualPath
from dualpath.models.backbones import resolve_recipe
from dualpath.models.dual_encoder import build_network
from dualpath.recipes.loading import read_recipe
from dualpath.recipes.schema import ResolvedRecipe

COPY_SIZE = (500, 375)  # pixels, as Flickr serves images
PHOTOGRAPH_SIZE = (4000, 3000)  # as a phone takes them


@dataclass(frozen=True)
class Material:
    """Captioned images, and copies of them as JPEG files of the usual size.

    Attributes:
        data: a folder with a manifest. folder: for the copies.
        count: number of copies.
    """

    data: Path
    folder: Path
    count: int = 256

    @cached_property
    def images(self) -> ImageTable:
        """The captioned training images."""
        images = read_manifest(self.data).split("train").images
        return images.filter(images.caption_counts > 0)

    @cached_property
    def captions(self) -> list[str]:
        """All their captions."""
        return list(self.images.captions)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """A tokenizer with the words of the captions."""
        return Tokenizer(modern_vocabulary(count_words(self.captions, "modern"), 2), "modern", 32)

    @cached_property
    def files(self) -> list[Path]:
        """Copies of the first images at 500 x 375, JPEG quality 90."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return [
            self._copy(image.path, number) for number, image in enumerate(self.images[: self.count])
        ]

    def _copy(self, source: Path, number: int) -> Path:
        target = self.folder / f"{number}.jpg"
        with Image.open(source) as image:
            image.convert("RGB").resize(COPY_SIZE).save(target, quality=90)
        return target

    def photograph(self) -> bytes:
        """Return one image at 4000 x 3000, as the bytes of a JPEG file."""
        buffer = io.BytesIO()
        with Image.open(self.files[0]) as image:
            image.resize(PHOTOGRAPH_SIZE).save(buffer, "JPEG", quality=90)
        return buffer.getvalue()

    def recipe(self, name: str, **image_encoder: Any) -> ResolvedRecipe:
        """Return a shipped recipe without pretrained weights, with other keys of the encoder."""
        recipe = read_recipe(name)
        image = recipe.image_encoder.model_copy(update={"pretrained": False, **image_encoder})
        text = recipe.text_encoder.model_copy(update={"word_vectors": None})
        changed = recipe.model_copy(update={"image_encoder": image, "text_encoder": text})
        return resolve_recipe(changed)

    def model(self, name: str, **image_encoder: Any) -> DualPath:
        """Return a model of a shipped recipe with random weights."""
        torch.manual_seed(0)
        recipe = self.recipe(name, **image_encoder)
        network = build_network(recipe, self.tokenizer.num_embeddings).eval()
        return DualPath(network, self.tokenizer, recipe, device="cpu")
