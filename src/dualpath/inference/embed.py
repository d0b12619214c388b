"""Embedding whole folders and files, for tables of vectors."""

from collections.abc import Callable
from pathlib import Path

from dualpath.data.cache import default_cache_folder
from dualpath.data.manifest import read_image_folder, read_manifest
from dualpath.data.scan import broken_images_message
from dualpath.data.table import ImageTable
from dualpath.errors import CaptionFileError, ManifestError
from dualpath.inference.model import DualPath
from dualpath.types import Progress, Vectors, expect, no_progress
from dualpath.utils.text_files import read_lines

Columns = dict[str, list[str]]


def embed_text_file(
    model: DualPath, file: Path, progress: Progress = no_progress
) -> tuple[Columns, Vectors]:
    """Embed a text file with one text per line.

    Returns:
        The column ``text``, and the unit vectors, (texts, dim) float32.

    Raises:
        CaptionFileError: the file is not valid UTF-8.
    """
    try:
        texts = read_lines(file)
    except ValueError as error:
        raise CaptionFileError(str(error)) from error
    expect(progress, len(texts))
    return {"text": texts}, model.embed_texts(texts, progress=progress)


def embed_captions(
    model: DualPath, folder: Path, progress: Progress = no_progress
) -> tuple[Columns, Vectors]:
    """Embed the captions of a folder with a manifest.

    Returns:
        The columns ``file_name`` and ``text``, and the unit vectors, (captions, dim) float32.

    Raises:
        ManifestError: the manifest is missing or invalid.
    """
    images = read_manifest(folder).images
    pairs = [(image.file_name, caption) for image in images for caption in image.captions]
    columns = {"file_name": [name for name, _ in pairs], "text": [text for _, text in pairs]}
    expect(progress, len(pairs))
    return columns, model.embed_texts(columns["text"], progress=progress)


def embed_image_folder(
    model: DualPath,
    folder: Path,
    cache: Path | None = None,
    *,
    skip_broken: bool = False,
    progress: Progress = no_progress,
    log: Callable[[str], None] = lambda _: None,
) -> tuple[Columns, Vectors]:
    """Embed the images of a folder, with a manifest or without.

    Args:
        log: called with a line for each image that is left out.

    Returns:
        The column ``file_name``, and the unit vectors, (images, dim) float32.

    Raises:
        ManifestError: there are no images, or some are broken and ``skip_broken`` is false.
    """
    manifest = read_image_folder(folder)
    expect(progress, len(manifest.images))
    images, vectors = embed_image_table(
        model, manifest.images, cache, skip_broken=skip_broken, progress=progress, log=log
    )
    for note in manifest.notes:
        log(note)
    return {"file_name": list(images.column("file_name"))}, vectors


def embed_image_table(
    model: DualPath,
    images: ImageTable,
    cache: Path | None = None,
    *,
    skip_broken: bool = False,
    progress: Progress = no_progress,
    log: Callable[[str], None] = lambda _: None,
) -> tuple[ImageTable, Vectors]:
    """Embed the images of a table.

    Args:
        cache: folder for embeddings (default: the user's cache).
        log: called with a line for each image that is left out.

    Returns:
        The images that can be read, and their unit vectors, (images, dim) float32.

    Raises:
        ManifestError: images are broken and ``skip_broken`` is false; the message lists them.
    """
    valid, vectors, broken = model.embed_folder(
        images.paths,
        cache or default_cache_folder(),
        workers=model.recipe.workers,
        progress=progress,
    )
    if broken and not skip_broken:
        raise ManifestError(broken_images_message(broken))
    for problem in broken.values():
        log(f"left out: {problem}")
    return images.filter(valid), vectors
