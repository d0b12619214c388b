"""Sentences to vectors, compared with recurrent encoders and open_clip's text encoder."""

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from bigru import BiGRU
from material import Material
from timing import Row, compare

from dualpath.data.tokenizer import Tokenizer, trim_padding
from dualpath.exporting.export import export
from dualpath.inference.model import DualPath, load
from dualpath.inference.runtimes import Engine, Runtime, open_engine
from dualpath.models.layers import evaluation_mode
from dualpath.models.text.cnn import TextCNN

COUNTS = (1, 256)
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "openvino")
MODELS = {
    "flickr8k": "residual text CNN of flickr8k",
    "flickr30k": "the paper's text CNN, all positions",
}


def sentence_rows(material: Material) -> Iterator[Row]:
    """Measure the two text CNNs in torch."""
    import open_clip

    clip = open_clip.create_model("RN50").eval()
    clip_tokenizer = open_clip.get_tokenizer("RN50")
    bigru = BiGRU(material.tokenizer.num_embeddings, 300).eval()
    for recipe, description in MODELS.items():
        model = material.model(recipe)
        for count in COUNTS:
            sentences = material.captions[:count]
            peers = {
                "open_clip RN50's text tower (12 layers, 77 tokens)": partial(
                    _embed_with_clip, clip, clip_tokenizer, sentences
                ),
                "a bidirectional GRU of 1,024 units": partial(
                    _embed_with_gru, bigru, material.tokenizer, sentences
                ),
            }
            for peer, embed in peers.items():
                with torch.no_grad():
                    yield compare(
                        "sentences",
                        f"{_count(count)} to vectors, {description}",
                        partial(model.embed_texts, sentences),
                        peer,
                        embed,
                        rounds=9 if count == 1 else 3,
                    )
    for padding in ("masked", "unmasked"):
        yield from _position_rows(material, padding)


def _embed_with_clip(clip: Any, tokenize: Any, sentences: list[str]) -> None:
    clip.encode_text(tokenize(sentences))


def _embed_with_gru(bigru: BiGRU, tokenizer: Tokenizer, sentences: list[str]) -> None:
    bigru(torch.from_numpy(tokenizer.encode(sentences)))


def _position_rows(material: Material, padding: Literal["masked", "unmasked"]) -> Iterator[Row]:
    """Measure what it saves to compute equal rows of the positions of a sentence once."""
    encoder = TextCNN(material.tokenizer.num_embeddings, dim=512, padding=padding).eval()
    token_ids = torch.from_numpy(material.tokenizer.encode(material.captions[:64]))
    placed, owners = encoder.place_everywhere(token_ids)
    one = encoder.place(token_ids, torch.zeros(len(token_ids), dtype=torch.int64))
    measured = (
        f"{len(token_ids)} sentences at all {len(owners) / len(token_ids):.0f} positions, "
        f"{padding}, width 1, equal rows computed once"
    )
    for other, call in (
        ("one row per position, as in training", lambda: _embed_as_in_training(encoder, placed)),
        ("one position", lambda: encoder(one)),
    ):
        with torch.no_grad():
            yield compare("sentences", measured, lambda: encoder(placed), other, call, rounds=3)


def _embed_as_in_training(encoder: TextCNN, placed: torch.Tensor) -> torch.Tensor:
    """Run the forward pass of training, but with the running statistics."""
    encoder.training = True  # of this module only: its normalisations stay in evaluation mode
    try:
        features: torch.Tensor = encoder(placed)
    finally:
        encoder.training = False
    return features


def sentence_runtime_rows(material: Material, bundles: Sequence[Path]) -> Iterator[Row]:
    """Compare the exported text encoders with torch; the bundles are copied."""
    for bundle in bundles:
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "bundle"
            model = load(bundle, runtime="torch")
            model.save_pretrained(copy)
            for runtime in RUNTIMES:
                _, *exported = export(copy, material.data, runtime=runtime)
                for encoder in exported:  # none if the text encoder stays in torch
                    engine = open_engine(copy / encoder.file)
                    yield from _engine_rows(material, model, engine, f"{bundle.name}, {runtime}")


def _engine_rows(material: Material, model: DualPath, engine: Engine, name: str) -> Iterator[Row]:
    average = model.recipe.text_encoder.position_shift
    for count in COUNTS:  # a model leaves as many as 256 to torch
        words = trim_padding(model.tokenizer.encode(material.captions[:count]))
        tensor = torch.from_numpy(words)
        with evaluation_mode(model.network):
            yield compare(
                "queries",
                f"{_count(count)}, tokens to vectors, {name}",
                partial(engine, words),
                "eager torch",
                partial(model.network.embed_texts, tensor, average=average),
                rounds=9,
            )


def _count(count: int) -> str:
    return "1 sentence" if count == 1 else f"{count} sentences"
