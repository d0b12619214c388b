"""Measure the server under load: sentences from many clients on the same machine.

    python benchmarks/serving.py --gallery photos.db
    python benchmarks/serving.py --model model --rows 100000 --out big   # random vectors

One client sends requests for ten seconds. Then --clients clients send them for --seconds seconds,
in four rounds. The server embeds the sentences. Prints the time from request to answer (p50, p99),
the number of errors, and the server's memory after each round.
"""

import argparse
import asyncio
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
from dualpath.gallery.info import register_fields
from gallery_engines import CHUNK, Lance, random_vectors

NOUNS = ("dog", "man", "woman", "child", "grass", "water", "snow")
WORDS = ("a", "red", "blue", "green", "big", "small", "runs", "jumps", "on", "in", "two", *NOUNS)
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


def random_sentence(generator: random.Random) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(3, 10)))


async def send_requests(url: str, clients: int, seconds: float) -> tuple[list[float], int]:
    """Let clients search again and again; return the seconds of each request, and the errors."""
    durations: list[float] = []
    errors = 0

    async def run_client(number: int) -> None:
        nonlocal errors
        generator, end = random.Random(number), time.monotonic() + seconds
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            while time.monotonic() < end:
                query: dict[str, str | int] = {"q": random_sentence(generator), "top": 20}
                start = time.perf_counter()
                answer = await client.get("/v1/search", params=query)
                durations.append(time.perf_counter() - start)
                errors += answer.status_code != 200

    await asyncio.gather(*(run_client(number) for number in range(clients)))
    return sorted(durations), errors


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
    options = parser.parse_args()
    if options.gallery is None and (options.model is None or options.out is None):
        parser.error("give --gallery, or --model and --out")
    gallery = options.gallery or write_random_gallery(options)
    port = free_port()
    command = [sys.executable, "-m", "dualpath", "serve", str(gallery), "--port", str(port)]
    server = subprocess.Popen([*command, "--rate", "1000000/second"])
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, server)
        total = httpx.get(f"{url}/v1/about").json()["images"]
        table = Table(title=f"{gallery}: {total:,} images, top 20")
        for column in ("clients", "seconds", "requests", "errors", "p50 ms", "p99 ms", "MiB"):
            table.add_column(column, justify="right")
        rounds = [(1, options.alone), *[(options.clients, options.seconds / ROUNDS)] * ROUNDS]
        for clients, seconds in rounds:
            durations, errors = asyncio.run(send_requests(url, clients, seconds))
            table.add_row(
                str(clients),
                f"{seconds:g}",
                f"{len(durations):,}",
                str(errors),
                f"{1000 * statistics.median(durations):.0f}",
                f"{1000 * durations[int(0.99 * len(durations))]:.0f}",
                f"{psutil.Process(server.pid).memory_info().rss / 2**20:,.0f}",
            )
        Console(soft_wrap=True).print(table)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(40)


if __name__ == "__main__":
    main()
