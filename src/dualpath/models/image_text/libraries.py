"""What differs between transformers and open_clip: building a model, and calling its towers."""

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dualpath.models.image_text.spec import ImageTextSpec, Library
from dualpath.utils.extras import needs_extra

OPEN_CLIP_CONFIG = "open_clip_config.json"


def create_model(spec: ImageTextSpec) -> nn.Module:
    """Create the model of a bundle with random weights.

    Raises:
        MissingPackageError: its library is not installed.
    """
    with needs_extra("pretrained", f"{spec.source}"):
        return (_create_transformers if spec.library == "transformers" else _create_open_clip)(spec)


def image_features(library: Library, model: nn.Module, pixels: Tensor) -> Tensor:
    """Return the features of images, (n, dim), of normalised pixels, (n, 3, h, w) float32."""
    called: Any = model
    if library == "open_clip":
        features: Tensor = called.encode_image(pixels)
        return features
    return _projected(called.get_image_features(pixel_values=pixels))


def text_features(
    library: Library, model: nn.Module, token_ids: Tensor, mask: Tensor | None
) -> Tensor:
    """Return the features of texts, (n, dim).

    Args:
        token_ids: (n, positions) int64, ids of the model's own tokenizer.
        mask: (n, positions) int64. None: the model takes no mask.
    """
    called: Any = model
    if library == "open_clip":
        features: Tensor = called.encode_text(token_ids)
        return features
    masks = {} if mask is None else {"attention_mask": mask}
    return _projected(called.get_text_features(input_ids=token_ids, **masks))


def _projected(output: Any) -> Tensor:
    """Return the features of an output; versions of transformers before 5 return them alone."""
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Hide warnings of libraries, which report random weights and names of classes."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _create_transformers(spec: ImageTextSpec) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    config: Any = dict(spec.config)
    with quiet("transformers"):
        models: Any = AutoModel
        model: nn.Module = models.from_config(
            AutoConfig.for_model(config.pop("model_type"), **config)
        )
    return model.float().eval()


def _create_open_clip(spec: ImageTextSpec) -> nn.Module:
    import open_clip

    config = json.loads(json.dumps(spec.config))
    with tempfile.TemporaryDirectory() as folder, quiet("root"):
        if spec.text_config is not None:
            config["model_cfg"]["text_cfg"]["hf_model_name"] = folder
            (Path(folder) / "config.json").write_text(json.dumps(spec.text_config), "utf-8")
        (Path(folder) / OPEN_CLIP_CONFIG).write_text(json.dumps(config), "utf-8")
        model: nn.Module = open_clip.create_model(
            f"local-dir:{folder}", load_weights=False, pretrained_hf=False
        )
    return model.float().eval()
