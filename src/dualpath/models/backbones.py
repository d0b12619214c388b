"""Image backbones from timm: their preprocessing, creation and weights."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg
from timm.models.vgg import VGG
from torch import Tensor, nn

from dualpath.errors import BackboneError
from dualpath.models.layers import GridPool
from dualpath.recipes.encoders import ResolvedImageEncoder
from dualpath.recipes.schema import Recipe, ResolvedRecipe
from dualpath.utils.text import error_reason


def resolve_recipe(recipe: Recipe) -> ResolvedRecipe:
    """Fill in the preprocessing of the backbone where the recipe leaves it open.

    Raises:
        BackboneError: the backbone does not exist.
    """
    image = recipe.image_encoder
    config = _data_config(image.backbone)
    preprocessing = {
        "input_size": image.input_size or config["input_size"][-1],
        "mean": image.mean or config["mean"],
        "std": image.std or config["std"],
    }
    resolved = ResolvedImageEncoder.model_validate({**image.model_dump(), **preprocessing})
    values = {name: getattr(recipe, name) for name in Recipe.model_fields}
    return ResolvedRecipe.model_construct(**{**values, "image_encoder": resolved})


def _data_config(name: str) -> dict[str, Any]:
    """Return input size, mean and std that a backbone was trained with, from timm's records."""
    if not timm.is_model(name.split(".")[0]):
        close = difflib.get_close_matches(name, timm.list_models(), n=5)
        raise BackboneError(
            f"image_encoder.backbone: timm has no model '{name}'"
            + (f"; similar names: {', '.join(close)}" if close else "")
        )
    config = get_pretrained_cfg(name)
    resolved: dict[str, Any] = resolve_data_config(
        pretrained_cfg=config.to_dict() if config else {}
    )
    return resolved


class MultiFeature(nn.Sequential):
    """A timm network, the pooling of its last feature map, and the means of earlier maps."""

    def __init__(
        self, network: nn.Module, *pooling: nn.Module, feature_layers: Sequence[int]
    ) -> None:
        super().__init__(network, *pooling)
        self.feature_layers = tuple(feature_layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return features, (batch, width of the last map's cells and of all means)."""
        return self.pool(*self.feature_maps(x))

    def feature_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the output of the network (a map if it is to be pooled) and the earlier maps."""
        network: Any = self[0]
        if not self.feature_layers:
            return network(x), []
        last, earlier = network.forward_intermediates(x, indices=list(self.feature_layers))
        return network.forward_head(last), earlier

    def pool(self, last: Tensor, earlier: list[Tensor]) -> Tensor:
        """Pool the maps and concatenate them."""
        for module in list(self)[1:]:
            last = module(last)
        return torch.cat([last, *(one.mean(dim=(2, 3)) for one in earlier)], dim=1)


def create_backbone(
    name: str,
    *,
    pretrained: bool = False,
    weights: Path | None = None,
    grid: int = 1,
    feature_layers: Sequence[int] = (),
) -> tuple[nn.Module, int]:
    """Create a timm backbone that ends in pooled features; also return their number.

    Args:
        name: a timm model name.
        pretrained: load timm's weights from the Hugging Face hub.
        weights: load this file instead (timm's parameter names; safetensors or torch).
        grid: cells per side over which the last map is averaged; 1: the backbone's own pooling.
        feature_layers: earlier maps (indices of timm's ``forward_intermediates``; -1 is the last)
            whose means are added to the features.

    Raises:
        BackboneError: there is no such model or map, or its weights cannot be loaded.
    """
    backbone = _create(name, pretrained, weights, pooled=grid == 1)
    with torch.no_grad():
        size = resolve_data_config(model=backbone)["input_size"][-1]
        example = torch.zeros(1, 3, size, size)
        backbone.eval()
        if grid == 1 and not feature_layers:
            width = int(backbone(example).shape[1])
            return backbone.train(), width
        cells = (GridPool(grid), nn.Flatten()) if grid > 1 else ()
        multi = MultiFeature(backbone, *cells, feature_layers=feature_layers)
        try:
            last, earlier = multi.feature_maps(example)
        except (AssertionError, AttributeError, IndexError) as error:
            raise BackboneError(
                f"image_encoder.feature_layers: {name} has no intermediates "
                f"{list(feature_layers)} ({error_reason(error)})"
            ) from error
        if grid > 1 and last.ndim != 4:
            raise BackboneError(
                f"{name} has no two-dimensional feature map; set image_encoder.grid: 1"
            )
        features = multi.pool(last, earlier)
    return multi.train(), int(features.shape[1])


def _create(name: str, pretrained: bool, weights: Path | None, *, pooled: bool) -> nn.Module:
    try:
        backbone: nn.Module = timm.create_model(
            name,
            pretrained=pretrained and weights is None,
            num_classes=0,
            **({} if pooled else {"global_pool": ""}),
        )
        if weights is not None:
            # Weights of a classifier may be left over; those of the backbone must all be present.
            loaded = timm.models.load_checkpoint(backbone, str(weights), strict=False)
            _require_all(loaded.missing_keys)
        if isinstance(backbone, VGG):
            # The paper's feature is fc7 before its ReLU.
            backbone.pre_logits.act2 = nn.Identity()
    except Exception as error:  # timm and the hub client raise errors of their dependencies
        reason = error_reason(error)
        if weights is not None:
            message = f"{weights}: these weights do not fit {name} ({reason})"
        elif pretrained:
            message = (
                f"the weights of {name} cannot be downloaded ({reason}); give a local file with "
                "--set image_encoder.weights=FILE"
            )
        else:
            message = f"backbone '{name}' cannot be created ({reason})"
        raise BackboneError(message) from error
    return backbone


def _require_all(missing: Sequence[str]) -> None:
    if missing:
        raise ValueError(f"{len(missing)} tensors are missing, the first is {missing[0]}")
