"""Exact search over the pictures of a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dualpath.data.cache import default_cache_folder
from dualpath.data.manifest import read_pictures
from dualpath.embedding import Advance, DualPath, unwatched


@dataclass(frozen=True)
class Hit:
    """A picture found; ``score`` is the cosine with the query."""

    path: Path
    score: float


@dataclass(frozen=True)
class Found:
    """Hits of each query, best first, and the files that are broken with what is wrong."""

    hits: list[list[Hit]]
    broken: dict[Path, str]


def search_folder(
    model: DualPath,
    folder: str | Path,
    sentences: Sequence[str],
    *,
    top: int = 10,
    cache: Path | None = None,
    advance: Advance = unwatched,
) -> Found:
    """Find the pictures of a folder that fit sentences best.

    The pictures' embeddings are kept between calls; every picture is compared.

    Args:
        folder: with a manifest, or with picture files at any depth.
        top: pictures to find for each sentence.
        cache: folder for embeddings (default: the user's).
        advance: called with the number of pictures embedded since the last call.
    """
    paths = [item.path for item in read_pictures(Path(folder)).items]
    sound, vectors, broken = model.embed_folder(
        paths, cache or default_cache_folder(), workers=model.recipe.workers, advance=advance
    )
    scores = model.embed_texts(sentences) @ vectors.T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    hits = [
        [Hit(sound[i], float(row[i])) for i in order]
        for row, order in zip(scores, best, strict=True)
    ]
    return Found(hits, broken)
