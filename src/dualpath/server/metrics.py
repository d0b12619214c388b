"""Metrics for Prometheus."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """The metrics of one server, in a registry of their own.

    Attributes:
        requests: responses, by method, route and status.
        seconds: duration of requests, by route.
        batch: number of queries in a batch.
        images: number of images in the gallery.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter(
            "dualpath_requests", "Requests answered.", labels, registry=self._registry
        )
        self.seconds = Histogram(
            "dualpath_request_seconds",
            "Time from request to response.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.batch = Histogram(
            "dualpath_batch_queries",
            "Queries embedded in one forward pass.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self._registry,
        )
        self.images = Gauge(
            "dualpath_gallery_images", "Images in the gallery.", registry=self._registry
        )

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class MetricsMiddleware:
    """ASGI middleware that counts requests and measures their duration, by route."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def send_and_record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_record_status)
        finally:
            route = getattr(scope.get("route"), "name", "none")
            self._metrics.requests.labels(scope["method"], route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - start)
