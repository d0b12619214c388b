"""Writing a gallery as a folder of static files.

The page of the server is reused. In place of the server's API it gets one that searches in the
browser: the text encoder runs in WebAssembly, and the vectors are compared there.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from dualpath.errors import PublishError
from dualpath.gallery.gallery import Gallery
from dualpath.publishing.bundle_files import TextEncoderFiles, read_text_encoder
from dualpath.publishing.images import PublishedImage, image_rows, read_images, write_thumbnails
from dualpath.publishing.quantise import QuantisedVectors, quantise
from dualpath.publishing.runtime_files import FILES, find_runtime
from dualpath.publishing.text_graph import ChosenGraph, RecallTest, WeightChoice, choose_graph
from dualpath.types import IntArray, Progress, Vectors, no_progress

DEFAULT_MAX_SIZE = 512  # pixels
_MARKER = "data/gallery.json"  # a folder with this file was written by this module
_MAX_FACET_VALUES = 20
_TEST_CAPTIONS = 2_000
_SHARED_WEB = files("dualpath") / "server" / "web"
_OWN_WEB = files("dualpath") / "publishing" / "web"
_SHARED_PAGE = ("app.js", "state.js", "style.css", "icon.svg")  # of the server
_OWN_PAGE = ("api.js", "encoder.js", "tokenizer.js", "vectors.js")
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'"
)


@dataclass(frozen=True)
class Publication:
    """What a published folder holds, before and after it is published.

    Attributes:
        images: number of images.
        captions: number of captions.
        fields: keys of the metadata.
        broken: a line for each image that is left out.
        graph: the published text encoder, and its recall.
        originals: whether the image files are among the published files.
        bytes: size of each part.
    """

    images: int
    captions: int
    fields: Sequence[str]
    broken: Sequence[str]
    graph: ChosenGraph
    originals: bool
    bytes: dict[str, int]


Confirm = Callable[[Publication], bool]


def publish_gallery(
    gallery: Gallery,
    out: Path,
    *,
    bundle: str | Path | None = None,
    max_size: int = DEFAULT_MAX_SIZE,
    originals: bool = False,
    weights: WeightChoice = "auto",
    runtime: Path | None = None,
    workers: int = 2,
    confirm: Confirm = lambda _: True,
    progress: Progress = no_progress,
) -> Publication | None:
    """Write a folder that any static web host can serve, and that searches in the browser.

    Args:
        gallery: to publish. Its names, captions and metadata become public.
        out: folder to write. A folder that was published before is replaced.
        bundle: folder or hub id of the gallery's bundle. None: the one that the gallery records.
        max_size: largest side of a thumbnail in pixels.
        originals: whether to copy the image files too, with the metadata that they contain.
        weights: of the text encoder. ``auto``: the smallest of ``int8``, ``fp16`` and ``fp32``
            whose R@10 over the captions of the gallery is at most 0.5 points below that of
            ``fp32``.
        runtime: folder of the npm package ``onnxruntime-web``. None: see
            :func:`~dualpath.publishing.runtime_files.find_runtime`.
        workers: threads that make thumbnails.
        confirm: called with what will be published. If it returns False, nothing is written.
        progress: called with the number of images finished since the last call.

    Returns:
        What was published, or None if ``confirm`` returned False.

    Raises:
        PublishError: the gallery, its bundle, the runtime or the folder cannot be used.
    """
    _check_target(out)
    if len(gallery) == 0:
        raise PublishError(f"{gallery.address}: the gallery is empty; add images first")
    source = bundle or gallery.info.source
    if source is None:
        raise PublishError(
            f"{gallery.address}: does not record where its model is; give its bundle: --model"
        )
    text = read_text_encoder(source, gallery.info.fingerprint)
    runtime_folder = find_runtime(runtime)
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        site = Path(scratch) / "site"
        (site / "data").mkdir(parents=True)
        images, vectors = read_images(gallery)
        copied, broken = write_thumbnails(
            images,
            site / "images",
            roots=gallery.info.roots,
            size=max_size,
            originals=originals,
            workers=workers,
            progress=progress,
        )
        readable = np.array([image.id not in broken for image in images])
        images, vectors = [i for i in images if i.id not in broken], vectors[readable]
        if not images:
            raise PublishError(
                f"{gallery.address}: no image file can be read (the first: "
                f"{next(iter(broken.values()))})"
            )
        rows = quantise(vectors)
        _write_vectors(site / "data", rows)
        graph = _write_text_encoder(site / "data", text, images, vectors, rows.rough(), weights)
        (site / "data/images.json").write_text(
            image_rows(images, gallery.info.fields, copied), encoding="utf-8"
        )
        (site / _MARKER).write_text(_describe(gallery, images, text), encoding="utf-8")
        _write_page(site)
        _copy_runtime(runtime_folder, site / "runtime")
        publication = Publication(
            images=len(images),
            captions=sum(len(published.image.captions) for published in images),
            fields=sorted({key for published in images for key in published.image.metadata}),
            broken=list(broken.values()),
            graph=graph,
            originals=originals,
            bytes=_sizes(site),
        )
        if not confirm(publication):
            return None
        site.chmod(0o755)
        _replace(out, site, Path(scratch) / "old")
    return publication


def _check_target(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise PublishError(f"{out}: is a file; choose a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / _MARKER).is_file():
        raise PublishError(
            f"{out}: the folder holds other files, and publishing would delete them; choose "
            "another folder"
        )


def _replace(out: Path, site: Path, old: Path) -> None:
    if out.exists():
        out.rename(old)
    site.rename(out)


def _write_vectors(folder: Path, rows: QuantisedVectors) -> None:
    (folder / "scales.bin").write_bytes(rows.scales.astype("<f4").tobytes())
    (folder / "vectors.bin").write_bytes(rows.high.tobytes())
    (folder / "residuals.bin").write_bytes(rows.low.tobytes())


def _write_text_encoder(
    folder: Path,
    text: TextEncoderFiles,
    images: Sequence[PublishedImage],
    vectors: Vectors,
    rough: Vectors,
    weights: WeightChoice,
) -> ChosenGraph:
    shutil.copyfile(text.tokenizer_file, folder / "tokenizer.json")
    captions, rows = _test_captions(images)
    test = RecallTest(captions, rows, vectors)
    target = folder / "text_encoder.onnx"
    return choose_graph(text.graph, target, text.tokenizer, test, rough, weights)


def _test_captions(images: Sequence[PublishedImage]) -> tuple[list[str], IntArray]:
    """Return at most 2,000 evenly spaced captions, and the row of the image of each."""
    pairs = [
        (caption, row)
        for row, published in enumerate(images)
        for caption in published.image.captions
    ]
    count = min(len(pairs), _TEST_CAPTIONS)
    chosen = [pairs[i] for i in np.linspace(0, max(0, len(pairs) - 1), count, dtype=np.int64)]
    return [caption for caption, _ in chosen], np.array([row for _, row in chosen], np.int64)


def _describe(gallery: Gallery, images: Sequence[PublishedImage], text: TextEncoderFiles) -> str:
    """Return ``gallery.json``, which has the keys of the server's ``/v1/about`` and more."""
    fields = gallery.info.fields
    return json.dumps(
        {
            "images": len(images),
            "model": gallery.info.name,
            "writable": False,
            "calibrated": text.calibration is not None,
            "calibration": text.calibration,
            "dim": gallery.info.dim,
            "text": text.settings,
            "fields": {name: field.kind for name, field in fields.items()},
            "facets": [
                {
                    "name": name,
                    "kind": fields[name].kind,
                    "values": [{"value": value, "count": count} for value, count in values],
                }
                for name, values in gallery.facets(_MAX_FACET_VALUES).items()
            ],
        },
        ensure_ascii=False,
    )


