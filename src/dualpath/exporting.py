"""Export the encoders of a bundle to another runtime, checked against torch."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dualpath.bundle import find_bundle
from dualpath.conversion import convert
from dualpath.data.items import Items
from dualpath.data.manifest import read_manifest
from dualpath.data.pictures import PictureError, read_picture
from dualpath.embedding import DualPath, load
from dualpath.evaluation.evaluate import evaluate
from dualpath.models.dual_path import TextEncoder
from dualpath.models.image_cnn import ImageCNN
from dualpath.models.text_cnn import PHASES, TextCNN
from dualpath.runtimes import (
    Encoder,
    Exported,
    Precision,
    Runtime,
    open_engine,
    read_exports,
    write_exports,
)
from dualpath.vectors import Vectors

_CALIBRATION = 512  # training pictures that set the ranges of int8
_SENTENCES = 128  # captions that the text path is compared on
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


class _Sentences(nn.Module):
    """The text path as one function of token ids, (n, positions) int64."""

    def __init__(self, encoder: TextEncoder, *, average: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self._placements = PHASES if average else 1

    def forward(self, token_ids: Tensor) -> Tensor:
        if not isinstance(self.encoder, TextCNN):
            features: Tensor = self.encoder(token_ids)
            return features
        starts = range(self._placements)
        placed = [
            self.encoder.place(token_ids, torch.full_like(token_ids[:, 0], i)) for i in starts
        ]
        features = self.encoder(torch.cat(placed))
        return features.view(self._placements, token_ids.shape[0], features.shape[1]).sum(dim=0)


def export(
    bundle: str | Path,
    data: str | Path,
    *,
    runtime: Runtime = "openvino",
    precision: Precision = "fp32",
    say: Callable[[str], None] = lambda _: None,
) -> list[Exported]:
    """Write the encoders of a bundle for another runtime into the bundle.

    The text path is always fp32, and left to torch where all placements in unmasked padding are
    averaged: torch computes once what they share, a fixed graph cannot.

    Args:
        bundle: folder of a trained model.
        data: a folder with a manifest. Training pictures set the ranges of int8 and are, with
            their captions, what features are compared on; the validation split shows what int8
            costs.
        runtime: ``openvino`` or ``onnxruntime``.
        precision: ``fp32``, or ``int8``: weights and activations of the image path of 8 bits, by
            static quantisation.
        say: called with what is done and measured.

    Raises:
        BundleError, ManifestError: a folder cannot be read.
        ExportError: packages are missing, or what was exported strays too far from torch (then
            nothing is written).
    """
    folder = find_bundle(bundle)
    model = load(folder, device="cpu", runtime="torch")
    items = read_manifest(Path(data), model.recipe.split, model.recipe.seed).split("train").items
    ending = "onnx" if runtime == "onnxruntime" else "xml"
    with tempfile.TemporaryDirectory(dir=folder, prefix="export-") as scratch:
        written = Path(scratch) / "written"
        written.mkdir()
        say(f"converting for {runtime}, {precision}")
        try:
            image = written / f"image_encoder.{precision}.{ending}"
            exported = [_export_images(model, items, runtime, precision, image, say)]
            if precision == "int8":
                _check_recall(
                    model, _converted(model, "image_encoder", image), data, Path(scratch), say
                )
            text = written / f"text_encoder.fp32.{ending}"
            exported += _export_sentences(model, items, runtime, text, say)
        except ImportError as error:
            raise ExportError(f"{error.name} is missing: pip install 'dualpath[export]'") from error
        names = [one.file for one in exported]
        others = [one for one in read_exports(folder) if one.file not in names]
        for file in written.iterdir():  # OpenVINO keeps weights beside the network
            file.replace(folder / file.name)
    write_exports(folder, [*others, *exported])
    return exported


def _export_images(
    model: DualPath,
    items: Items,
    runtime: Runtime,
    precision: Precision,
    path: Path,
    say: Callable[[str], None],
) -> Exported:
    rendered = _rendered(model, items)
    shorter_side = model.recipe.image_encoder.test_size
    free = {0: torch.export.Dim("pictures")}
    if shorter_side is not None:
        free[2] = torch.export.Dim("height", min=shorter_side)
        free[3] = torch.export.Dim("width", min=shorter_side)
    images = _Images(model.network.image_encoder, slides=shorter_side is not None)
    calibration = [views[:1].numpy() for views in rendered] if precision == "int8" else []
    convert(images, rendered[0][:1].repeat(2, 1, 1, 1), free, runtime, calibration, path)
    converted = _converted(model, "image_encoder", path)
    batches = [rendered[i : i + _BATCH] for i in range(0, len(rendered), _BATCH)]
    cosine, speedup = _compare(model.embed_rendered, converted.embed_rendered, batches)
    say(f"pictures: lowest cosine with torch {cosine:.5f}, {speedup:.2f} x as fast")
    if precision == "fp32":
        _check_cosine(cosine, runtime)
    return Exported(runtime, precision, path.name, model.fingerprint, cosine, speedup)


def _export_sentences(
    model: DualPath, items: Items, runtime: Runtime, path: Path, say: Callable[[str], None]
) -> list[Exported]:
    encoder, average = model.network.text_encoder, model.recipe.text_encoder.position_shift
    if isinstance(encoder, TextCNN) and average and not encoder.masked:
        say("sentences: left to torch, which shares what placements in unmasked padding share")
        return []
    free = {0: torch.export.Dim("sentences"), 1: torch.export.Dim("positions", min=2)}
    example = torch.tensor([[1, 2, 3], [2, 1, 0]])
    try:
        convert(_Sentences(encoder, average=average), example, free, runtime, [], path)
    except torch.onnx.errors.OnnxExporterError as error:  # a sentence encoder that it cannot follow
        reason = " ".join(str(error).split())[:150]
        say(f"sentences: left to torch, whose exporter cannot follow this encoder ({reason})")
        return []
    converted = _converted(model, "text_encoder", path)
    sentences = [[one] for n in _spread(items, _SENTENCES) for one in items[int(n)].captions[:1]]
    cosine, speedup = _compare(model.embed_texts, converted.embed_texts, sentences)
    say(f"sentences: lowest cosine with torch {cosine:.5f}, {speedup:.2f} x as fast")
    _check_cosine(cosine, runtime)
    fingerprint = model.fingerprint
    return [
        Exported(runtime, "fp32", path.name, fingerprint, cosine, speedup, encoder="text_encoder")
    ]


def _converted(model: DualPath, encoder: Encoder, path: Path) -> DualPath:
    """Return the model with one of its encoders as it was exported."""
    parts = model.network, model.tokenizer, model.recipe
    return DualPath(*parts, device="cpu", engines={encoder: open_engine(path)})


def _spread(items: Items, most: int) -> npt.NDArray[np.int64]:
    """Return the numbers of evenly spread items."""
    return np.unique(np.linspace(0, len(items) - 1, min(len(items), most), dtype=np.int64))


def _rendered(model: DualPath, items: Items) -> list[Tensor]:
    """Render evenly spread pictures as the network sees them, each (views, 3, h, w) uint8."""
    rendered = []
    for number in _spread(items, _CALIBRATION):
        path = items[int(number)].path
        try:
            rendered.append(model.render(model.decode(read_picture(path), str(path))))
        except PictureError:
            continue  # one picture more or less sets no range
    if not rendered:
        raise ExportError("no sound training picture to set ranges by and to compare on")
    return rendered


def _compare(
    embed: Callable[[Any], Vectors], converted: Callable[[Any], Vectors], batches: Sequence[Any]
) -> tuple[float, float]:
    """Return the lowest cosine with torch's vectors, and how many times faster it is."""
    cosines, ratios = [], []
    for batch in batches:
        moments, vectors = [time.perf_counter()], []
        for one in (embed, converted):
            vectors.append(one(batch))
            moments.append(time.perf_counter())
        cosines.append(float((vectors[0] * vectors[1]).sum(axis=1).min()))
        ratios.append((moments[1] - moments[0]) / (moments[2] - moments[1]))
    return min(cosines), statistics.median(ratios)


def _check_cosine(cosine: float, runtime: Runtime) -> None:
    if cosine < _LOWEST_COSINE:
        raise ExportError(
            f"{runtime} computes something else than torch (cosine {cosine:.4f}); nothing was "
            "written"
        )


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
