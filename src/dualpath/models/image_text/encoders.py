"""The towers of a pretrained image-text model as image encoder and text encoder."""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from dualpath.errors import TextEncoderError
from dualpath.models.fingerprint import digest_weights
from dualpath.models.image_encoder import ImageEncoder
from dualpath.models.image_text.libraries import create_model, image_features, text_features
from dualpath.models.image_text.parts import keep_parts
from dualpath.models.image_text.spec import SPEC_FILE, ImageTextSpec, read_spec
from dualpath.models.text.base import TextEncoderSpec
from dualpath.models.text.pretrained import PretrainedTextEncoder
from dualpath.recipes.schema import ResolvedRecipe

_KEY_BYTES = 12
# The number of a layer in the names of parameters: transformers, open_clip, timm.
_LAYER = re.compile(r"\.(?:layers?|resblocks|blocks|stages)\.(\d+)\.")


class ImageTower(nn.Module):
    """The image half of a model: normalised pixels, (n, 3, h, w) float32, to (n, dim)."""

    def __init__(self, spec: ImageTextSpec, model: nn.Module) -> None:
        super().__init__()
        self._library = spec.library
        self.model = keep_parts(model, spec.image_parts)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return features, (n, dim)."""
        return image_features(self._library, self.model, pixels)


class TextTower(nn.Module):
    """The text half of a model: token ids as bundles have them to features, (n, dim)."""

    def __init__(self, spec: ImageTextSpec, model: nn.Module) -> None:
        super().__init__()
        self._spec = spec
        self.model = keep_parts(model, spec.text_parts)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return features, (n, dim).

        Args:
            token_ids: (n, positions) int64, ids of the model's tokenizer plus one; 0 is padding.
        """
        ids, mask = model_inputs(self._spec, token_ids)
        return text_features(
            self._spec.library, self.model, ids, mask if self._spec.attention_mask else None
        )


def model_inputs(spec: ImageTextSpec, token_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the token ids that a model expects and their mask, each (n, positions) int64."""
    if spec.pad_to_context:
        padding = token_ids.new_zeros(token_ids.shape[0], spec.context_length)
        token_ids = torch.cat([token_ids, padding], dim=1)[:, : spec.context_length]
    present = token_ids > 0
    if spec.pad_left:
        positions = torch.arange(spec.context_length, device=token_ids.device)
        sources = positions - (spec.context_length - present.sum(dim=1, keepdim=True))
        token_ids = token_ids.gather(1, sources.clamp(min=0))
        present = sources >= 0
    ids = torch.where(present, token_ids - 1, torch.full_like(token_ids, spec.padding_id))
    if not spec.pad_left:
        # An empty row would divide by zero where masked tokens count as nothing.
        first = torch.ones_like(present[:, :1])
        present = torch.cat([first, present[:, 1:]], dim=1)
    return ids, present.long()


class ImageTextImageEncoder(ImageEncoder):
    """The image tower. Its head is the identity, which fine-tuning may replace.

    Args:
        tower: normalised pixels to features.
        dim: number of features.
        mean, std: of RGB in [0, 1].
    """

    def __init__(
        self,
        tower: ImageTower,
        dim: int,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__(tower, dim, dim, window=1, hidden=1, mean=mean, std=std)
        self.head: nn.Module = nn.Identity()

    def layer_distances(self) -> dict[str, int]:
        """Return the number of layers between each parameter of the tower and its output."""
        return layer_distances(self.backbone)


class ImageTextEncoder(PretrainedTextEncoder):
    """The text tower. Its head is the identity, which fine-tuning may replace.

    Args:
        spec: of the model.
        tower: token ids to features.
        dim: number of features.
    """

    has_unused_parameters = True  # poolers, of which some architectures use no output

    def __init__(self, spec: ImageTextSpec, tower: TextTower, dim: int) -> None:
        super().__init__()
        self._spec = spec
        self.backbone = tower
        self.feature_dim = dim
        self.head: nn.Module = nn.Identity()

    @classmethod
    def from_recipe(cls, spec: TextEncoderSpec) -> "ImageTextEncoder":
        """Build the text tower of a bundle with random weights.

        Raises:
            TextEncoderError: there is no bundle.
        """
        if spec.folder is None:
            raise TextEncoderError(
                "text_encoder.trunk: image_text is the tower of a pretrained image-text model; "
                "write its bundle with: dualpath pretrained NAME --out FOLDER"
            )
        model = read_spec(spec.folder)
        return cls(model, TextTower(model, create_model(model)), spec.recipe.dim)

    def backbone_features(self, token_ids: Tensor) -> Tensor:
        """Return the features of the tower, (batch, dim)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            features: Tensor = self.backbone(token_ids)
        return features

    def feature_key(self) -> str:
        return digest_weights(self.backbone, size=_KEY_BYTES).hexdigest()

    def layer_distances(self) -> dict[str, int]:
        """Return the number of layers between each parameter of the tower and its output."""
        return layer_distances(self.backbone)

    @property
    def num_embeddings(self) -> int:
        tables = [m for m in self.backbone.modules() if isinstance(m, nn.Embedding)]
        return max(table.num_embeddings for table in tables) + 1

    def config_files(self) -> dict[str, str]:
        return {SPEC_FILE: self._spec.to_json()}


def build_image_text_encoders(
    recipe: ResolvedRecipe, folder: Path | None
) -> tuple[ImageTextImageEncoder, ImageTextEncoder]:
    """Build both towers of a bundle with random weights.

    Raises:
        TextEncoderError: there is no bundle, or a file of it is missing.
        MissingPackageError: the library of the model is not installed.
    """
    if folder is None:
        raise TextEncoderError(
            "image_encoder.backbone: image_text is the tower of a pretrained image-text model; "
            "write its bundle with: dualpath pretrained NAME --out FOLDER"
        )
    spec = read_spec(folder)
    return wrap_towers(spec, create_model(spec), recipe)


def wrap_towers(
    spec: ImageTextSpec, model: nn.Module, recipe: ResolvedRecipe
) -> tuple[ImageTextImageEncoder, ImageTextEncoder]:
    """Return both towers of a model as encoders; they share its weights."""
    image = recipe.image_encoder
    image_encoder = ImageTextImageEncoder(
        ImageTower(spec, model), recipe.dim, mean=image.mean, std=image.std
    )
    return image_encoder, ImageTextEncoder(spec, TextTower(spec, model), recipe.dim)


def layer_distances(tower: nn.Module) -> dict[str, int]:
    """Return the number of layers between each parameter of a tower and its output.

    Embeddings of patches, tokens and positions count as the layer before the first one. Parameters
    after the last layer (norms, poolers, projections) have distance 0, as those of the last layer.
    """
    numbers = {
        name: int(found.group(1)) if (found := _LAYER.search(name)) else None
        for name, _ in tower.named_parameters()
    }
    layers = max((n for n in numbers.values() if n is not None), default=0)
    seen_layer, distances = False, {}
    for name, number in numbers.items():
        seen_layer = seen_layer or number is not None
        if number is not None:
            distances[name] = layers - number
        else:
            first = "embed" in name or "conv1" in name or "stem" in name or not seen_layer
            distances[name] = layers + 1 if first else 0
    return distances