def _write_page(site: Path) -> None:
    """Write the page of the server with the API of this package."""
    assets = site / "assets"
    assets.mkdir()
    for folder, names in ((_SHARED_WEB, _SHARED_PAGE), (_OWN_WEB, _OWN_PAGE)):
        for name in names:
            (assets / name).write_bytes((folder / name).read_bytes())
    page = (_SHARED_WEB / "index.html").read_text(encoding="utf-8")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_CONTENT_SECURITY_POLICY}">'
    charset = '<meta charset="utf-8">'
    (site / "index.html").write_text(
        page.replace(charset, f"{charset}\n  {policy}"), encoding="utf-8"
    )
    (site / ".nojekyll").touch()  # GitHub Pages then serves every file as it is


def _copy_runtime(source: Path, target: Path) -> None:
    target.mkdir()
    for name in FILES:
        shutil.copyfile(source / name, target / name)
    (target / "LICENSE.txt").write_bytes((_OWN_WEB / "runtime-licence.txt").read_bytes())


def _sizes(site: Path) -> dict[str, int]:
    images = list((site / "images").iterdir())
    originals = {path for path in images if path.stem.endswith("-original")}
    parts = {
        "page": [site / "index.html", *(site / "assets").iterdir()],
        "runtime": list((site / "runtime").iterdir()),
        "text encoder": [site / "data/text_encoder.onnx", site / "data/tokenizer.json"],
        "vectors": [site / "data" / f"{name}.bin" for name in ("scales", "vectors", "residuals")],
        "names, captions, metadata": [site / "data/images.json", site / _MARKER],
        "thumbnails": [path for path in images if path not in originals],
    }
    if originals:
        parts["image files"] = list(originals)
    return {name: sum(path.stat().st_size for path in paths) for name, paths in parts.items()}
