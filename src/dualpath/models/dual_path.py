"""The dual path: an image CNN and a text CNN into one space."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualpath.models.image_cnn import ImageCNN, backbone_preprocessing, create_backbone
from dualpath.models.text_cnn import TextCNN
from dualpath.models.text_residual import ResidualTextCNN
from dualpath.models.text_transformer import TextTransformer, create_sentence_encoder
from dualpath.recipe import Recipe

_TRANSFORMER_HIDDEN = 1024  # of the head over a sentence encoder
_STRIDE = 32  # of the last map, in every ImageNet CNN of the paper


TextEncoder = TextCNN | ResidualTextCNN | TextTransformer


class DualPathNetwork(nn.Module):
    """Both encoders; ``dim`` numbers out of each."""

    def __init__(self, image_encoder: ImageCNN, text_encoder: TextEncoder) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder

    def forward(self, pictures: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of pictures, (n, dim), and of placed sentences, (m, dim)."""
        return self.image_encoder(pictures), self.text_encoder(token_ids)

    @torch.no_grad()
    def embed_pictures(self, *views: Tensor) -> Tensor:
        """Embed pictures as unit vectors, (n, dim): the mean direction of the given views.

        Each view is (n, 3, h, w) uint8 pixels or (n, backbone_dim) features; the paper adds a
        picture and its mirror image (section 5.1).
        """
        return F.normalize(torch.stack([self.image_encoder(view) for view in views]).sum(0))

    @torch.no_grad()
    def embed_sliding(self, *views: Tensor) -> Tensor:
        """Embed larger pictures as unit vectors, (n, dim), the network sliding over each view."""
        slid = [self.image_encoder.sliding_forward(view) for view in views]
        return F.normalize(torch.stack(slid).sum(0))

    @torch.no_grad()
    def embed_sentences(self, token_ids: Tensor, *, average: bool = True) -> Tensor:
        """Embed sentences as unit vectors, (m, dim).

        Args:
            token_ids: (m, words) int64, left-aligned; or kept features of a sentence encoder.
            average: add the features of every placement (paper, section 5.1); else left-aligned.
        """
        if not isinstance(self.text_encoder, TextCNN):
            return F.normalize(self.text_encoder(token_ids))
        if not average:
            starts = torch.zeros(len(token_ids), dtype=torch.int64, device=token_ids.device)
            return F.normalize(self.text_encoder(self.text_encoder.place(token_ids, starts)))
        placed, owners = self.text_encoder.place_everywhere(token_ids)
        features = self.text_encoder(placed)
        summed = features.new_zeros(len(token_ids), features.shape[1])
        return F.normalize(summed.index_add_(0, owners, features))


def complete_recipe(recipe: Recipe) -> Recipe:
    """Fill in the preprocessing of the backbone where the recipe leaves it open."""
    image = recipe.image_encoder
    size, mean, std = backbone_preprocessing(image.backbone)
    completed = image.model_copy(
        update={
            "input_size": image.input_size or size,
            "mean": image.mean or mean,
            "std": image.std or std,
        }
    )
    return recipe.model_copy(update={"image_encoder": completed})


def build_network(
    recipe: Recipe, embedding_rows: int, *, load_backbone: bool = False
) -> DualPathNetwork:
    """Build the network of a recipe.

    Args:
        embedding_rows: rows of the word table, padding included.
        load_backbone: load the backbone's pretrained weights, as the recipe says.
    """
    recipe = complete_recipe(recipe)
    image = recipe.image_encoder
    assert image.input_size is not None
    assert image.mean is not None
    assert image.std is not None
    backbone, backbone_dim = create_backbone(
        image.backbone,
        pretrained=load_backbone and image.pretrained,
        weights=image.weights if load_backbone else None,
        grid=image.grid,
        states=image.states,
    )
    return DualPathNetwork(
        ImageCNN(
            backbone,
            backbone_dim,
            recipe.dim,
            window=-(-image.input_size // _STRIDE),
            hidden=backbone_dim // image.grid**2,  # about as wide as the backbone's last map
            mean=image.mean,
            std=image.std,
            dropout=image.dropout,
            parts=recipe.parts,
        ),
        _text_encoder(recipe, embedding_rows, load=load_backbone),
    )


def _text_encoder(recipe: Recipe, embedding_rows: int, *, load: bool) -> TextEncoder:
    text = recipe.text_encoder
    if text.transformer is not None:
        backbone = create_sentence_encoder(text.transformer, load=load)
        return TextTransformer(
            backbone,
            recipe.dim,
            hidden=_TRANSFORMER_HIDDEN,
            states=text.states,
            dropout=text.dropout,
            parts=recipe.parts,
        )
    if text.trunk == "residual":
        return ResidualTextCNN(
            embedding_rows,
            embedding_dim=text.embedding_dim,
            dim=recipe.dim,
            channels=max(1, round(2048 * text.width)),
            layers=text.layers,
            pooling=text.pooling,
            dropout=text.dropout,
        )
    return TextCNN(
        embedding_rows,
        embedding_dim=text.embedding_dim,
        dim=recipe.dim,
        width=text.width,
        depths=text.depths,
        max_words=text.max_words,
        padding=text.padding,
        pooling=text.pooling,
    )
