"""Exporting the encoders of a bundle to another runtime, checked against torch."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dualpath.data.images import read_image_bytes
from dualpath.data.manifest import read_manifest
from dualpath.data.table import ImageTable
from dualpath.errors import ExportError, ImageError
from dualpath.evaluation.evaluate import evaluate
from dualpath.evaluation.metrics import RetrievalMetrics
from dualpath.evaluation.protocols import EvaluationResult
from dualpath.exporting.convert import convert
from dualpath.inference.bundle import find_bundle
from dualpath.inference.encoders import Encoders
from dualpath.inference.model import DualPath, load
from dualpath.inference.runtimes import (
    ExportedEncoder,
    Precision,
    Runtime,
    read_exports,
    write_exports,
)
from dualpath.models.onnx import image_source, text_source
from dualpath.types import IntArray, Pixels, Vectors

_CALIBRATION_IMAGES = 512  # training images that set the ranges of int8
_COMPARED_CAPTIONS = 128
_BATCH = 16  # images
_LOWEST_COSINE = 0.999  # of fp32 features with torch's
_RECALL_LOSS = 0.5  # points of R@1 that int8 may cost

Log = Callable[[str], None]


def export(
    bundle: str | Path,
    data: str | Path,
    *,
    runtime: Runtime = "openvino",
    precision: Precision = "fp32",
    log: Log = lambda _: None,
) -> list[ExportedEncoder]:
    """Write the encoders of a bundle for another runtime into the bundle.

    A trained bundle has both encoders for ONNX Runtime in single precision already. The text
    encoder is always fp32.

    Args:
        bundle: folder of a trained model.
        data: a folder with a manifest. Training images set the ranges of int8; features of training
            images and captions are compared; the validation split shows the loss by int8.
        runtime: ``openvino`` or ``onnxruntime``.
        precision: ``fp32``, or ``int8``: 8-bit weights and activations of the image encoder by
            static quantisation.
        log: called with lines about what is done and measured.

    Raises:
        BundleError, ManifestError: a folder cannot be read.
        ExportError: packages are missing, or the exported features differ too much from torch's
            (then nothing is written).
    """
    folder = find_bundle(bundle)
    model = load(folder, device="cpu", runtime="torch")
    manifest = read_manifest(Path(data), model.recipe.split, model.recipe.seed)
    images = manifest.split("train").images
    suffix = "onnx" if runtime == "onnxruntime" else "xml"
    with tempfile.TemporaryDirectory(dir=folder, prefix="export-") as scratch:
        written = Path(scratch) / "written"
        written.mkdir()
        log(f"converting for {runtime}, {precision}")
        try:
            image = written / f"image_encoder.{precision}.{suffix}"
            exported = [_export_image_encoder(model, images, runtime, precision, image, log)]
            if precision == "int8":
                converted = _converted(model, exported[0], image)
                _check_recall(model, converted, data, Path(scratch), log)
            text = written / f"text_encoder.fp32.{suffix}"
            exported.append(_export_text_encoder(model, images, runtime, text, log))
        except ImportError as error:
            raise ExportError(f"{error.name} is missing: pip install 'dualpath[export]'") from error
        names = [encoder.file for encoder in exported]
        others = [encoder for encoder in read_exports(folder) if encoder.file not in names]
        for file in written.iterdir():  # OpenVINO writes weights to a second file
            file.replace(folder / file.name)
    write_exports(folder, [*others, *exported])
    return exported


def _export_image_encoder(
    model: DualPath,
    images: ImageTable,
    runtime: Runtime,
    precision: Precision,
    path: Path,
    log: Log,
) -> ExportedEncoder:
    pixels = _preprocess_some(model, images)
    calibration = [views[:1] for views in pixels] if precision == "int8" else []
    convert(image_source(model.network, model.recipe), runtime, calibration, path)
    exported = ExportedEncoder(runtime, precision, path.name, model.fingerprint, 0.0, None)
    converted = _converted(model, exported, path)
    batches = [pixels[i : i + _BATCH] for i in range(0, len(pixels), _BATCH)]
    cosine, speedup = _compare(model.embed_pixels, converted.embed_pixels, batches)
    log(f"images: lowest cosine with torch {cosine:.5f}, {speedup:.2f} x as fast")
    if precision == "fp32":
        _check_cosine(cosine, runtime)
    return replace(exported, cosine=cosine, speedup=speedup)


def _export_text_encoder(
    model: DualPath, images: ImageTable, runtime: Runtime, path: Path, log: Log
) -> ExportedEncoder:
    source, positions = text_source(model.network, model.recipe)
    convert(source, runtime, [], path)
    exported = ExportedEncoder(
        runtime,
        "fp32",
        path.name,
        model.fingerprint,
        0.0,
        None,
        encoder="text_encoder",
        placed_positions=positions,
    )
    converted = _converted(model, exported, path)
    captions = [
        [caption]
        for number in _spread(images, _COMPARED_CAPTIONS)
        for caption in images[int(number)].captions[:1]
    ]
    cosine, speedup = _compare(model.embed_texts, converted.embed_texts, captions)
    log(f"texts: lowest cosine with torch {cosine:.5f}, {speedup:.2f} x as fast")
    _check_cosine(cosine, runtime)
    return replace(exported, cosine=cosine, speedup=speedup)


def _converted(model: DualPath, exported: ExportedEncoder, path: Path) -> DualPath:
    """Return the model with one encoder replaced by the exported one."""
    encoders = Encoders(
        model.recipe,
        network=model.network,
        device="cpu",
        folder=path.parent,
        exported={exported.encoder: exported},
    )
    return DualPath(encoders, model.tokenizer, model.recipe)


def _spread(images: ImageTable, count: int) -> IntArray:
    """Return the numbers of at most ``count`` evenly spaced images."""
    return np.unique(np.linspace(0, len(images) - 1, min(len(images), count), dtype=np.int64))


def _preprocess_some(model: DualPath, images: ImageTable) -> list[Pixels]:
    """Return the views of evenly spaced images, each (views, 3, h, w) uint8."""
    pixels = []
    for number in _spread(images, _CALIBRATION_IMAGES):
        path = images[int(number)].path
        try:
            pixels.append(model.preprocess(model.decode(read_image_bytes(path), str(path))))
        except ImageError:
            continue  # one image more or less does not change a range
    if not pixels:
        raise ExportError("no training image can be decoded, so there is nothing to compare")
    return pixels


def _compare(
    embed: Callable[[Any], Vectors], converted: Callable[[Any], Vectors], batches: Sequence[Any]
) -> tuple[float, float]:
    """Return the lowest cosine between the results of both, and the median speedup."""
    cosines, ratios = [], []
    for batch in batches:
        moments, vectors = [time.perf_counter()], []
        for function in (embed, converted):
            vectors.append(function(batch))
            moments.append(time.perf_counter())
        cosines.append(float((vectors[0] * vectors[1]).sum(axis=1).min()))
        ratios.append((moments[1] - moments[0]) / (moments[2] - moments[1]))
    return min(cosines), statistics.median(ratios)


def _check_cosine(cosine: float, runtime: Runtime) -> None:
    if cosine < _LOWEST_COSINE:
        raise ExportError(
            f"{runtime} computes other features than torch (cosine {cosine:.4f}); nothing was "
            "written"
        )


def _check_recall(
    model: DualPath, converted: DualPath, data: str | Path, cache: Path, log: Log
) -> None:
    """Compare R@1 on the validation split; one query may always be lost."""
    before, after = (
        evaluate(one, data, split="val", cache=cache / str(number))
        for number, one in enumerate((model, converted))
    )
    for direction, queries in (
        ("image to text", before.images),
        ("text to image", before.captions),
    ):
        recalls = [_direction(result, direction).recall_at_1 for result in (before, after)]
        log(f"{direction} R@1: torch {recalls[0]:.2f}, int8 {recalls[1]:.2f}")
        one_query = 100 / queries
        if recalls[0] - recalls[1] > max(_RECALL_LOSS, 1.01 * one_query):
            raise ExportError(
                f"int8 costs {recalls[0] - recalls[1]:.2f} points of R@1 ({direction}), at most "
                f"{_RECALL_LOSS} are allowed; nothing was written, use --precision fp32"
            )


def _direction(result: EvaluationResult, direction: str) -> RetrievalMetrics:
    if direction == "image to text" and result.image_to_text is not None:
        return result.image_to_text
    return result.text_to_image
