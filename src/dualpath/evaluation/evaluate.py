"""From a model and a folder of captioned pictures to measured retrieval."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dualpath.data.cache import default_cache_folder
from dualpath.data.items import Items
from dualpath.data.manifest import ManifestError, read_manifest
from dualpath.data.pictures import broken_pictures_message
from dualpath.embedding import DualPath
from dualpath.evaluation.protocols import captioned, find_protocol, instance_numbers
from dualpath.evaluation.query_bank import normalise_by_bank
from dualpath.evaluation.report import Answer, write_sheet
from dualpath.vectors import Advance, Vectors, unwatched

_SHEET_QUERIES = 20
_SHEET_ANSWERS = 5


@dataclass(frozen=True)
class Embedded:
    """The pictures of a split and their captions as vectors, (n, dim) and (m, dim)."""

    items: Items
    image_vectors: Vectors
    text_vectors: Vectors


def evaluate(
    model: DualPath,
    data: str | Path,
    *,
    split: str = "test",
    protocol: str = "all",
    query_bank: str | None = None,
    sheet: Path | None = None,
    skip_broken: bool = False,
    cache: Path | None = None,
    advance: Advance = unwatched,
) -> dict[str, Any]:
    """Measure retrieval on a split of a folder.

    Args:
        model: a trained model.
        data: a folder with a manifest; missing splits are drawn as the model's recipe says.
        split: ``train``, ``val``, ``test``, another name of the manifest, or ``all``.
        protocol: a name of :data:`dualpath.evaluation.protocols.PROTOCOLS`.
        query_bank: re-rank by the pictures and captions of this split, as
            :mod:`dualpath.evaluation.query_bank` does; the split that is measured is a bank that
            knows the queries beforehand, which is to be told with the figures.
        sheet: write captions with their found pictures here, as HTML.
        skip_broken: leave broken pictures out instead of stopping.
        cache: folder for embeddings (default: the user's).
        advance: called with the number of pictures and captions done since the last call.

    Returns:
        what the protocol gives, ``split`` and ``query_bank``.

    Raises:
        ProtocolError: there is no such protocol, or the split does not suit it.
        ManifestError: the manifest is bad, the split empty, or pictures are broken.
    """
    measure = find_protocol(protocol)
    cache = cache or default_cache_folder()
    manifest = read_manifest(Path(data), model.recipe.split, model.recipe.seed, cache)

    def embed(name: str) -> Embedded:
        items = captioned(manifest.split(name).items, name)
        return embed_items(model, items, cache, skip_broken=skip_broken, advance=advance)

    embedded = embed(split)
    images, texts = embedded.image_vectors, embedded.text_vectors
    if query_bank is not None:
        bank = embedded if query_bank == split else embed(query_bank)
        images, texts = normalise_by_bank(images, texts, bank.image_vectors, bank.text_vectors)
    of_images, of_texts = instance_numbers(embedded.items)
    metrics = measure(images, texts, of_images, of_texts)
    if sheet is not None:
        write_sheet(sheet, f"{model.recipe.name} · split {split}", _sheet_rows(embedded))
    return {**metrics, "split": split, "query_bank": query_bank}


def embed_items(
    model: DualPath,
    items: Items,
    cache: Path,
    *,
    skip_broken: bool = False,
    advance: Advance = unwatched,
) -> Embedded:
    """Embed pictures and their captions; ``ManifestError`` lists broken pictures."""
    sound, image_vectors, broken = model.embed_folder(
        items.paths, cache, workers=model.recipe.workers, advance=advance
    )
    if broken and not skip_broken:
        raise ManifestError(broken_pictures_message(broken))
    items = items.where(sound)
    text_vectors = model.embed_texts(list(items.captions), advance=advance)
    return Embedded(items, image_vectors, text_vectors)


def _sheet_rows(embedded: Embedded) -> list[tuple[str, list[Answer]]]:
    """Search the pictures by one caption each of a few evenly spread items."""
    items = embedded.items
    firsts = np.concatenate([[0], np.cumsum(items.caption_counts)])
    rows = []
    for number in np.unique(np.linspace(0, len(items) - 1, _SHEET_QUERIES, dtype=int)):
        scores = embedded.image_vectors @ embedded.text_vectors[firsts[number]]
        best = np.argsort(-scores, kind="stable")[:_SHEET_ANSWERS]
        asked = items[int(number)]
        found = [(items[int(place)], float(scores[place])) for place in best]
        answers = [
            Answer(item.path, score, right=item.instance == asked.instance) for item, score in found
        ]
        rows.append((asked.captions[0], answers))
    return rows
