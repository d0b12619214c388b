"""``dualpath gallery`` and ``dualpath search``: index images, maintain a gallery, search it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualpath.cli.console import (
    bar,
    err_console,
    existing_folder,
    existing_folders,
    existing_path,
    handle_errors,
    log,
    out_console,
    print_rows,
)
from dualpath.types import DEFAULT_TOP

if TYPE_CHECKING:
    from dualpath.gallery.gallery import Gallery
    from dualpath.gallery.schema import CaptionHit, Hit

app = typer.Typer(no_args_is_help=True)

Address = Annotated[
    str,
    typer.Argument(
        metavar="GALLERY",
        help="Folder of a gallery, or http://HOST:PORT/NAME of a gallery on a Milvus server.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Folder of a trained model, or a pretrained one such as "
        "google/siglip2-base-patch16-224. A new gallery needs it and remembers it.",
        show_default=False,
    ),
]


@app.command()
def add(
    address: Address,
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder of images, with a manifest or without.", callback=existing_folder
        ),
    ],
    model: Model = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another folder that the manifest's images may be in. May be repeated.",
            callback=existing_folders,
            show_default=False,
        ),
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Embed on the Ray cluster of RAY_ADDRESS.")
    ] = False,
) -> None:
    """Index the images of a folder. Images that are already indexed are skipped."""
    with (
        handle_errors("; run the same command again to continue"),
        open_gallery(address, model) as gallery,
    ):
        index_folder(gallery, folder, root, ray=ray)


@app.command()
def remove(
    address: Address,
    images: Annotated[
        list[str], typer.Argument(help="Ids of images, image files, or folders of images.")
    ],
) -> None:
    """Remove images from a gallery. The image files are not deleted."""
    with handle_errors(), open_gallery(address) as gallery:
        out_console.print(f"{gallery.remove(*images):,} images removed")


@app.command()
def sync(address: Address) -> None:
    """Remove the images whose files no longer exist."""
    with handle_errors(), open_gallery(address) as gallery:
        with bar("checking files", len(gallery)) as progress:
            removed = gallery.sync(progress)
        out_console.print(f"{removed:,} images removed, {len(gallery):,} left")


@app.command()
def info(address: Address) -> None:
    """Describe a gallery."""
    with handle_errors(), open_gallery(address) as gallery:
        info = gallery.info
        rows: dict[str, object] = {
            "images": f"{len(gallery):,}",
            "captions": f"{gallery.store.count('captions'):,}",
            "model": f"{info.name} ({info.fingerprint}), {info.dim} dimensions",
            "model folder": info.source or "unknown",
            "image folders": ", ".join(map(str, info.roots)),
            "fields": ", ".join(f"{k} ({f.kind})" for k, f in info.fields.items()) or "none",
            **gallery.store.describe(),
        }
        print_rows(rows)


@app.command()
def verify(address: Address) -> None:
    """Check a gallery against itself and the image files. The exit code is 1 if they differ."""
    with handle_errors(), open_gallery(address) as gallery:
        with bar("reading images", len(gallery)) as progress:
            problems = gallery.verify(progress)
        for problem in problems:
            err_console.print(f"error: {problem}", markup=False)
        out_console.print(f"{len(gallery):,} images, {len(problems):,} problems")
        if problems:
            raise typer.Exit(1)


@app.command()
def export(
    address: Address,
    out: Annotated[Path, typer.Argument(help="Parquet file to write.", dir_okay=False)],
) -> None:
    """Write images, captions, metadata and vectors to a Parquet file."""
    with handle_errors(), open_gallery(address) as gallery:
        out_console.print(f"{gallery.export(out):,} images: {out}", markup=False)


def search(
    address: Address,
    queries: Annotated[
        list[str] | None, typer.Argument(metavar="[QUERY]...", help="Sentences to search for.")
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            help="Search for images like this image file.",
            callback=existing_path,
            show_default=False,
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of results for each query.")
    ] = DEFAULT_TOP,
    where: Annotated[
        str | None,
        typer.Option(
            help="Filter by metadata, as in \"colour = 'red' and year >= 2020\".",
            show_default=False,
        ),
    ] = None,
    min_probability: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Hide images less likely than this to fit a sentence; the result may be empty.",
            show_default=False,
        ),
    ] = None,
    captions: Annotated[
        bool, typer.Option("--captions", help="Search captions instead of images.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            "--sheet",
            help="Write the results with their images to this HTML file.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
) -> None:
    """Search a gallery by sentences or by an image.

    Example: dualpath search photos.db "a dog runs through snow"
    """
    asked: list[str | Path] = [*(queries or []), *([] if image is None else [image])]
    if not asked:
        raise typer.BadParameter("give a sentence to search for, or an image with --image")
    if captions and min_probability is not None:
        raise typer.BadParameter("--min-probability applies to images, not to --captions")
    with handle_errors(), open_gallery(address, model) as gallery:
        found: list[tuple[str, list[Any]]] = []
        for query in asked:
            if captions:
                hits: list[Any] = list(gallery.search_captions(query, top=top, where=where))
            else:
                hits = list(
                    gallery.search(query, top=top, where=where, min_probability=min_probability)
                )
            found.append((str(query), hits))
        if html is not None:
            _write_html(html, gallery, found)
        if json_:
            results = [
                {"query": query, "hits": [_as_json(hit) for hit in hits]} for query, hits in found
            ]
            typer.echo(json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False))
            return
        for query, hits in found:
            out_console.print(query, style="bold", markup=False, highlight=False)
            if not hits:
                out_console.print("  no results", markup=False)
            for hit in hits:
                caption = f"  {hit.caption}" if captions else ""
                line = f"  {hit.score:6.3f}{_percentage(hit)}  {hit.image.path}{caption}"
                out_console.print(line, markup=False, highlight=False)


def open_gallery(address: str, model: str | None = None) -> "Gallery":
    """Open a gallery, with a model if one is named."""
    from dualpath.gallery.gallery import Gallery

    if model is not None:
        from dualpath.inference.pretrained import find_model

        find_model(model, log)  # a pretrained model is converted now, with lines about it
    return Gallery.open(address, model=model)


def index_folder(
    gallery: "Gallery", folder: Path, roots: list[Path] | None = None, *, ray: bool = False
) -> None:
    """Index a folder with a progress bar and print a summary."""
    with bar("indexing") as progress:
        summary = gallery.add(folder, roots=roots or [], ray=ray, progress=progress)
    for problem in summary.broken.values():
        err_console.print(f"left out: {problem}", markup=False)
    for note in summary.notes:
        err_console.print(note, markup=False)
    out_console.print(
        f"{summary.new:,} new images, {summary.changed:,} changed, {summary.unchanged:,} "
        f"unchanged, {len(summary.broken):,} left out; {len(gallery):,} in {gallery.address}",
        markup=False,
        highlight=False,
    )


def _percentage(hit: "Hit | CaptionHit") -> str:
    probability = getattr(hit, "probability", None)
    return "" if probability is None else f"  {100 * probability:3.0f} %"


def _as_json(hit: "Hit | CaptionHit") -> dict[str, Any]:
    image = hit.image
    return {
        "score": hit.score,
        **({"probability": hit.probability} if hasattr(hit, "probability") else {}),
        **({"caption": hit.caption} if hasattr(hit, "caption") else {}),
        "id": image.id,
        "path": str(image.path),
        "captions": image.captions,
        "metadata": image.metadata,
    }


def _write_html(path: Path, gallery: "Gallery", found: list[tuple[str, list[Any]]]) -> None:
    from dualpath.evaluation.html_report import ReportHit, ReportQuery, write_html_report

    queries = [
        ReportQuery(query, [ReportHit(hit.image.path, hit.score) for hit in hits])
        for query, hits in found
    ]
    write_html_report(path, f"{gallery.info.name}: search", queries)
