"""What the measurements work on: captioned images of a folder, larger copies, models, words."""

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image

from dualpath.data.manifest import read_manifest
from dualpath.data.table import ImageTable
from dualpath.data.tokenizer import Tokenizer, count_words, modern_vocabulary
from dualpath.inference.model import DualPath
from dualpath.models.dual_encoder import build_network, resolve_recipe
from dualpath.recipes.loading import read_recipe
from dualpath.recipes.schema import Recipe

RECIPES = Path(__file__).parents[2] / "recipes"
IMAGE = (500, 375)  # pixels, as Flickr serves them
PHOTOGRAPH = (4000, 3000)  # as a telephone takes them


@dataclass(frozen=True)
class Material:
    """Images as JPEG files of the usual size in ``folder``, with the captions of ``data``."""

    data: Path
    folder: Path
    images: int = 256

    @cached_property
    def items(self) -> ImageTable:
        """Captioned training images of the folder."""
        items = read_manifest(self.data).split("train").items
        return items.where(items.caption_counts > 0)

    @cached_property
    def captions(self) -> list[str]:
        return list(self.items.captions)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(modern_vocabulary(count_words(self.captions, "modern"), 2), "modern", 32)

    @cached_property
    def files(self) -> list[Path]:
        """Copies of images at 500 x 375, JPEG quality 90."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return [
            self._copy(item.path, number) for number, item in enumerate(self.items[: self.images])
        ]

    def _copy(self, source: Path, number: int) -> Path:
        target = self.folder / f"{number}.jpg"
        with Image.open(source) as image:
            image.convert("RGB").resize(IMAGE).save(target, quality=90)
        return target

    def photograph(self) -> bytes:
        """One image at 4000 x 3000, as the bytes of a JPEG."""
        buffer = io.BytesIO()
        with Image.open(self.files[0]) as image:
            image.resize(PHOTOGRAPH).save(buffer, "JPEG", quality=90)
        return buffer.getvalue()

    def recipe(self, name: str, **image: object) -> Recipe:
        recipe = read_recipe(RECIPES / f"{name}.yaml")
        changed = recipe.image_encoder.model_copy(update={"pretrained": False, **image})
        text = recipe.text_encoder.model_copy(update={"word_vectors": None})
        return resolve_recipe(
            recipe.model_copy(update={"image_encoder": changed, "text_encoder": text})
        )

    def model(self, name: str, **image: object) -> DualPath:
        """A model of a recipe with random weights, ready to embed."""
        torch.manual_seed(0)
        recipe = self.recipe(name, **image)
        network = build_network(recipe, self.tokenizer.num_embeddings).eval()
        return DualPath(network, self.tokenizer, recipe, device="cpu")
