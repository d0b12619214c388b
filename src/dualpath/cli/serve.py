"""``dualpath serve`` and ``dualpath keys``: a gallery over HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from dualpath.cli.console import err_console, handle_errors, out_console
from dualpath.cli.gallery import Address, Model, fill, open_with_model

keys_app = typer.Typer(no_args_is_help=True)

KeyFile = Annotated[Path, typer.Argument(metavar="KEYS", help="File of keys (JSON).")]


def serve(
    address: Address,
    model: Model = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    keys: Annotated[
        Path | None, typer.Option(help="File of API keys; needed beyond this machine.")
    ] = None,
    uploads: Annotated[
        Path | None, typer.Option(help="Allow changes; images that are sent are kept here.")
    ] = None,
    add: Annotated[Path | None, typer.Option(help="Index this folder first.")] = None,
    rate: Annotated[str, typer.Option(help="Requests that one client may send.")] = "3000/minute",
) -> None:
    """Serve a gallery: an API under /v1 and a page to search it in the browser."""
    with handle_errors():
        from dualpath.server.access import Keys, ServerError, local_hosts, loopback

        known = None if keys is None else Keys(keys)
        if known is not None and not known.keys:
            raise ServerError(f"{keys}: holds no key; make one: dualpath keys add {keys} NAME")
        if known is None and not loopback(host):
            raise ServerError(
                f"{host} can be reached by others: make a key with dualpath keys add keys.json "
                "NAME, and start with --keys keys.json"
            )
        from dualpath.server.app import Settings
        from dualpath.server.server import serve as run

        gallery = open_with_model(address, model)
        if add is not None:
            fill(gallery, add)
        if uploads is not None:
            uploads = uploads.resolve()
            uploads.mkdir(parents=True, exist_ok=True)
            gallery.register_fields([uploads], [])
        settings = Settings(
            keys=known,
            hosts=local_hosts(host) if known is None else None,
            uploads=uploads,
            rate=rate,
        )
        run(gallery, settings, host, port, lambda line: err_console.print(line, markup=False))


@keys_app.command("add")
def add_key(
    file: KeyFile,
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    write: Annotated[bool, typer.Option("--write", help="May also change the gallery.")] = False,
) -> None:
    """Make an API key and print it, this once; the file keeps its hash."""
    with handle_errors():
        from dualpath.server.access import Keys

        typer.echo(Keys(file).add(name, "write" if write else "read"))


@keys_app.command("list")
def list_keys(file: KeyFile) -> None:
    """List the keys of a file."""
    with handle_errors():
        from dualpath.server.access import Keys

        for key in Keys(file).keys:
            out_console.print(f"{key.name:20} {key.scope:6} {key.made}", markup=False)


@keys_app.command("revoke")
def revoke_key(file: KeyFile, name: Annotated[str, typer.Argument()]) -> None:
    """Forget a key; servers that run must be started again."""
    with handle_errors():
        from dualpath.server.access import Keys

        Keys(file).revoke(name)
