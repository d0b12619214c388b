"""Loading CLIP and its like with open_clip."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from dualpath.errors import BundleError
from dualpath.models.image_text.libraries import (
    OPEN_CLIP_CONFIG,
    image_features,
    quiet,
    text_features,
)
from dualpath.models.image_text.original import OriginalModel, TokenRows, Triple
from dualpath.models.image_text.parts import used_parts
from dualpath.models.image_text.spec import ImageTextSpec
from dualpath.models.image_text.transformers_model import read_licence
from dualpath.recipes.encoders import Cleaning
from dualpath.recipes.preprocessing import PreprocessingRecipe

# open_clip's names of its cleaning steps, and ours.
_CLEANING: dict[str, Cleaning] = {
    "lower": "openai",
    "whitespace": "whitespace",
    "canonicalize": "canonicalize",
}
_RESIZE = {"shortest": "shorter_side", "longest": "longer_side", "squash": "squash"}
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def load_open_clip(source: str, folder: Path, name: str) -> OriginalModel:
    """Load a model of open_clip.

    Args:
        source: open_clip's name of it: ``hf-hub:USER/NAME`` or ``local-dir:FOLDER``.
        folder: with its ``open_clip_config.json``.
        name: of the model.

    Raises:
        BundleError: its preprocessing or tokenizer cannot be reproduced.
        OSError, RuntimeError: it cannot be loaded or downloaded.
    """
    import open_clip

    config = json.loads((folder / OPEN_CLIP_CONFIG).read_text(encoding="utf-8"))
    with quiet("root"):
        model, transform = open_clip.create_model_from_pretrained(source)
        tokenizer: Any = open_clip.get_tokenizer(source)
    model = model.float().eval()
    preprocessing, size, mean, std = _preprocessing(name, model.visual.preprocess_cfg)
    context = int(tokenizer.context_length)
    tokenizer_json, cleaning, padding_id = _convert_tokenizer(name, tokenizer)
    ids = torch.full((1, context), padding_id)
    pixels = torch.zeros(1, 3, size, size)
    text_model: Any = getattr(getattr(model, "text", None), "config", None)
    spec = ImageTextSpec(
        library="open_clip",
        source=name,
        config=config,
        image_parts=used_parts(model, lambda one: image_features("open_clip", one, pixels)),
        text_parts=used_parts(model, lambda one: text_features("open_clip", one, ids, None)),
        padding_id=padding_id,
        context_length=context,
        pad_to_context=True,  # its text towers compute all positions
        pad_left=getattr(getattr(tokenizer, "tokenizer", None), "padding_side", "") == "left",
        text_config=text_model.to_dict() if hasattr(text_model, "to_dict") else None,
    )
    with torch.no_grad():
        dim = int(image_features("open_clip", model, pixels).shape[1])

    def preprocess(images: Sequence[Image.Image]) -> Tensor:
        return torch.stack([transform(image) for image in images])

    def tokenize(texts: Sequence[str]) -> TokenRows:
        return [_strip(row, padding_id) for row in tokenizer(list(texts)).tolist()]

    bias = getattr(model, "logit_bias", None)
    return OriginalModel(
        model=model,
        spec=spec,
        dim=dim,
        input_size=size,
        preprocessing=preprocessing,
        mean=mean,
        std=std,
        tokenizer_json=tokenizer_json,
        cleaning=cleaning,
        logit_scale=float(model.logit_scale.detach().exp()),
        logit_bias=None if bias is None else float(bias.detach()),
        licence=read_licence(folder),
        preprocess=preprocess,
        tokenize=tokenize,
    )


def _preprocessing(
    name: str, config: dict[str, Any]
) -> tuple[PreprocessingRecipe, int, Triple, Triple]:
    """Return resize and crop, the side of the output, mean and std."""
    sizes = config["size"]
    height, width = (sizes, sizes) if isinstance(sizes, int) else sizes
    interpolation: Any = "bilinear" if config.get("interpolation") == "bilinear" else "bicubic"
    mode: Any = config.get("resize_mode") or "shortest"
    if height != width or mode not in _RESIZE:
        raise BundleError(f"{name}: its preprocessing is not supported: {config}")
    recipe = PreprocessingRecipe(
        resize=_RESIZE[mode],
        size=int(height),
        interpolation=interpolation,
        crop="none" if mode == "squash" else "round",
        fill=int(config.get("fill_color") or 0),
        convert="after",
    )
    return recipe, int(height), _triple(config["mean"]), _triple(config["std"])


def _triple(values: Any) -> Triple:
    red, green, blue = values if isinstance(values, list | tuple) else (values,) * 3
    return float(red), float(green), float(blue)


def _strip(row: list[int], padding_id: int) -> list[int]:
    """Return a row of token ids without padding on either side."""
    while len(row) > 1 and row[-1] == padding_id:
        row = row[:-1]
    while len(row) > 1 and row[0] == padding_id:
        row = row[1:]
    return row


def _convert_tokenizer(name: str, tokenizer: Any) -> tuple[str, Cleaning, int]:
    """Return ``tokenizer.json``, what is done to a text first, and the id of padding."""
    kind = type(tokenizer).__name__
    cleaning = _CLEANING.get(tokenizer.clean_fn.__name__.removeprefix("_clean_"))
    plain = cleaning is not None and getattr(tokenizer, "reduction_fn", None) is None
    if kind == "SimpleTokenizer" and plain and cleaning is not None:
        return simple_tokenizer(tokenizer), cleaning, 0
    plain = plain and not (
        getattr(tokenizer, "strip_sep_token", False) or getattr(tokenizer, "tokenizer_mode", "")
    )
    inner: Any = getattr(tokenizer, "tokenizer", None)
    backend = getattr(inner, "backend_tokenizer", None)
    if kind != "HFTokenizer" or backend is None or not plain or cleaning is None:
        raise BundleError(f"{name}: its tokenizer ({kind}) is not supported")
    return str(backend.to_str()), cleaning, int(inner.pad_token_id or 0)


def simple_tokenizer(tokenizer: Any) -> str:
    """Return open_clip's own tokenizer of byte pairs as ``tokenizer.json``."""
    start, end = (tokenizer.decoder[i] for i in (tokenizer.sot_token_id, tokenizer.eot_token_id))
    converted = Tokenizer(
        models.BPE(
            vocab=tokenizer.encoder,
            merges=list(tokenizer.bpe_ranks),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
        )
    )
    converted.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    specials = [tokenizer.decoder[i] for i in tokenizer.all_special_ids]
    converted.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    converted.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(start, tokenizer.sot_token_id), (end, tokenizer.eot_token_id)],
    )
    return str(converted.to_str())
