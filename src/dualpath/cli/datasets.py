"""``dualpath prepare``: write folders of captioned images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dualpath.cli.console import bar, err_console, handle_errors, out_console

if TYPE_CHECKING:
    from dualpath.datasets.prepare import Name

prepare_app = typer.Typer(no_args_is_help=True)

Raw = Annotated[Path, typer.Option(help="Folder with the files of the data set.")]
Out = Annotated[Path, typer.Option(help="Folder to write the manifest to.")]
Resize = Annotated[
    int | None,
    typer.Option(min=16, help="Write copies of so many pixels (shorter side) instead of links."),
]
Download = Annotated[bool, typer.Option("--download", help="Fetch captions and splits first.")]
FlickrSplit = Annotated[
    str, typer.Option(help="karpathy, or flickr8k-lists (the official files; the paper's split).")
]


@prepare_app.command()
def flickr8k(
    raw: Raw,
    out: Out,
    split: FlickrSplit = "karpathy",
    resize: Resize = None,
    download: Download = False,
) -> None:
    """Flickr8k, from Karpathy's JSON or the official token file and lists."""
    _prepare("flickr8k", raw, out, split, resize, download)


@prepare_app.command()
def flickr30k(
    raw: Raw,
    out: Out,
    split: FlickrSplit = "karpathy",
    resize: Resize = None,
    download: Download = False,
) -> None:
    """Flickr30k, from Karpathy's JSON, or the token file with Flickr8k's lists."""
    _prepare("flickr30k", raw, out, split, resize, download)


@prepare_app.command()
def mscoco(
    raw: Raw,
    out: Out,
    split: Annotated[str, typer.Option(help="karpathy, 2014 or 2017.")] = "karpathy",
    resize: Resize = None,
    download: Download = False,
) -> None:
    """MSCOCO captions, from Karpathy's JSON or the official files."""
    _prepare("mscoco", raw, out, split, resize, download)


@prepare_app.command(name="cuhk_pedes")
def cuhk_pedes(raw: Raw, out: Out, resize: Resize = None) -> None:
    """CUHK-PEDES, from reid_raw.json; copies are squashed to the square, as in the paper."""
    _prepare("cuhk_pedes", raw, out, None, resize, download=False)


@prepare_app.command(name="icfg_pedes")
def icfg_pedes(raw: Raw, out: Out, resize: Resize = None) -> None:
    """ICFG-PEDES, from ICFG-PEDES.json."""
    _prepare("icfg_pedes", raw, out, None, resize, download=False)


@prepare_app.command(name="rstp_reid")
def rstp_reid(raw: Raw, out: Out, resize: Resize = None) -> None:
    """RSTPReid, from data_captions.json."""
    _prepare("rstp_reid", raw, out, None, resize, download=False)


@prepare_app.command()
def folder(raw: Raw, out: Out, resize: Resize = None) -> None:
    """Your own: a table (CSV, JSONL, Parquet), a text file an image, or WebDataset shards."""
    _prepare("folder", raw, out, None, resize, download=False)


@prepare_app.command()
def shapes(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    scenes: Annotated[int, typer.Option(min=20, help="Number of images.")] = 3200,
    captions: Annotated[int, typer.Option(min=1, max=10, help="Sentences an image.")] = 5,
    size: Annotated[int, typer.Option(min=16, help="Side of an image, pixels.")] = 96,
    seed: Annotated[int, typer.Option(help="The same seed writes the same files.")] = 0,
) -> None:
    """Write the synthetic shapes set: coloured shapes, sizes, relations, counts."""
    with handle_errors():
        from dualpath.datasets.synthetic.shapes import write_shapes

        with bar("drawing", scenes) as progress:
            path = write_shapes(
                out, scenes=scenes, captions=captions, size=size, seed=seed, progress=progress
            )
        out_console.print(f"{scenes:,} scenes: {path}", markup=False)


@prepare_app.command()
def pedestrians(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    identities: Annotated[int, typer.Option(min=10, help="Number of people.")] = 600,
    views: Annotated[int, typer.Option(min=4, max=20, help="Images of each.")] = 4,
    captions: Annotated[int, typer.Option(min=2, max=10, help="Sentences an image.")] = 2,
    size: Annotated[int, typer.Option(min=32, help="Height of an image, pixels.")] = 128,
    seed: Annotated[int, typer.Option(help="The same seed writes the same files.")] = 0,
) -> None:
    """Write the synthetic pedestrians set: drawn people, several views each, described in words."""
    with handle_errors():
        from dualpath.datasets.synthetic.pedestrians import write_pedestrians

        with bar("drawing", identities * views) as progress:
            path = write_pedestrians(
                out,
                identities=identities,
                views=views,
                captions=captions,
                size=size,
                seed=seed,
                progress=progress,
            )
        out_console.print(
            f"{identities:,} people, {identities * views:,} images: {path}", markup=False
        )


def _prepare(
    name: "Name", raw: Path, out: Path, split: str | None, resize: int | None, download: bool
) -> None:
    with handle_errors("; the same command goes on with it"):
        from dualpath.datasets.prepare import prepare

        with bar("preparing") as progress:
            written = prepare(
                name,
                raw,
                out,
                split=split,
                resize=resize,
                fetch=download,
                say=lambda line: err_console.print(line, markup=False),
                progress=progress,
            )
        for warning in written.warnings:
            err_console.print(f"warning: {warning}", markup=False)
        counts = ", ".join(f"{number:,} {split}" for split, number in written.images.items())
        out_console.print(f"{counts}: {written.manifest}", markup=False)
