"""Starting and stopping the server."""

import sys
from collections.abc import Callable

import uvicorn

from dualpath.gallery.gallery import Gallery
from dualpath.server.app import create_app
from dualpath.server.settings import Settings, secure_settings

_SHUTDOWN_SECONDS = 30  # for the requests that are in progress when the server stops
# The thread that answers requests waits for the thread that searches, up to this long, after every
# call of the network. Python's default of 5 ms would delay each of 32 requests by many times that.
_SWITCH_SECONDS = 0.0005


def serve(
    gallery: Gallery,
    settings: Settings | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve a gallery until the process gets SIGINT or SIGTERM.

    Requests that are in progress are then completed, within 30 seconds.

    Args:
        gallery: to serve.
        settings: of the server. None: the defaults.
        host: address to listen on.
        port: port to listen on.
        announce: called with a line that contains the URL of the server.

    Raises:
        ServerError: other machines can reach ``host`` but no key is required, or the key file
            contains no key.
        GalleryError: the model of the gallery cannot be loaded.
    """
    app = create_app(gallery, secure_settings(settings or Settings(), host))
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    sys.setswitchinterval(_SWITCH_SECONDS)
    announce(f"http://{f'[{host}]' if ':' in host else host}:{port}/  (stop with Ctrl-C)")
    uvicorn.Server(config).run()
