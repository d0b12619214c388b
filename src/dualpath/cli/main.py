"""The command ``dualpath``: its groups of commands, ``--version`` and shell completion."""

from importlib.metadata import version
from typing import Annotated

import typer

from dualpath.cli import datasets, gallery, models, publish, serve, train

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train an image-text embedding on captioned images, measure it, and search images by "
    "sentence.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_TRAINING = "Train and use a model"
_SEARCH = "Search images"
_DATA = "Data"

app.command(rich_help_panel=_TRAINING)(train.train)
app.command(rich_help_panel=_TRAINING)(models.evaluate)
app.command(rich_help_panel=_TRAINING)(models.embed)
app.command(rich_help_panel=_TRAINING)(models.export)
app.command(rich_help_panel=_TRAINING)(models.info)
app.command(rich_help_panel=_TRAINING)(train.recipes)
app.add_typer(
    gallery.app,
    name="gallery",
    help="Index images and maintain a gallery.",
    rich_help_panel=_SEARCH,
)
gallery.app.command()(publish.publish)
app.command(rich_help_panel=_SEARCH)(gallery.search)
app.command(rich_help_panel=_SEARCH)(serve.serve)
app.add_typer(
    serve.keys_app, name="keys", help="Create and revoke API keys.", rich_help_panel=_SEARCH
)
app.add_typer(
    datasets.prepare_app,
    name="prepare",
    help="Write a folder of captioned images from a data set.",
    rich_help_panel=_DATA,
)
app.add_typer(
    datasets.data_app,
    name="data",
    help="Check a folder of captioned images.",
    rich_help_panel=_DATA,
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"dualpath {version('dualpath')}")
        raise typer.Exit


@app.callback()
def _main(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass
