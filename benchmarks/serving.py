"""Measure the server under load: sentences from many clients on the same machine.

    python benchmarks/serving.py --gallery photos.db
    python benchmarks/serving.py --model model --rows 100000 --out big   # random vectors

One client sends requests for ten seconds. Then --clients clients send them for --seconds seconds,
in four rounds. The server embeds the sentences. Prints the time from request to answer (p50, p99),
the number of errors, the CPU time of the server per request, and its memory after each round.

With --compare SRC, the server of another checkout is measured first, on the same gallery. The bare
text encoder and the bare index are measured last.
"""

import argparse
import asyncio
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
from rich.console import Console
from rich.table import Table

import dualpath
from common import command_line
from dualpath.gallery.derived.files import open_view
from dualpath.gallery.info import register_fields
from dualpath.gallery.schema import IMAGES
from gallery_engines import CHUNK, Lance, random_vectors
from load import random_sentence, send_requests

START_SECONDS = 120
ROUNDS = 4


def write_random_gallery(options: argparse.Namespace) -> Path:
    """Fill a gallery of a model with random vectors and return its folder."""
    out: Path = options.out
    shutil.rmtree(out, ignore_errors=True)
    model = dualpath.load(options.model)
    with dualpath.Gallery.open(out, model=model) as gallery:
        metadata = [("", {"colour": "red", "year": 1.0})]
        root = out.parent.resolve()
        register_fields(gallery.store, gallery.address, gallery.info, [root], metadata)
    engine = Lance(out, model.dim)
    centres = max(1, options.rows // 1000)
    for number, chunk in enumerate(random_vectors(options.rows, model.dim, centres, seed=1)):
        engine.insert(number * CHUNK, chunk)
    engine.build()
    return out


def wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers; raise ``SystemExit`` if it does not start."""
    end = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < end:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit("the server did not start")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure_server(
    gallery: Path, source: Path | None, options: argparse.Namespace, table: Table
) -> tuple[float, float]:
    """Start a server, measure it, and add rows to the table.

    Args:
        gallery: to serve.
        source: folder of the package that serves. None: the installed one.
        options: of the command line.
        table: of results.

    Returns:
        The median milliseconds of one client, and the median requests a second of all clients.
    """
    port = free_port()
    command = [sys.executable, "-m", "dualpath", "serve", str(gallery), "--port", str(port)]
    environment = {**os.environ, **({"PYTHONPATH": str(source)} if source else {})}
    server = subprocess.Popen([*command, "--rate", "1000000/second"], env=environment)
    alone, rates = 0.0, []
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", server)
        # An index in memory is built now; the server answers meanwhile.
        asyncio.run(send_requests(port, 1, options.settle))
        rounds = [(1, options.alone), *[(options.clients, options.seconds / ROUNDS)] * ROUNDS]
        process = psutil.Process(server.pid)
        for clients, seconds in rounds:
            before = sum(process.cpu_times()[:2])
            durations, errors = asyncio.run(send_requests(port, clients, seconds))
            used = sum(process.cpu_times()[:2]) - before
            median = 1000 * statistics.median(durations)
            alone = alone or median
            rates += [len(durations) / seconds] if clients > 1 else []
            memory = process.memory_info()
            table.add_row(
                str(source or "this"),
                str(clients),
                f"{seconds:g}",
                f"{len(durations) / seconds:,.0f}",
                str(errors),
                f"{median:.2f}",
                f"{1000 * durations[int(0.99 * len(durations))]:.2f}",
                f"{1000 * used / len(durations):.2f}",
                f"{memory.rss / 2**20:,.0f}",
                f"{memory.shared / 2**20:,.0f}",
            )
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(40)
    return alone, statistics.median(rates)


def bare_milliseconds(gallery: Path) -> tuple[float, float]:
    """Return the median milliseconds of embedding one sentence, and of faiss alone."""
    with dualpath.Gallery.open(gallery) as opened:
        model = opened.model
        view = open_view(gallery / "derived", IMAGES)
        if view is None or view.cells is None:
            return float("nan"), float("nan")
        allowed = view.cells.allow(view.alive)
        generator, encoding, searching = random.Random(0), [], []
        for _ in range(300):
            start = time.perf_counter()
            vectors = model.embed_texts([random_sentence(generator)])
            middle = time.perf_counter()
            view.cells.candidates(vectors, 60, allowed, view.cells.coverage)
            encoding.append(1000 * (middle - start))
            searching.append(1000 * (time.perf_counter() - middle))
    return statistics.median(encoding), statistics.median(searching)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--gallery", type=Path, help="folder of a gallery")
    parser.add_argument(
        "--model", help="folder of a trained model, for a gallery of random vectors"
    )
    parser.add_argument("--rows", type=int, default=100_000, help="random vectors; default: 100000")
    parser.add_argument(
        "--out", type=Path, help="gallery of random vectors; its content is deleted first"
    )
    parser.add_argument("--clients", type=int, default=32, help="default: 32")
    parser.add_argument("--seconds", type=float, default=60, help="in all rounds; default: 60")
    parser.add_argument("--alone", type=float, default=10, help="of one client; default: 10")
    parser.add_argument("--settle", type=float, default=10, help="before that; default: 10")
    parser.add_argument("--compare", type=Path, help="folder src of another checkout")
    options = parser.parse_args()
    if options.gallery is None and (options.model is None or options.out is None):
        parser.error("give --gallery, or --model and --out")
    gallery = options.gallery or write_random_gallery(options)
    table = Table(title=f"{gallery}: top 20, {os.cpu_count()} cores")
    columns = ("server", "clients", "seconds", "requests/s", "errors", "p50 ms", "p99 ms")
    for column in (*columns, "CPU ms each", "MiB", "of it mapped"):
        table.add_column(column, justify="left" if column == "server" else "right")
    console = Console(soft_wrap=True, width=140)
    old = measure_server(gallery, options.compare, options, table) if options.compare else None
    new = measure_server(gallery, None, options, table)
    console.print(table)
    encoder, index = bare_milliseconds(gallery)
    console.print(
        f"one client {new[0]:.2f} ms; bare text encoder {encoder:.2f} ms and bare index "
        f"{index:.2f} ms: ratio {new[0] / (encoder + index):.2f}"
    )
    if old is not None:
        console.print(f"requests a second, compared with {options.compare}: {new[1] / old[1]:.1f}")


if __name__ == "__main__":
    main()
