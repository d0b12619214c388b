"""Rules for every request and response, whatever the route."""

import logging
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("dualpath.server")

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class SecurityMiddleware:
    """ASGI middleware that checks host, origin and size of requests and adds security headers.

    Unexpected errors become a response without details.

    Args:
        app: the application.
        hosts: host names that requests may use. None: any name. See
            :func:`dualpath.server.settings.secure_settings`.
        max_bytes: largest body of a request.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] | None, max_bytes: int) -> None:
        self._app, self._hosts, self._max_bytes = app, hosts, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, too_large, received = False, False, 0

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        async def send_unless_too_large(message: Message) -> None:
            if started or not too_large:
                await send_with_headers(message)

        async def receive_within_limit() -> Message:
            nonlocal received, too_large
            message = await receive()
            received += len(message.get("body", b""))
            too_large = too_large or received > self._max_bytes
            return {"type": "http.disconnect"} if too_large else message

        response = self._refuse(scope)
        if response is None:
            try:
                await self._app(scope, receive_within_limit, send_unless_too_large)
            except Exception:
                if not too_large:
                    log.exception("%s failed", scope["path"])
                response = JSONResponse({"detail": "internal error; see the server's log"}, 500)
            if too_large:
                response = self._too_large()
        if response is not None and not started:
            await response(scope, receive, send_with_headers)

    def _refuse(self, scope: Scope) -> JSONResponse | None:
        """Return the response to a request that is refused. None: the request is admitted."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and _host_name(host) not in self._hosts:
            return JSONResponse({"detail": "unknown host"}, 400)
        origin = headers.get("origin")
        may_write = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if may_write and origin is not None and urlsplit(origin).netloc != host:
            return JSONResponse({"detail": "requests from other web sites are refused"}, 403)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> JSONResponse:
        limit = f"{self._max_bytes / 2**20:.0f} MiB"
        return JSONResponse({"detail": f"the request is too large; the limit is {limit}"}, 413)


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
