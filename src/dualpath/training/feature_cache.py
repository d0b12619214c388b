"""Backbone features computed once: while the backbone is frozen they do not change."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dualpath.bundle import digest_weights
from dualpath.data.pairs import FeaturePictures
from dualpath.data.tokenizer import trim_padding
from dualpath.data.vector_store import Hashes, VectorStore
from dualpath.data.views import Renderer, View
from dualpath.models.image_cnn import ImageCNN
from dualpath.models.layers import evaluating
from dualpath.models.text_transformer import TextTransformer
from dualpath.vectors import Advance, unwatched

_BATCH = 32
_STORE_EVERY = 8  # batches
_KEY_BYTES = 12
_SENTENCES = 256  # in a batch


def cached_features(
    image_encoder: ImageCNN,
    paths: Sequence[Path],
    hashes: Hashes,
    views: Sequence[View],
    size: int,
    cache_folder: Path,
    *,
    workers: int = 0,
    advance: Advance = unwatched,
) -> FeaturePictures:
    """Return the backbone's features of every picture in every view, computing what is missing.

    A vector is kept under the backbone's weights, its normalisation, the size, the view and the
    picture's content, so a changed picture or backbone is computed anew; filling that was
    interrupted continues.

    Args:
        hashes: content hash of every file, (files,).
        advance: called with the number of views done since the last call.
    """
    key = _key(image_encoder, size)
    stores = [
        VectorStore(cache_folder / "features" / key / view.name, image_encoder.backbone_dim)
        for view in views
    ]
    for view, store in zip(views, stores, strict=True):
        missing = store.first_missing(hashes)
        advance(len(hashes) - len(missing))
        _fill(store, image_encoder, paths, hashes, missing, view, size, workers, advance)
    return FeaturePictures(
        features=[store.vectors() for store in stores],
        rows=[store.rows(hashes) for store in stores],
    )


def cached_sentences(
    encoder: TextTransformer,
    token_ids: npt.NDArray[Any],
    cache_folder: Path,
    advance: Advance = unwatched,
) -> npt.NDArray[np.float32]:
    """Return a frozen sentence encoder's features, (sentences, width), computing what is missing.

    Args:
        token_ids: (sentences, positions) whole numbers, padded with 0.
        advance: called with the number of sentences done since the last call.
    """
    digest = digest_weights(encoder.backbone, size=_KEY_BYTES)
    digest.update(repr(encoder.states).encode())
    store = VectorStore(
        cache_folder / "sentence_features" / digest.hexdigest(), encoder.backbone_dim
    )
    hashes = np.zeros(len(token_ids), "S32")
    for number, row in enumerate(token_ids):
        words = row[row > 0].astype(np.int64).tobytes()
        hashes[number] = hashlib.blake2b(words, digest_size=16).hexdigest()
    missing = store.first_missing(hashes)
    advance(len(hashes) - len(missing))
    lengths = (token_ids > 0).sum(axis=1)
    shortest_first = missing[np.argsort(lengths[missing], kind="stable")]
    device = next(encoder.backbone.parameters()).device
    with evaluating(encoder), torch.no_grad():
        for start in range(0, len(shortest_first), _SENTENCES):
            rows = shortest_first[start : start + _SENTENCES]
            words = trim_padding(np.asarray(token_ids[rows], np.int64))
            batch = torch.from_numpy(words).to(device)
            store.add(hashes[rows], encoder.backbone_features(batch).float().cpu().numpy())
            advance(len(rows))
    return store.vectors()[store.rows(hashes)]


def _key(image_encoder: ImageCNN, size: int) -> str:
    digest = digest_weights(image_encoder.backbone, size=_KEY_BYTES)
    for tensor in (image_encoder.mean, image_encoder.std):
        digest.update(tensor.cpu().numpy().tobytes())
    states = getattr(image_encoder.backbone, "states", ())
    digest.update(repr(states).encode() if states else b"")
    return f"{digest.hexdigest()}-{size}-{image_encoder.backbone_dim}"


@torch.no_grad()
def _fill(
    store: VectorStore,
    image_encoder: ImageCNN,
    paths: Sequence[Path],
    hashes: Hashes,
    missing: npt.NDArray[np.int64],
    view: View,
    size: int,
    workers: int,
    advance: Advance,
) -> None:
    names = hashes[missing]
    wanted = [paths[place] for place in missing]
    device = image_encoder.mean.device
    pending: list[torch.Tensor] = []
    stored = 0
    with evaluating(image_encoder):
        for batch in Renderer([view], size).batches(wanted, _BATCH, workers):
            pending.append(image_encoder.backbone_features(batch[:, 0].to(device)).float().cpu())
            advance(len(batch))
            if len(pending) == _STORE_EVERY:
                stored += _store(store, names[stored:], pending)
        if pending:
            _store(store, names[stored:], pending)


def _store(store: VectorStore, names: Hashes, pending: list[torch.Tensor]) -> int:
    vectors = torch.cat(pending).numpy()
    pending.clear()
    store.add(names[: len(vectors)], vectors)
    return len(vectors)
