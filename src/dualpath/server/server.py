"""Starting and stopping the server."""

from collections.abc import Callable

import uvicorn

from dualpath.gallery.gallery import Gallery
from dualpath.server.app import Settings, create_app

_FINISH_WITHIN = 30  # seconds that requests in flight get when the server stops


def serve(
    gallery: Gallery, settings: Settings, host: str, port: int, say: Callable[[str], None]
) -> None:
    """Serve until told to stop (SIGINT, SIGTERM); what is in flight is finished first."""
    config = uvicorn.Config(
        create_app(gallery, settings),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_FINISH_WITHIN,
    )
    say(f"http://{f'[{host}]' if ':' in host else host}:{port}/  (stop with Ctrl-C)")
    uvicorn.Server(config).run()
