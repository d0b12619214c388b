"""``dualpath gallery publish``: write a gallery as static files."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dualpath.cli.console import bar, existing_folder, handle_errors, log, out_console, print_rows
from dualpath.cli.gallery import Address, open_gallery

if TYPE_CHECKING:
    from dualpath.publishing.publish import Publication

_MB = 1e6


class Weights(StrEnum):
    """Forms of the weights of the text encoder."""

    AUTO = "auto"
    INT8 = "int8"
    FP16 = "fp16"
    FP32 = "fp32"


def publish(
    address: Address,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder to write. A folder that was published before is replaced.",
            file_okay=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Bundle of the gallery. Default: the one that the gallery records.",
            show_default=False,
        ),
    ] = None,
    max_size: Annotated[
        int, typer.Option(min=32, max=4096, help="Largest side of a thumbnail in pixels.")
    ] = 512,
    originals: Annotated[
        bool,
        typer.Option(
            "--originals",
            help="Also copy the image files at full size, with the metadata in them, such as the "
            "place where a photo was taken.",
        ),
    ] = False,
    weights: Annotated[
        Weights,
        typer.Option(
            help="Weights of the text encoder: int8, fp16, fp32, or auto for the smallest that "
            "costs at most 0.5 points of R@10.",
        ),
    ] = Weights.AUTO,
    runtime: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the npm package onnxruntime-web. Default: it is downloaded once from "
            "the npm registry (26 MB) and its checksum is compared.",
            callback=existing_folder,
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before publishing.")] = False,
) -> None:
    """Write a gallery as static files that search in the browser, without a server.

    The folder can be copied to any static web host, also below a path. Queries do not leave the
    browser. Names, captions, metadata and thumbnails of all images become public.
    """

    def confirm(publication: "Publication") -> bool:
        _describe(publication)
        return yes or typer.confirm(f"Write this to {out}?", err=True)

    with handle_errors("; nothing was written"), open_gallery(address) as gallery:
        from dualpath.publishing.publish import publish_gallery

        with bar("thumbnails", len(gallery)) as progress:
            publication = publish_gallery(
                gallery,
                out,
                bundle=model,
                max_size=max_size,
                originals=originals,
                weights=weights.value,
                runtime=runtime,
                confirm=confirm,
                progress=progress,
            )
        if publication is None:
            log("nothing was written")
            raise typer.Exit(1)
        out_console.print(
            f"published: {out}; try it with: python -m http.server --directory {out}",
            markup=False,
            highlight=False,
        )


def _describe(publication: "Publication") -> None:
    for line in publication.broken:
        log(f"left out: {line}")
    graph = publication.graph
    if graph.recall is None:
        recall = "fp32, not measured since the gallery has no captions"
    else:
        recall = (
            f"{graph.weights}, R@10 {graph.recall:.1f} (fp32: {graph.exact_recall:.1f}), "
            f"{graph.agreement:.1f} % of the ten nearest as with fp32"
        )
    sizes = {name: f"{size / _MB:,.2f} MB" for name, size in publication.bytes.items()}
    out_console.print("This becomes public:", markup=False)
    print_rows(
        {
            "images": f"{publication.images:,}, with their names",
            "captions": f"{publication.captions:,}",
            "metadata": ", ".join(publication.fields) or "none",
            "image files": "at full size" if publication.originals else "no, thumbnails only",
            "search": recall,
        }
    )
    for name, size in {
        **sizes,
        "total": f"{sum(publication.bytes.values()) / _MB:,.2f} MB",
    }.items():
        out_console.print(f"  {name:26} {size}", markup=False, highlight=False)
