"""Features of frozen backbones, which do not change and are computed once."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dualpath.data.tokenizer import trim_padding
from dualpath.data.transforms import ImageTransform, View
from dualpath.data.vector_store import Hashes, VectorStore
from dualpath.errors import TextEncoderError
from dualpath.inference.runtimes import Engine, open_engine
from dualpath.models.fingerprint import digest_weights
from dualpath.models.image_encoder import ImageEncoder
from dualpath.models.layers import evaluation_mode
from dualpath.models.onnx import backbone_source, save_onnx
from dualpath.models.text.base import TextEncoder
from dualpath.training.batches import FeatureSource
from dualpath.types import IntArray, Pixels, Progress, Vectors, no_progress

_BATCH = 32  # images
_STORE_EVERY = 8  # batches
_KEY_BYTES = 12
_TEXT_BATCH = 256  # captions
_ENGINE_FROM = 256  # images; for fewer, exporting the backbone takes longer than it saves
_LOWEST_COSINE = 0.9999  # between the features of ONNX Runtime and of torch

log = logging.getLogger("dualpath.training")


def cached_features(
    image_encoder: ImageEncoder,
    paths: Sequence[Path],
    hashes: Hashes,
    views: Sequence[View],
    size: int,
    cache_folder: Path,
    *,
    workers: int = 0,
    progress: Progress = no_progress,
) -> FeatureSource:
    """Return the backbone features of every image in every view; compute the missing ones.

    A vector is found by the backbone's weights and normalisation, the size, the view and the
    content of the image, so a changed image or backbone is computed again. An interrupted call
    continues.

    Args:
        hashes: content hash of each file, (files,).
        progress: called with the number of views finished since the last call.
    """
    key = _key(image_encoder, size)
    stores = [
        VectorStore(cache_folder / "features" / key / view.name, image_encoder.backbone_dim)
        for view in views
    ]
    for view, store in zip(views, stores, strict=True):
        missing = store.first_missing(hashes)
        progress(len(hashes) - len(missing))
        files = [paths[index] for index in missing]
        transform = ImageTransform([view], size)
        _fill(store, image_encoder, files, hashes[missing], transform, workers, progress)
    return FeatureSource(
        features=[store.vectors() for store in stores],
        rows=[store.rows(hashes) for store in stores],
    )


def cached_text_features(
    encoder: TextEncoder,
    token_ids: npt.NDArray[np.integer[Any]],
    cache_folder: Path,
    progress: Progress = no_progress,
) -> Vectors:
    """Return the features of a frozen sentence encoder; compute the missing ones.

    Args:
        token_ids: (captions, positions) integers, padded with 0.
        progress: called with the number of captions finished since the last call.

    Returns:
        (captions, feature_dim) float32.

    Raises:
        TextEncoderError: the encoder has no features to cache.
    """
    if encoder.feature_dim is None:
        raise TextEncoderError(f"{type(encoder).__name__} has no features to cache")
    folder = cache_folder / "sentence_features" / encoder.feature_key()
    store = VectorStore(folder, encoder.feature_dim)
    hashes = np.zeros(len(token_ids), "S32")
    for number, row in enumerate(token_ids):
        words = row[row > 0].astype(np.int64).tobytes()
        hashes[number] = hashlib.blake2b(words, digest_size=16).hexdigest()
    missing = store.first_missing(hashes)
    progress(len(hashes) - len(missing))
    lengths = (token_ids > 0).sum(axis=1)
    shortest_first = missing[np.argsort(lengths[missing], kind="stable")]
    device = next(encoder.parameters()).device
    with evaluation_mode(encoder), torch.no_grad():
        for start in range(0, len(shortest_first), _TEXT_BATCH):
            rows: IntArray = shortest_first[start : start + _TEXT_BATCH]
            words = trim_padding(np.asarray(token_ids[rows], np.int64))
            batch = torch.from_numpy(words).to(device)
            store.add(hashes[rows], encoder.backbone_features(batch).float().cpu().numpy())
            progress(len(rows))
    return store.vectors()[store.rows(hashes)]


def _key(image_encoder: ImageEncoder, size: int) -> str:
    digest = digest_weights(image_encoder.backbone, size=_KEY_BYTES)
    for tensor in (image_encoder.mean, image_encoder.std):
        digest.update(tensor.cpu().numpy().tobytes())
    layers = getattr(image_encoder.backbone, "feature_layers", ())
    digest.update(repr(layers).encode() if layers else b"")
    return f"{digest.hexdigest()}-{size}-{image_encoder.backbone_dim}"


@torch.no_grad()
def _fill(
    store: VectorStore,
    image_encoder: ImageEncoder,
    files: Sequence[Path],
    hashes: Hashes,
    transform: ImageTransform,
    workers: int,
    progress: Progress,
) -> None:
    device = image_encoder.mean.device

    def with_torch(pixels: Pixels) -> Vectors:
        batch = torch.from_numpy(pixels).to(device)
        features: Vectors = image_encoder.backbone_features(batch).float().cpu().numpy()
        return features

    compute: Engine = with_torch
    pending: list[Vectors] = []
    stored = 0
    with evaluation_mode(image_encoder):
        if device.type == "cpu" and len(files) >= _ENGINE_FROM:
            compute = _open_backbone(image_encoder, transform.size, with_torch)
        for pixels in transform.batches(files, _BATCH, workers):
            pending.append(compute(pixels[:, 0]))
            progress(len(pixels))
            if len(pending) == _STORE_EVERY:
                stored += _store(store, hashes[stored:], pending)
        if pending:
            _store(store, hashes[stored:], pending)


def _open_backbone(image_encoder: ImageEncoder, size: int, with_torch: Engine) -> Engine:
    """Return the backbone in ONNX Runtime, which takes a third of torch's time on a CPU.

    If the backbone cannot be exported, or gives other features than torch, return ``with_torch``.
    """
    source = backbone_source(image_encoder, size)
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "backbone.onnx"
            save_onnx(source, path)
            engine = open_engine(path)
        features = engine(source.example.numpy())
    except Exception as error:  # the exporter has many error classes
        log.warning("the backbone cannot be exported to ONNX Runtime; torch is slower (%s)", error)
        return with_torch
    expected = with_torch(source.example.numpy())
    lengths = np.linalg.norm(features, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = float(((features * expected).sum(axis=1) / lengths).min())
    if cosine >= _LOWEST_COSINE:
        return engine
    log.warning("ONNX Runtime gives other features than torch (cosine %.4f)", cosine)
    return with_torch


def _store(store: VectorStore, hashes: Hashes, pending: list[Vectors]) -> int:
    vectors = np.concatenate(pending)
    pending.clear()
    store.add(hashes[: len(vectors)], vectors)
    return len(vectors)
