"""What publishing needs of a bundle: its text encoder as ONNX, its tokenizer, its calibration."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualpath.data.tokenizer import Tokenizer
from dualpath.errors import PublishError
from dualpath.inference.bundle import METRICS, RECIPE, TOKENIZER, find_bundle
from dualpath.inference.runtimes import read_exports
from dualpath.recipes.loading import read_resolved_recipe
from dualpath.utils.text import error_reason

TEXT_ENCODER = "text_encoder.fp32.onnx"


@dataclass(frozen=True)
class TextEncoderFiles:
    """The text half of a bundle, read without torch.

    Attributes:
        graph: the ONNX file.
        tokenizer: of the text encoder.
        settings: of the tokenizer in JavaScript.
        tokenizer_file: ``tokenizer.json`` of the bundle.
        calibration: slope and intercept of the probability, if the bundle has one.
    """

    graph: Path
    tokenizer: Tokenizer
    settings: dict[str, Any]
    tokenizer_file: Path
    calibration: dict[str, float] | None


def read_text_encoder(source: str | Path, fingerprint: str) -> TextEncoderFiles:
    """Read the text encoder of a bundle.

    Args:
        source: folder or hub id of the bundle.
        fingerprint: of the model that has filled the gallery.

    Raises:
        PublishError: the bundle has no text encoder as ONNX, was exported from other weights, or
            cannot run in a browser.
        BundleError: the bundle does not exist or is damaged.
    """
    folder = find_bundle(source)
    exported = [encoder for encoder in read_exports(folder) if encoder.file == TEXT_ENCODER]
    if not exported or not (folder / TEXT_ENCODER).is_file():
        raise PublishError(
            f"{folder}: has no {TEXT_ENCODER}; write it with: dualpath export {folder} "
            "--data FOLDER --runtime onnxruntime"
        )
    if exported[0].fingerprint != fingerprint:
        raise PublishError(
            f"{folder / TEXT_ENCODER}: belongs to another model than the gallery; give the bundle "
            "that filled the gallery: --model"
        )
    if getattr(exported[0], "placed_positions", None):
        raise PublishError(
            f"{folder}: the text encoder places each caption at several positions outside of the "
            "graph, which the page cannot do; train with position_shift: false to publish"
        )
    text = read_resolved_recipe(folder / RECIPE).text_encoder
    if text.vocabulary == "subword":
        raise PublishError(
            f"{folder}: the page has no subword tokenizer; publish a gallery whose text encoder "
            "has the vocabulary 'modern' or 'paper'"
        )
    try:
        tokenizer = Tokenizer.load(folder / TOKENIZER, text.vocabulary, text.max_words)
    except ValueError as error:
        raise PublishError(str(error)) from error
    return TextEncoderFiles(
        folder / TEXT_ENCODER,
        tokenizer,
        {"mode": text.vocabulary, "max_words": text.max_words},
        folder / TOKENIZER,
        _read_calibration(folder / METRICS),
    )


def _read_calibration(path: Path) -> dict[str, float] | None:
    if not path.is_file():
        return None
    try:
        fitted = json.loads(path.read_text(encoding="utf-8")).get("validation", {})
    except ValueError as error:
        raise PublishError(f"{path}: not valid JSON ({error_reason(error)})") from error
    calibration = fitted.get("calibration")
    return calibration and {name: calibration[name] for name in ("slope", "intercept")}
