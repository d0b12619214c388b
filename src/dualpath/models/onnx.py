"""The encoders of a network as ONNX graphs, for inference without torch."""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dualpath.models.dual_encoder import DualEncoder
from dualpath.models.image_encoder import ImageEncoder
from dualpath.models.text.base import TextGraph
from dualpath.recipes.schema import ResolvedRecipe
from dualpath.utils.extras import needs_extra

_OPSET = 18
_MOST_BYTES = 1_900_000_000  # of weights in a file; the format ends at 2 GiB


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


def save_onnx(source: OnnxSource, path: Path, *, name: str | None = None) -> None:
    """Write the graph of a module.

    The weights of a graph that is larger than a file of ONNX may be are written to a second file
    beside it, ``<name>.data``.

    The graph is traced. torch's newer exporter gives equal results and takes thirty times as long
    for these networks (docs/design/decisions.md).

    Args:
        path: of the file.
        name: that the file gets afterwards, if it is another one.

    Raises:
        MissingPackageError: the graph is that large, and the package onnx is not installed.
    """
    weights = sum(p.numel() * p.element_size() for p in source.module.parameters())
    if weights < _MOST_BYTES:
        _trace(source, path)
        return
    with needs_extra("pretrained", f"a graph of {weights / 1e9:.1f} GB"):
        import onnx
    data = f"{name or path.name}.data"
    (path.parent / data).unlink(missing_ok=True)  # onnx appends
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # torch writes a file a tensor
        _trace(source, Path(folder) / "graph.onnx")
        graph = onnx.load(str(Path(folder) / "graph.onnx"))
        onnx.save_model(
            graph, str(path), save_as_external_data=True, location=data, size_threshold=1024
        )


def _trace(source: OnnxSource, path: Path) -> None:
    module, example, dynamic_dims = source
    with torch.no_grad(), _exportable_attention(module), warnings.catch_warnings():
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


@contextmanager
def _exportable_attention(module: nn.Module) -> Iterator[None]:
    """Let attention run as products and a softmax, since ONNX has no operator for fused kernels."""
    models: list[Any] = [m for m in module.modules() if hasattr(m, "set_attn_implementation")]
    fused = [getattr(model.config, "_attn_implementation", None) for model in models]
    log = logging.getLogger("transformers")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of towers that are alone in their model
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    for model in models:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for model, implementation in zip(models, fused, strict=True):
            model.set_attn_implementation(implementation or "eager")
        log.setLevel(level)
