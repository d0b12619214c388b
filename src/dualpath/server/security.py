"""What every request and every answer goes through, whatever the route."""

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
    """ASGI middleware: hosts, origins, size of bodies, headers, and errors without details.

    Args:
        hosts: names the server answers to; none: any. Without keys this keeps a page elsewhere
            from reaching a server on this machine under a name of its own (DNS rebinding).
        max_bytes: the longest body.
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

        answer = self._refusal(scope)
        if answer is None:
            try:
                await self._app(scope, receive_within_limit, send_unless_too_large)
            except Exception:
                if not too_large:
                    log.exception("%s failed", scope["path"])
                answer = JSONResponse({"detail": "internal error; see the server's log"}, 500)
            if too_large:
                answer = self._too_large()
        if answer is not None and not started:
            await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and _host_name(host) not in self._hosts:
            return JSONResponse({"detail": "unknown host"}, 400)
        origin = headers.get("origin")
        changes = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if changes and origin is not None and urlsplit(origin).netloc != host:
            return JSONResponse({"detail": "requests of other pages are refused"}, 403)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> JSONResponse:
        limit = f"{self._max_bytes / 2**20:.0f} MiB"
        return JSONResponse({"detail": f"too large; at most {limit}"}, 413)


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
