"""The encoders of a network as ONNX graphs, for inference without torch."""

import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dualpath.models.dual_encoder import DualEncoder
from dualpath.models.image_encoder import ImageEncoder
from dualpath.models.text.base import TextGraph
from dualpath.recipes.schema import ResolvedRecipe

_OPSET = 18


class OnnxSource(NamedTuple):
    """What an ONNX graph is traced from.

    Attributes:
        module: a module with one input and one output.
        example: an input.
        dynamic_dims: the dimensions of the input that may differ from the example's, with names.
    """

    module: nn.Module
    example: Tensor
    dynamic_dims: dict[int, str]


class _PixelEncoder(nn.Module):
    """The image encoder as a function of pixels, (n, 3, h, w) uint8, to features, (n, dim)."""

    def __init__(self, encoder: ImageEncoder, *, slides: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self._slides = slides

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = (
            self.encoder.sliding_forward(pixels) if self._slides else self.encoder(pixels)
        )
        return features


class _Backbone(nn.Module):
    """The backbone as a function of pixels, (n, 3, h, w) uint8, to features, (n, backbone_dim)."""

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder.backbone_features(pixels)


def image_source(network: DualEncoder, recipe: ResolvedRecipe) -> OnnxSource:
    """Return the image encoder as a function of pixels, (n, 3, h, w) uint8, to (n, dim)."""
    image = recipe.image_encoder
    dynamic_dims = {0: "images"}
    if image.test_size is not None:
        dynamic_dims |= {2: "height", 3: "width"}
    module = _PixelEncoder(network.image_encoder, slides=image.test_size is not None)
    generator = torch.Generator().manual_seed(0)
    size = (2, 3, image.test_side, image.test_side)
    example = torch.randint(256, size, generator=generator, dtype=torch.uint8)
    return OnnxSource(module, example, dynamic_dims)


def backbone_source(encoder: ImageEncoder, size: int) -> OnnxSource:
    """Return the backbone as a function of pixels, (n, 3, size, size) uint8, to its features."""
    generator = torch.Generator().manual_seed(0)
    example = torch.randint(256, (2, 3, size, size), generator=generator, dtype=torch.uint8)
    return OnnxSource(_Backbone(encoder), example, {0: "images"})


def text_source(network: DualEncoder, recipe: ResolvedRecipe) -> tuple[OnnxSource, int | None]:
    """Return the text encoder as a function of token ids, (n, positions) int64, to (n, dim).

    Returns:
        The source, and :attr:`TextGraph.placed_positions`.
    """
    average = recipe.text_encoder.position_shift
    graph: TextGraph = network.text_encoder.export_module(average=average)
    positions = graph.placed_positions or 4
    example = torch.ones(2, positions, dtype=torch.int64)
    example[1, positions // 2 :] = 0
    dynamic_dims = {0: "texts"} if graph.placed_positions else {0: "texts", 1: "positions"}
    return OnnxSource(graph.module, example, dynamic_dims), graph.placed_positions


def save_onnx(source: OnnxSource, path: Path) -> None:
    """Write the graph of a module.

    The graph is traced. torch's newer exporter gives equal results and takes thirty times as long
    for these networks (docs/design/decisions.md).
    """
    module, example, dynamic_dims = source
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing; the results are compared with torch's
        torch.onnx.export(
            module.eval(),
            (example.to(next(module.parameters()).device),),
            str(path),
            dynamo=False,
            opset_version=_OPSET,
            input_names=["batch"],
            output_names=["features"],
            dynamic_axes={"batch": dynamic_dims, "features": {0: dynamic_dims[0]}},
        )
