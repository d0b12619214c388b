"""``dualpath serve`` and ``dualpath keys``: serve a gallery over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from dualpath.cli.console import existing_folder, handle_errors, log, out_console
from dualpath.cli.gallery import Address, Model, index_folder, open_gallery
from dualpath.utils.extras import needs_extra

keys_app = typer.Typer(no_args_is_help=True)


@contextmanager
def _server_errors() -> Iterator[None]:
    """Handle errors; a missing package of the server is reported with the extra that has it."""
    with handle_errors(), needs_extra("serve", "the server"):
        yield


KeyPath = Annotated[
    Path, typer.Argument(metavar="KEYS", help="File of API keys (JSON).", dir_okay=False)
]


def serve(
    address: Address,
    model: Model = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    keys: Annotated[
        Path | None,
        typer.Option(
            help="File of API keys. Required if other machines can reach the address.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    uploads: Annotated[
        Path | None,
        typer.Option(
            help="Allow clients to add and remove images. Uploaded images are stored in this "
            "folder.",
            file_okay=False,
            show_default=False,
        ),
    ] = None,
    add: Annotated[
        Path | None,
        typer.Option(
            help="Index this folder before serving.",
            callback=existing_folder,
            show_default=False,
        ),
    ] = None,
    rate: Annotated[str, typer.Option(help="Requests that one client may send.")] = "3000/minute",
) -> None:
    """Serve a gallery: an API under /v1 and a web page to search it."""
    with _server_errors():
        from dualpath.server.access import KeyFile
        from dualpath.server.settings import Settings, secure_settings

        key_file = None if keys is None else KeyFile(keys)
        settings = Settings(keys=key_file, uploads=uploads, rate=rate)
        settings = secure_settings(settings, host)  # before anything heavy is imported
        from dualpath.server import server

        with open_gallery(address, model) as gallery:
            if add is not None:
                index_folder(gallery, add)
            server.serve(gallery, settings, host=host, port=port, announce=log)


@keys_app.command("add")
def add_key(
    file: KeyPath,
    name: Annotated[str, typer.Argument(help="Name of the key, such as its user.")],
    write: Annotated[
        bool, typer.Option("--write", help="The key also permits adding and removing images.")
    ] = False,
) -> None:
    """Create an API key and print it. It is shown only once; the file stores its hash."""
    with _server_errors():
        from dualpath.server.access import KeyFile

        typer.echo(KeyFile(file).add(name, "write" if write else "read"))


@keys_app.command("list")
def list_keys(file: KeyPath) -> None:
    """List the keys of a file."""
    with _server_errors():
        from dualpath.server.access import KeyFile

        for key in KeyFile(file).keys:
            out_console.print(f"{key.name:20} {key.scope:6} {key.made}", markup=False)


@keys_app.command("revoke")
def revoke_key(
    file: KeyPath, name: Annotated[str, typer.Argument(help="Name of the key.")]
) -> None:
    """Delete a key. Restart running servers to apply the change."""
    with _server_errors():
        from dualpath.server.access import KeyFile

        KeyFile(file).revoke(name)
