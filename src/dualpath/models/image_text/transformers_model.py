"""Loading CLIP, SigLIP and their like with transformers."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from dualpath.errors import BundleError
from dualpath.models.image_text.libraries import image_features, quiet, text_features
from dualpath.models.image_text.original import OriginalModel, TokenRows, Triple
from dualpath.models.image_text.parts import used_parts
from dualpath.models.image_text.spec import ImageTextSpec
from dualpath.recipes.encoders import Cleaning
from dualpath.recipes.preprocessing import PreprocessingRecipe

_NO_LIMIT = 100_000  # tokenizers without a limit have one above this
_MOST_TOKENS = 512
# Models of SigLIP were trained with texts that are padded to this length.
_SIGLIP_TOKENS = 64


def load_transformers(source: str, folder: Path, name: str) -> OriginalModel:
    """Load a model that embeds images and texts.

    Args:
        source: a folder or an id of the Hugging Face hub.
        folder: of its model card.
        name: of the model.

    Raises:
        BundleError: it is no such model, or its preprocessing cannot be reproduced.
        OSError: it cannot be loaded or downloaded.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # it counts tensors
    with quiet("transformers"):
        config: Any = AutoConfig.from_pretrained(source)
        _check_kind(name, config)
        loaded: Any = AutoModel.from_pretrained(source)
        model = loaded.float().eval()
        processors: Any = AutoImageProcessor
        processor: Any = processors.from_pretrained(source)
        tokenizer: Any = AutoTokenizer.from_pretrained(source)
    preprocessing, size = _preprocessing(name, processor)
    backend, cleaning = _backend_tokenizer(name, tokenizer)
    pads = config.model_type in ("siglip", "siglip2") or "attention_mask" not in _inputs(tokenizer)
    context = _context_length(config, tokenizer)
    ids = torch.full((1, context), int(tokenizer.eos_token_id or 0))
    pixels = torch.zeros(1, 3, size, size)
    spec = ImageTextSpec(
        library="transformers",
        source=name,
        config=config.to_dict(),
        image_parts=used_parts(model, lambda one: image_features("transformers", one, pixels)),
        text_parts=used_parts(model, lambda one: text_features("transformers", one, ids, None)),
        padding_id=int(tokenizer.pad_token_id or 0),
        context_length=context,
        pad_to_context=pads or tokenizer.padding_side == "left",
        pad_left=tokenizer.padding_side == "left",
        attention_mask="attention_mask" in _inputs(tokenizer),
    )
    with torch.no_grad():
        dim = int(image_features("transformers", model, pixels).shape[1])

    def preprocess(images: Sequence[Image.Image]) -> Tensor:
        batches = [processor(images=image, return_tensors="pt")["pixel_values"] for image in images]
        return torch.cat(batches)

    def tokenize(texts: Sequence[str]) -> TokenRows:
        rows: TokenRows = tokenizer(list(texts), truncation=True, max_length=context)["input_ids"]
        return rows

    return OriginalModel(
        model=model,
        spec=spec,
        dim=dim,
        input_size=size,
        preprocessing=preprocessing,
        mean=_triple(processor.image_mean) if processor.do_normalize else (0.0, 0.0, 0.0),
        std=_triple(processor.image_std) if processor.do_normalize else (1.0, 1.0, 1.0),
        tokenizer_json=backend,
        cleaning=cleaning,
        logit_scale=float(model.logit_scale.detach().exp())
        if hasattr(model, "logit_scale")
        else 1.0,
        logit_bias=_number(getattr(model, "logit_bias", None)),
        licence=read_licence(folder),
        preprocess=preprocess,
        tokenize=tokenize,
    )


