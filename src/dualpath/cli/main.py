"""The command ``dualpath``: its groups of commands, ``--version`` and shell completion."""

import os
from typing import Annotated

import typer

from dualpath.cli import classify, datasets, gallery, models, pretrained, publish, serve, train

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes as long to import as all else
    help="Train an image-text embedding on captioned images, measure it, and search images by "
    "sentence.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

app.command()(train.train)
app.command()(models.evaluate)
app.command()(models.embed)
app.command()(classify.classify)
app.command()(models.export)
app.command()(models.info)
app.command()(pretrained.pretrained)
app.command()(train.recipes)
app.add_typer(gallery.app, name="gallery", help="Index images and maintain a gallery.")
gallery.app.command()(publish.publish)
app.command()(gallery.search)
app.command()(serve.serve)
app.add_typer(serve.keys_app, name="keys", help="Create and revoke API keys.")
app.add_typer(
    datasets.prepare_app, name="prepare", help="Write a folder of captioned images from a data set."
)
app.add_typer(datasets.data_app, name="data", help="Check a folder of captioned images.")


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"dualpath {version('dualpath')}")
        raise typer.Exit


def _set_max_pixels(pixels: int | None) -> int | None:
    """Set the limit for this process and those that it starts."""
    if pixels is not None:
        os.environ["DUALPATH_MAX_PIXELS"] = str(pixels)
    return pixels


@app.callback()
def _main(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
    _max_pixels: Annotated[
        int | None,
        typer.Option(
            "--max-pixels",
            min=1,
            envvar="DUALPATH_MAX_PIXELS",
            help="Read images of up to this many pixels, such as panoramas. Default: 89,478,485.",
            show_default=False,
            callback=_set_max_pixels,
        ),
    ] = None,
) -> None:
    pass
