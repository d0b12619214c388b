"""``dualpath prepare`` and ``dualpath data``: write and check folders of captioned images."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from dualpath.cli.console import (
    Cache,
    bar,
    err_console,
    existing_folder,
    existing_path,
    handle_errors,
    log,
    out_console,
)
from dualpath.datasets.base import DatasetSpec, PreparedDataset
from dualpath.datasets.prepare import DATASETS, find_dataset

prepare_app = typer.Typer(no_args_is_help=True)
data_app = typer.Typer(no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="Folder to write.", file_okay=False)]
Raw = Annotated[
    Path,
    typer.Option(
        help="Folder with the files of the data set. Annotations may be inside their zip.",
        file_okay=False,
    ),
]
Resize = Annotated[
    int | None,
    typer.Option(
        min=16,
        help="Write resized copies whose shorter side has this many pixels. Default: the manifest "
        "refers to the images where they are.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(help="The same seed writes the same files.")]


@prepare_app.command()
def shapes(
    out: Out,
    scenes: Annotated[int, typer.Option(min=20, help="Number of images.")] = 3200,
    captions: Annotated[int, typer.Option(min=1, max=10, help="Captions per image.")] = 5,
    size: Annotated[int, typer.Option(min=16, help="Width and height of an image, pixels.")] = 96,
    seed: Seed = 0,
) -> None:
    """Draw captioned scenes: coloured shapes, sizes, relations, counts. Needs no other files."""
    with handle_errors():
        from dualpath.datasets.synthetic.shapes import write_shapes

        with bar("drawing", scenes) as progress:
            path = write_shapes(
                out, scenes=scenes, captions=captions, size=size, seed=seed, progress=progress
            )
        out_console.print(f"{scenes:,} images: {path}", markup=False)


@prepare_app.command()
def pedestrians(
    out: Out,
    identities: Annotated[int, typer.Option(min=10, help="Number of people.")] = 600,
    views: Annotated[int, typer.Option(min=4, max=20, help="Images per person.")] = 4,
    captions: Annotated[int, typer.Option(min=2, max=10, help="Captions per image.")] = 2,
    size: Annotated[int, typer.Option(min=32, help="Height of an image, pixels.")] = 128,
    seed: Seed = 0,
) -> None:
    """Draw people in several views, with descriptions. Needs no other files."""
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


@prepare_app.command()
def emoji(
    out: Out,
    language: Annotated[
        str, typer.Option(help="Language of the captions: en, de, es, fr, ja, zh, ar, ...")
    ] = "en",
    font: Annotated[
        Path | None,
        typer.Option(
            help="File of a colour font. Default: Noto Color Emoji, found by fontconfig.",
            callback=existing_path,
            show_default=False,
        ),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            help="Unicode's file emoji-test.txt, which has the groups. Default: that of the Debian "
            "package unicode-data, if it is installed.",
            callback=existing_path,
            show_default=False,
        ),
    ] = None,
    size: Annotated[int, typer.Option(min=16, help="Width and height of an image, pixels.")] = 128,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Render only this many emoji.", show_default=False),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Render emoji with a colour font; captions are their names. Needs the extra 'emoji'."""
    with handle_errors():
        from dualpath.datasets.emoji import write_emoji

        with bar("rendering") as progress:
            prepared = write_emoji(
                out,
                language=language,
                font=font,
                groups=groups,
                size=size,
                limit=limit,
                seed=seed,
                progress=progress,
            )
        _report(prepared)


def _report(prepared: PreparedDataset) -> None:
    for warning in prepared.warnings:
        log(f"warning: {warning}")
    counts = ", ".join(f"{count:,} {part}" for part, count in prepared.image_counts.items())
    out_console.print(f"{counts}: {prepared.manifest}", markup=False)


def _prepare(
    name: str, raw: Path, out: Path, split: str | None, resize: int | None, *, download: bool
) -> None:
    with handle_errors("; run the same command again to continue"):
        from dualpath.datasets.prepare import prepare

        with bar("preparing") as progress:
            prepared = prepare(
                name,
                raw,
                out,
                split=split,
                resize=resize,
                download=download,
                log=log,
                progress=progress,
            )
        _report(prepared)


def _command(name: str, spec: DatasetSpec) -> Callable[..., None]:
    """Return the command of a data set, with the options that it has."""
    splits = ", ".join(spec.splits)
    split_option = typer.Option(help=f"Way to split the data set: {splits}.")
    download_option = typer.Option("--download", help="Download captions and splits first.")

    def simple(raw: Raw, out: Out, resize: Resize = None) -> None:
        _prepare(name, raw, out, None, resize, download=False)

    def with_splits(
        raw: Raw,
        out: Out,
        split: Annotated[str, split_option] = spec.splits[0],
        resize: Resize = None,
        download: Annotated[bool, download_option] = False,
    ) -> None:
        _prepare(name, raw, out, split, resize, download=download)

    return with_splits if len(spec.splits) > 1 else simple


for _name in DATASETS:
    _spec = find_dataset(_name)
    prepare_app.command(_name, help=_spec.summary)(_command(_name, _spec))


@data_app.command()
def check(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder of captioned images with a manifest.", callback=existing_folder
        ),
    ],
    max_words: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Count the captions with more words, as text_encoder.max_words of a recipe. "
            "Default: 32.",
            show_default=False,
        ),
    ] = None,
    cache: Cache = None,
) -> None:
    """Check a manifest and decode every image. Exit code 1 if there are errors."""
    with handle_errors():
        from dualpath.data.check import check_folder

        with bar("checking images") as progress:
            report = check_folder(folder, cache, progress, max_words=max_words)
        for line in report.counts:
            out_console.print(line, markup=False)
        for line in report.warnings:
            log(f"warning: {line}")
        for line in report.errors:
            err_console.print(f"error: {line}", markup=False)
        if report.errors:
            raise typer.Exit(1)
