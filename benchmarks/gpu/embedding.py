"""Measure images and captions a second, from files and sentences to vectors."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from drawing import TRAIN
from setting import Setting, seconds_of, set_precision

from dualpath.data.manifest import read_manifest
from dualpath.data.tokenizer import Tokenizer, count_words, modern_vocabulary
from dualpath.data.transforms import ImageTransform, fixed_views
from dualpath.inference.model import DualPath
from dualpath.models.dual_encoder import build_network
from dualpath.models.layers import evaluation_mode
from dualpath.types import Pixels


def measure_embedding(setting: Setting) -> None:
    """Measure ResNet-50 on JPEG files and the paper's text CNN on their captions."""
    set_precision("tf32")
    manifest = read_manifest(setting.photographs, cache=setting.scratch / "cache")
    images = manifest.split("train").images
    captions = list(images.captions)[: 64 if setting.small else 5 * TRAIN]
    tokenizer = Tokenizer(modern_vocabulary(count_words(captions, "modern"), 1), "modern", 32)
    recipe = setting.recipe("flickr30k", test_size=None, flip_average=False)
    torch.manual_seed(0)
    network = build_network(recipe, tokenizer.num_embeddings).eval()
    model = DualPath(network, tokenizer, recipe, device=setting.device)
    _images(setting, model, list(images.paths)[: 16 if setting.small else 1536])
    _captions(setting, model, captions)


def _images(setting: Setting, model: DualPath, files: list[Path]) -> None:
    size = model.recipe.image_encoder.input_size
    workers = os.cpu_count() or 1
    transform = ImageTransform(fixed_views(flip=False, crops=0), size)
    for batch in (8,) if setting.small else (32, 256):
        embed = partial(model.embed_images, files, batch_size=batch, workers=workers)
        ours = seconds_of(setting, embed, calls=1, windows=3, warmup=1)
        decode = partial(_exhaust, partial(transform.batches, files, batch, workers))
        decoding = seconds_of(setting, decode, calls=1, windows=3, warmup=0)
        pixels = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
        pixels = pixels.to(setting.device)
        with evaluation_mode(model.network):
            bare = seconds_of(setting, partial(model.network.embed_images, pixels), calls=10)
        setting.add_row(
            {
                "what": f"{len(files)} JPEG files, {model.recipe.image_encoder.backbone}",
                "batch": batch,
                "threads": workers,
                "images/s": len(files) / ours,
                "decoding alone images/s": len(files) / decoding,
                "bare forward images/s": batch / bare,
                "of bare": len(files) / ours * bare / batch,
            }
        )


def _exhaust(batches: Callable[[], Iterator[Pixels]]) -> None:
    for _ in batches():
        pass


def _captions(setting: Setting, model: DualPath, captions: list[str]) -> None:
    batch = 256
    token_ids = torch.from_numpy(model.tokenizer.encode(captions[:batch])).to(setting.device)
    for average in (True, False):
        text = model.recipe.text_encoder.model_copy(update={"position_shift": average})
        recipe = model.recipe.model_copy(update={"text_encoder": text})
        model = DualPath(model.network, model.tokenizer, recipe, device=setting.device)
        embed = partial(model.embed_texts, captions)
        ours = seconds_of(setting, embed, calls=1, windows=3, warmup=1)
        with evaluation_mode(model.network):
            embed_bare = partial(model.network.embed_texts, token_ids, average=average)
            bare = seconds_of(setting, embed_bare, calls=5)
        setting.add_row(
            {
                "what": "captions to vectors, the paper's text CNN, "
                + ("all positions" if average else "left-aligned"),
                "batch": batch,
                "captions/s": len(captions) / ours,
                "bare forward captions/s": len(token_ids) / bare,
                "of bare": len(captions) / ours * bare / len(token_ids),
            }
        )
