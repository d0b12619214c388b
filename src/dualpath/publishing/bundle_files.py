"""What publishing needs of a bundle: its text encoder as ONNX, its tokenizer, its calibration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualpath.data.tokenizer import Tokenizer
from dualpath.errors import PublishError
from dualpath.inference.bundle import TOKENIZER, read_bundle
from dualpath.inference.pretrained import find_model
from dualpath.inference.runtimes import read_exports

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
    folder = find_model(source)
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
    if exported[0].placed_positions:
        raise PublishError(
            f"{folder}: the text encoder places each caption at several positions outside of the "
            "graph, which the page cannot do; train with position_shift: false to publish"
        )
    tokenizer, recipe, metrics, _ = read_bundle(folder)
    text = recipe.text_encoder
    if text.vocabulary == "subword":
        raise PublishError(
            f"{folder}: the page has no subword tokenizer; publish a gallery whose text encoder "
            "has the vocabulary 'modern' or 'paper'"
        )
    return TextEncoderFiles(
        folder / TEXT_ENCODER,
        tokenizer,
        {"mode": text.vocabulary, "max_words": text.max_words},
        folder / TOKENIZER,
        _calibration(metrics),
    )


def _calibration(metrics: dict[str, Any]) -> dict[str, float] | None:
    fitted = metrics.get("validation", {}).get("calibration")
    return fitted and {name: fitted[name] for name in ("slope", "intercept")}