def read_licence(folder: Path) -> str | None:
    """Return the licence that the model card in a folder names; None if there is none."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    found = re.search(r"^license(?:_name)?:\s*(\S+)\s*$", text, re.MULTILINE)
    return found.group(1) if found else None


def _check_kind(name: str, config: Any) -> None:
    from transformers import AutoModel

    kind = config.model_type
    if kind == "siglip2":
        raise BundleError(
            f"{name}: takes images of any shape (NaFlex), which is not supported; choose a SigLIP "
            "2 of a fixed size, such as google/siglip2-base-patch16-224"
        )
    model_class = AutoModel._model_mapping.get(type(config), None)
    methods = ("get_image_features", "get_text_features")
    if not all(hasattr(model_class, method) for method in methods):
        raise BundleError(
            f"{name}: a model of type '{kind}' does not embed both images and texts; choose one "
            "such as CLIP or SigLIP"
        )


def _inputs(tokenizer: Any) -> list[str]:
    names: list[str] = tokenizer.model_input_names
    return names


def _context_length(config: Any, tokenizer: Any) -> int:
    """Return the number of tokens that tokenizer and position embeddings allow."""
    text: Any = config.text_config
    positions = int(getattr(text, "max_position_embeddings", _MOST_TOKENS))
    if config.model_type == "altclip" or "roberta" in str(getattr(text, "model_type", "")):
        positions -= int(text.pad_token_id) + 1  # the first positions are those of padding
    limit = int(min(tokenizer.model_max_length, _NO_LIMIT))
    return min(positions, limit if limit < _NO_LIMIT else _MOST_TOKENS)


def _preprocessing(name: str, processor: Any) -> tuple[PreprocessingRecipe, int]:
    """Return the resize and crop of an image processor, and the side of its output."""
    size = {key: value for key, value in dict(processor.size).items() if value}
    crop = dict(processor.crop_size or {}) if getattr(processor, "do_center_crop", False) else {}
    interpolation = Image.Resampling(int(processor.resample)).name.lower()
    shape = (size.get("height"), size.get("width"))
    supported = processor.do_resize and processor.do_rescale and not getattr(processor, "do_pad", 0)
    output: Any = crop.get("height") if crop else shape[0]
    resize: Any = "squash" if "height" in size else "shorter_side"
    resized: Any = shape[0] if "height" in size else size.get("shortest_edge")
    square = crop.get("height") == crop.get("width") and shape[0] == shape[1]
    if not (supported and output and resized and square) or size.get("longest_edge"):
        raise BundleError(
            f"{name}: its preprocessing ({type(processor).__name__}) is not supported; only a "
            "resize and a central crop to a square are"
        )
    return PreprocessingRecipe(
        resize=resize,
        size=int(resized),
        interpolation=interpolation,
        crop="floor" if crop else "none",
        convert=_transparency(processor),
    ), int(output)


def _transparency(processor: Any) -> Any:
    """Return what a processor does with transparent pixels; versions of transformers differ."""
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    dark, seen, white = (
        float(processor(images=image, return_tensors="pt")["pixel_values"].mean())
        for image in (Image.new("RGB", (64, 64)), clear, Image.new("RGB", (64, 64), (255,) * 3))
    )
    return "white" if abs(seen - white) < abs(seen - dark) else "drop"


def _backend_tokenizer(name: str, tokenizer: Any) -> tuple[str, Cleaning]:
    """Return ``tokenizer.json`` of a tokenizer, and what it does to a text first."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return str(backend.to_str()), "none"
    if type(tokenizer).__name__ == "SiglipTokenizer":
        return _convert_sentencepiece(tokenizer), "siglip"
    raise BundleError(f"{name}: its tokenizer ({type(tokenizer).__name__}) is not supported")


def _convert_sentencepiece(tokenizer: Any) -> str:
    """Return the sentencepiece tokenizer of SigLIP as ``tokenizer.json``."""
    from tokenizers import processors
    from transformers.convert_slow_tokenizer import SpmConverter

    class Converter(SpmConverter):
        def post_processor(self) -> Any:
            end = (tokenizer.eos_token, tokenizer.eos_token_id)
            return processors.TemplateProcessing(
                single=f"$A {end[0]}", pair=f"$A $B {end[0]}", special_tokens=[end]
            )

    create: Any = Converter
    return str(create(tokenizer).converted().to_str())


def _triple(values: Sequence[float]) -> Triple:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _number(parameter: nn.Parameter | None) -> float | None:
    return None if parameter is None else float(parameter.detach())
