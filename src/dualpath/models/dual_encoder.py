"""The two encoders together."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualpath.models.backbones import create_backbone
from dualpath.models.image_encoder import ImageEncoder
from dualpath.models.image_text.encoders import build_image_text_encoders
from dualpath.models.layers import average_sigma
from dualpath.models.text.base import TextEncoder, TextEncoderSpec
from dualpath.models.text.registry import build_text_encoder
from dualpath.recipes.encoders import IMAGE_TEXT
from dualpath.recipes.schema import ResolvedRecipe

_STRIDE = 32  # of the last feature map, in every ImageNet CNN of the paper


class DualEncoder(nn.Module):
    """An image encoder and a text encoder into one space."""

    def __init__(self, image_encoder: ImageEncoder, text_encoder: TextEncoder) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder

    def forward(self, images: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return features of images, (n, dim), and of augmented captions, (m, dim)."""
        return self.image_encoder(images), self.text_encoder(token_ids)

    @torch.no_grad()
    def embed_images(self, *views: Tensor) -> Tensor:
        """Return unit vectors of images, (n, dim): the mean direction of the given views.

        Each view is (n, 3, h, w) uint8 pixels or (n, backbone_dim) cached features. The paper adds
        an image and its mirror image (section 5.1).
        """
        return F.normalize(torch.stack([self.image_encoder(view) for view in views]).sum(0))

    @torch.no_grad()
    def embed_sliding(self, *views: Tensor) -> Tensor:
        """Return unit vectors of larger images, (n, dim); the network slides over each view."""
        features = [self.image_encoder.sliding_forward(view) for view in views]
        return F.normalize(torch.stack(features).sum(0))

    @torch.no_grad()
    def embed_texts(self, token_ids: Tensor, *, average: bool = True) -> Tensor:
        """Return unit vectors of captions, (m, dim).

        Args:
            token_ids: (m, words) int64, left-aligned; or cached features of a sentence encoder.
            average: add the features of all positions of a caption (paper, section 5.1).
        """
        return F.normalize(self.text_encoder.embed(token_ids, average=average))


def build_network(
    recipe: ResolvedRecipe,
    num_embeddings: int,
    *,
    load_pretrained: bool = False,
    folder: Path | None = None,
) -> DualEncoder:
    """Build the network of a recipe.

    Args:
        num_embeddings: rows of the word table, padding included.
        load_pretrained: load the pretrained weights that the recipe names.
        folder: a bundle to build the network for.

    Raises:
        BackboneError, TextEncoderError: an encoder cannot be built.
    """
    image = recipe.image_encoder
    if image.backbone == IMAGE_TEXT:
        return DualEncoder(*build_image_text_encoders(recipe, folder))
    backbone, backbone_dim = create_backbone(
        image.backbone,
        pretrained=load_pretrained and image.pretrained,
        weights=image.weights if load_pretrained else None,
        grid=image.grid,
        feature_layers=image.feature_layers,
    )
    image_encoder = ImageEncoder(
        backbone,
        backbone_dim,
        recipe.dim,
        window=-(-image.input_size // _STRIDE),
        hidden=backbone_dim // image.grid**2,  # about the width of the last feature map
        mean=image.mean,
        std=image.std,
        dropout=image.dropout,
        num_heads=recipe.num_heads,
    )
    spec = TextEncoderSpec(recipe, num_embeddings, load_pretrained, folder)
    network = DualEncoder(image_encoder, build_text_encoder(spec))
    if recipe.batch_norm == "paper":
        average_sigma(network)
    return network
