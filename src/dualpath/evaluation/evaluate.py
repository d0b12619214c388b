"""From a model and a folder of captioned images to measured retrieval."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dualpath.data.cache import default_cache_folder
from dualpath.data.manifest import read_manifest
from dualpath.data.table import ImageTable, captioned, instance_numbers
from dualpath.errors import ManifestError
from dualpath.evaluation.html_report import ReportHit, ReportQuery, write_html_report
from dualpath.evaluation.protocols import EvaluationResult, find_protocol
from dualpath.evaluation.query_bank import normalise_by_bank
from dualpath.inference.embed import embed_image_table
from dualpath.inference.model import DualPath
from dualpath.types import Progress, Vectors, expect, no_progress

_REPORT_QUERIES = 20
_REPORT_HITS = 5


@dataclass(frozen=True)
class EmbeddedSplit:
    """The images of a split and their captions as unit vectors.

    Attributes:
        images: n images with m captions.
        image_vectors: (n, dim) float32.
        text_vectors: (m, dim) float32.
    """

    images: ImageTable
    image_vectors: Vectors
    text_vectors: Vectors


def evaluate(
    model: DualPath,
    data: str | Path,
    *,
    split: str = "test",
    protocol: str = "all",
    query_bank: str | None = None,
    html: str | Path | None = None,
    skip_broken: bool = False,
    cache: Path | None = None,
    progress: Progress = no_progress,
    log: Callable[[str], None] = lambda _: None,
) -> EvaluationResult:
    """Measure retrieval on a split of a folder.

    Args:
        model: a trained model.
        data: a folder with a manifest. Missing splits are drawn as in the training.
        split: ``train``, ``val``, ``test``, another split of the manifest, or ``all``.
        protocol: a name of :data:`dualpath.evaluation.protocols.PROTOCOLS`.
        query_bank: re-rank by the images and captions of this split
            (:mod:`dualpath.evaluation.query_bank`). The measured split itself is a bank that knows
            the queries beforehand; report it with the figures.
        html: write a report with some captions and the images found for them.
        skip_broken: leave broken images out instead of raising an error.
        cache: folder for embeddings (default: the user's cache).
        progress: called with the number of images and captions finished since the last call.
        log: called with a line for each image that is left out.

    Raises:
        ProtocolError: the protocol does not exist, or does not suit the split.
        ManifestError: the manifest is invalid, the split is empty, or images are broken.
    """
    measure = find_protocol(protocol)
    cache = cache or default_cache_folder()
    manifest = read_manifest(Path(data), model.recipe.split, model.recipe.seed, cache)

    def embed(name: str) -> EmbeddedSplit:
        images = captioned(manifest.split(name).images, name)
        return embed_split(
            model, images, cache, skip_broken=skip_broken, progress=progress, log=log
        )

    embedded = embed(split)
    image_vectors, text_vectors = embedded.image_vectors, embedded.text_vectors
    if query_bank is not None:
        bank = embedded if query_bank == split else embed(query_bank)
        image_vectors, text_vectors = normalise_by_bank(
            image_vectors, text_vectors, bank.image_vectors, bank.text_vectors
        )
    result = measure(image_vectors, text_vectors, *instance_numbers(embedded.images))
    if html is not None:
        write_html_report(
            Path(html), f"{model.recipe.name} · split {split}", _report_queries(embedded)
        )
    return replace(result, split=split, query_bank=query_bank)


def embed_split(
    model: DualPath,
    images: ImageTable,
    cache: Path,
    *,
    skip_broken: bool = False,
    progress: Progress = no_progress,
    log: Callable[[str], None] = lambda _: None,
) -> EmbeddedSplit:
    """Embed images and their captions.

    Raises:
        ManifestError: images are broken and ``skip_broken`` is false; the message lists them.
    """
    expect(progress, len(images) + int(images.caption_counts.sum()))
    images, image_vectors = embed_image_table(
        model, images, cache, skip_broken=skip_broken, progress=progress, log=log
    )
    if not len(images):
        raise ManifestError("no image of the split can be read")
    text_vectors = model.embed_texts(list(images.captions), progress=progress)
    return EmbeddedSplit(images, image_vectors, text_vectors)


def _report_queries(embedded: EmbeddedSplit) -> list[ReportQuery]:
    """Search the images by the first caption of some evenly spaced images."""
    images = embedded.images
    firsts = np.concatenate([[0], np.cumsum(images.caption_counts)])
    queries = []
    for number in np.unique(np.linspace(0, len(images) - 1, _REPORT_QUERIES, dtype=int)):
        scores = embedded.image_vectors @ embedded.text_vectors[firsts[number]]
        best = np.argsort(-scores, kind="stable")[:_REPORT_HITS]
        query = images[int(number)]
        hits = []
        for place in best:
            image = images[int(place)]
            right = image.instance == query.instance
            hits.append(ReportHit(image.path, float(scores[place]), is_right=right))
        queries.append(ReportQuery(query.captions[0], hits))
    return queries
