"""``dualpath gallery`` and ``dualpath search``: fill a gallery, look after it, search it."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualpath.console import bar, err_console, errors_for_people, out_console

if TYPE_CHECKING:
    from dualpath.gallery.gallery import Gallery
    from dualpath.gallery.rows import CaptionHit, Hit

gallery_app = typer.Typer(no_args_is_help=True)

Address = Annotated[
    str,
    typer.Argument(metavar="GALLERY", help="Folder, or http://HOST:PORT/NAME of a Milvus server."),
]
Model = Annotated[
    str | None,
    typer.Option(help="Bundle; needed once, to begin a gallery, which then remembers it."),
]


@gallery_app.command()
def add(
    address: Address,
    folder: Annotated[Path, typer.Argument(help="Folder of pictures, with a manifest or without.")],
    model: Model = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(help="Another folder that the manifest's pictures may lie in."),
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Read and embed on a Ray cluster (RAY_ADDRESS).")
    ] = False,
) -> None:
    """Index the pictures of a folder; what is there already is left as it is."""
    with errors_for_people("; run the same command again, it goes on"):
        fill(open_with_model(address, model), folder, root, ray=ray)


@gallery_app.command()
def remove(
    address: Address,
    what: Annotated[list[str], typer.Argument(help="Ids, picture files, or folders of them.")],
) -> None:
    """Remove pictures from a gallery; the files stay."""
    with errors_for_people(), _open(address) as gallery:
        out_console.print(f"{gallery.remove(*what):,} pictures removed")


@gallery_app.command()
def sync(address: Address) -> None:
    """Remove the pictures whose files are gone from disk."""
    with errors_for_people(), _open(address) as gallery:
        with bar("looking for files", len(gallery)) as advance:
            gone = gallery.sync(advance)
        out_console.print(f"{gone:,} pictures removed, {len(gallery):,} left")


@gallery_app.command()
def info(address: Address) -> None:
    """Describe a gallery."""
    with errors_for_people(), _open(address) as gallery:
        filled = gallery.filled
        rows = {
            "pictures": f"{len(gallery):,}",
            "captions": f"{gallery.store.count('captions'):,}",
            "model": f"{filled.name} ({filled.model}), {filled.dim} dimensions",
            "model from": filled.source or "unknown",
            "folders": ", ".join(map(str, filled.roots)),
            "fields": ", ".join(f"{k} ({f.kind})" for k, f in filled.fields.items()) or "none",
            **gallery.store.describe(),
        }
        for name, value in rows.items():
            out_console.print(f"{name:14} {value}", markup=False, highlight=False)


@gallery_app.command()
def verify(address: Address) -> None:
    """Compare all that is stored with itself and with the files (exit code 1 if any differs)."""
    with errors_for_people(), _open(address) as gallery:
        with bar("reading pictures", len(gallery)) as advance:
            problems = gallery.verify(advance)
        for problem in problems:
            err_console.print(f"error: {problem}", markup=False)
        out_console.print(f"{len(gallery):,} pictures, {len(problems):,} problems")
        if problems:
            raise typer.Exit(1)


@gallery_app.command()
def export(
    address: Address, out: Annotated[Path, typer.Argument(help="Parquet file to write.")]
) -> None:
    """Write pictures, captions, metadata and vectors to a Parquet file."""
    with errors_for_people(), _open(address) as gallery:
        out_console.print(f"{gallery.export(out):,} pictures: {out}", markup=False)


def search(
    address: Address,
    sentences: Annotated[
        list[str] | None, typer.Argument(help="What to look for, one or more.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Look for what this picture shows.")] = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="Results for each query.")] = 20,
    where: Annotated[
        str | None, typer.Option(help="Filter, as \"colour = 'red' and year >= 2020\".")
    ] = None,
    min_probability: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Leave out pictures less likely to fit a sentence."),
    ] = None,
    captions: Annotated[
        bool, typer.Option("--captions", help="Find captions instead of pictures.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    sheet: Annotated[Path | None, typer.Option(help="Write a picture sheet (HTML) here.")] = None,
    model: Model = None,
) -> None:
    """Find the pictures, or captions, of a gallery that fit a sentence or a picture."""
    queries: list[str | Path] = [*(sentences or []), *([] if image is None else [image])]
    if not queries:
        raise typer.BadParameter("name a sentence to look for, or a picture with --image")
    with errors_for_people(), open_with_model(address, model) as gallery:
        find: Any = gallery.search_captions if captions else gallery.search
        if min_probability is not None:
            if captions:
                raise typer.BadParameter("--min-probability is of pictures, not of captions")
            find = partial(find, min_probability=min_probability)
        found = [(str(query), find(query, top=top, where=where)) for query in queries]
        if sheet is not None:
            _write_sheet(sheet, gallery, found)
        if json_:
            told = [{"query": query, "hits": [_told(hit) for hit in hits]} for query, hits in found]
            typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
            return
        for query, hits in found:
            out_console.print(query, style="bold", markup=False, highlight=False)
            if not hits:
                out_console.print("  nothing fits", markup=False)
            for hit in hits:
                caption = f"  {hit.caption}" if captions else ""
                out_console.print(
                    f"  {hit.score:6.3f}{_likely(hit)}  {hit.picture.path}{caption}",
                    markup=False,
                    highlight=False,
                )


def open_with_model(address: str, model: str | None) -> "Gallery":
    """Open a gallery with a bundle: that named, or that which it was filled with."""
    from dualpath.embedding import load
    from dualpath.gallery.gallery import Gallery

    if model is None:
        with Gallery.open(address) as looked_at:
            model = looked_at.filled.source
        if model is None:
            raise typer.BadParameter("the gallery does not know where its model is; add --model")
    return Gallery.open(address, model=load(model))


def fill(
    gallery: "Gallery", folder: Path, roots: list[Path] | None = None, *, ray: bool = False
) -> None:
    """Index a folder with a progress bar and tell what was done."""
    with bar("indexing") as advance:
        added = gallery.add(folder, roots=roots or [], ray=ray, advance=advance)
    for problem in added.broken.values():
        err_console.print(f"left out: {problem}", markup=False)
    out_console.print(
        f"{added.new:,} pictures new, {added.changed:,} changed, {added.unchanged:,} there "
        f"already, {len(added.broken):,} left out; {len(gallery):,} in {gallery.address}",
        markup=False,
        highlight=False,
    )


def _open(address: str) -> "Gallery":
    from dualpath.gallery.gallery import Gallery

    return Gallery.open(address)


def _likely(hit: "Hit | CaptionHit") -> str:
    probability = getattr(hit, "probability", None)
    return "" if probability is None else f"  {100 * probability:3.0f} %"


def _told(hit: "Hit | CaptionHit") -> dict[str, Any]:
    picture = hit.picture
    return {
        "score": hit.score,
        **({} if not hasattr(hit, "probability") else {"probability": hit.probability}),
        **({} if not hasattr(hit, "caption") else {"caption": hit.caption}),
        "id": picture.id,
        "path": str(picture.path),
        "captions": picture.captions,
        "metadata": picture.metadata,
    }


def _write_sheet(path: Path, gallery: "Gallery", found: list[tuple[str, Any]]) -> None:
    from dualpath.evaluation.report import Answer, write_sheet

    rows = [(query, [Answer(hit.picture.path, hit.score) for hit in hits]) for query, hits in found]
    write_sheet(path, f"{gallery.filled.name}: search", rows)
