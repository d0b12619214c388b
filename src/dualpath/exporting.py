"""Export the image path of a bundle to another runtime, checked against torch."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dualpath.bundle import find_bundle
from dualpath.data.items import Items
from dualpath.data.manifest import read_manifest
from dualpath.data.pictures import PictureError, read_picture
from dualpath.embedding import DualPath, load
from dualpath.evaluation.evaluate import evaluate
from dualpath.models.image_cnn import ImageCNN
from dualpath.runtimes import (
    Exported,
    Precision,
    Runtime,
    open_engine,
    read_exports,
    write_exports,
)

_CALIBRATION = 512  # training pictures that set the ranges of int8
_BATCH = 16
_LOWEST_COSINE = 0.999  # of fp32 with torch
_RECALL_LOSS = 0.5  # points of R@1 that int8 may cost


class ExportError(ValueError):
    """An export that cannot be made, or that is not what torch computes."""


class _Images(nn.Module):
    """The image path as one function of pixels, (n, 3, h, w) uint8."""

    def __init__(self, encoder: ImageCNN, *, slides: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self._slides = slides

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = (
            self.encoder.sliding_forward(pixels) if self._slides else self.encoder(pixels)
        )
        return features


def export(
    bundle: str | Path,
    data: str | Path,
    *,
    runtime: Runtime = "openvino",
    precision: Precision = "fp32",
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write the image path of a bundle for another runtime into the bundle.

    Args:
        bundle: folder of a trained model.
        data: a folder with a manifest. Training pictures set the ranges of int8 and are what
            features are compared on; the validation split shows what int8 costs.
        runtime: ``openvino`` or ``onnxruntime``.
        precision: ``fp32``, or ``int8``: weights and activations of 8 bits, by static quantisation.
        say: called with what is done and measured.

    Raises:
        BundleError, ManifestError: a folder cannot be read.
        ExportError: packages are missing, or what was exported strays too far from torch (then
            nothing is written).
    """
    folder = find_bundle(bundle)
    model = load(folder, device="cpu", runtime="torch")
    manifest = read_manifest(Path(data), model.recipe.split, model.recipe.seed)
    rendered = _rendered(model, manifest.split("train").items)
    name = f"image_encoder.{precision}.{'onnx' if runtime == 'onnxruntime' else 'xml'}"
    with tempfile.TemporaryDirectory(dir=folder, prefix="export-") as scratch:
        written = Path(scratch) / "written" / name
        written.parent.mkdir()
        say(f"converting for {runtime}, {precision}")
        try:
            _convert(model, rendered, runtime, precision, written)
        except ImportError as error:
            raise ExportError(f"{error.name} is missing: pip install 'dualpath[export]'") from error
        converted = DualPath(
            model.network, model.tokenizer, model.recipe, device="cpu", engine=open_engine(written)
        )
        cosine, speedup = _compare(model, converted, rendered)
        say(f"lowest cosine with torch {cosine:.5f}, {speedup:.2f} x its pictures a second")
        if precision == "int8":
            _check_recall(model, converted, data, Path(scratch), say)
        elif cosine < _LOWEST_COSINE:
            raise ExportError(
                f"{folder}: {runtime} computes something else than torch (cosine {cosine:.4f}); "
                "nothing was written"
            )
        exported = Exported(runtime, precision, name, model.fingerprint, cosine, speedup)
        others = [one for one in read_exports(folder) if one.file != name]
        for file in written.parent.iterdir():  # OpenVINO keeps weights beside the network
            file.replace(folder / file.name)
    write_exports(folder, [*others, exported])
    return exported


def _rendered(model: DualPath, items: Items) -> list[Tensor]:
    """Render evenly spread pictures as the network sees them, each (views, 3, h, w) uint8."""
    spread = np.unique(np.linspace(0, len(items) - 1, min(len(items), _CALIBRATION), dtype=int))
    rendered = []
    for number in spread:
        path = items[int(number)].path
        try:
            rendered.append(model.render(model.decode(read_picture(path), str(path))))
        except PictureError:
            continue  # one picture more or less sets no range
    if not rendered:
        raise ExportError("no sound training picture to set ranges by and to compare on")
    return rendered


def _convert(
    model: DualPath, rendered: list[Tensor], runtime: Runtime, precision: Precision, path: Path
) -> None:
    import onnx

    shorter_side = model.recipe.image_encoder.test_size
    free = {0: torch.export.Dim("pictures")}
    if shorter_side is not None:
        free[2] = torch.export.Dim("height", min=shorter_side)
        free[3] = torch.export.Dim("width", min=shorter_side)
    program = torch.onnx.export(
        _Images(model.network.image_encoder, slides=shorter_side is not None).eval(),
        (rendered[0][:1].repeat(2, 1, 1, 1),),
        dynamo=True,
        dynamic_shapes=(free,),
        input_names=["pixels"],
        output_names=["features"],
        verbose=False,
    )
    assert program is not None
    batches = [views[:1].numpy() for views in rendered]
    if runtime == "onnxruntime":
        network: Any = program.model_proto
        if precision == "int8":
            network = _quantise(network, [{"pixels": batch} for batch in batches])
        onnx.save(network, str(path))
        return
    import openvino

    source = path.parent.with_name("source.onnx")
    onnx.save(program.model_proto, str(source))
    network = openvino.convert_model(source)
    if precision == "int8":
        network = _quantise(network, batches)
    openvino.save_model(network, path, compress_to_fp16=False)


def _quantise(network: Any, batches: list[Any]) -> Any:
    import nncf

    return nncf.quantize(network, nncf.Dataset(batches), subset_size=len(batches))


def _compare(model: DualPath, converted: DualPath, rendered: list[Tensor]) -> tuple[float, float]:
    """Return the lowest cosine with torch's vectors, and how many times faster it is."""
    cosines, ratios = [], []
    for start in range(0, len(rendered), _BATCH):
        batch, moments, vectors = rendered[start : start + _BATCH], [time.perf_counter()], []
        for one in (model, converted):
            vectors.append(one.embed_rendered(batch))
            moments.append(time.perf_counter())
        cosines.append(float((vectors[0] * vectors[1]).sum(axis=1).min()))
        ratios.append((moments[1] - moments[0]) / (moments[2] - moments[1]))
    return min(cosines), statistics.median(ratios)


def _check_recall(
    model: DualPath, converted: DualPath, data: str | Path, cache: Path, say: Callable[[str], None]
) -> None:
    """Compare R@1 of the validation split; one query may always be lost."""
    before, after = (
        evaluate(one, data, split="val", cache=cache / str(number))
        for number, one in enumerate((model, converted))
    )
    for direction in ("image_to_text", "text_to_image"):
        recall = [metrics[direction]["recall_at_1"] for metrics in (before, after)]
        say(f"{direction.replace('_', ' ')} R@1: torch {recall[0]:.2f}, int8 {recall[1]:.2f}")
        one_query = 100 / before["images" if direction == "image_to_text" else "captions"]
        if recall[0] - recall[1] > max(_RECALL_LOSS, 1.01 * one_query):
            raise ExportError(
                f"int8 costs {recall[0] - recall[1]:.2f} points of R@1 ({direction}), at most "
                f"{_RECALL_LOSS} are allowed; nothing was written, take --precision fp32"
            )
