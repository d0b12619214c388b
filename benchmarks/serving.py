"""The server under load: sentences from many clients, on this machine alone.

    python benchmarks/serving.py --gallery photos.db                     # one client, then 32
    python benchmarks/serving.py --model model --rows 100000 --out big   # made-up vectors

Prints p50 and p99 from request to answer (the sentence is encoded by the server), errors, and the
server's memory at the start, in the middle and at the end.
"""

import argparse
import asyncio
import json
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
from gallery import CHUNK, Lance, vectors

WORDS = [
    "a",
    "red",
    "blue",
    "green",
    "big",
    "small",
    "dog",
    "man",
    "woman",
    "child",
    "runs",
    "jumps",
    "on",
    "in",
    "grass",
    "water",
    "snow",
    "two",
]


def made_up(options: argparse.Namespace) -> Path:
    """Fill a gallery of a model with made-up vectors."""
    shutil.rmtree(options.out, ignore_errors=True)
    model = dualpath.load(options.model)
    with dualpath.Gallery.open(options.out, model=model) as gallery:
        gallery.learn([options.out.parent.resolve()], [("", {"colour": "red", "year": 1.0})])
    store = Lance(options.out, model.dim)
    centres = max(1, options.rows // 1000)
    for number, chunk in enumerate(vectors(options.rows, model.dim, centres, 1)):
        store.insert(number * CHUNK, chunk)
    store.build()
    return Path(options.out)


def sentence(source: random.Random) -> str:
    return " ".join(source.choices(WORDS, k=source.randint(3, 10)))


async def load(url: str, clients: int, seconds: float) -> tuple[list[float], int]:
    """Let so many clients ask one sentence after another; return the seconds of each, errors."""
    taken: list[float] = []
    errors = 0

    async def ask(number: int) -> None:
        nonlocal errors
        source, end = random.Random(number), time.monotonic() + seconds
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            while time.monotonic() < end:
                begun = time.perf_counter()
                answer = await client.get("/v1/search", params={"q": sentence(source), "top": 20})
                taken.append(time.perf_counter() - begun)
                errors += answer.status_code != 200

    await asyncio.gather(*(ask(number) for number in range(clients)))
    return sorted(taken), errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--gallery", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    address = options.gallery or made_up(options)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dualpath", "serve", str(address), "--port", str(port)]
    server = subprocess.Popen([*command, "--rate", "1000000/second"])
    url, console = f"http://127.0.0.1:{port}", Console(soft_wrap=True)
    try:
        while server.poll() is None:
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        process = psutil.Process(server.pid)
        total = json.loads(httpx.get(f"{url}/v1/about").text)["images"]
        table = Table(title=f"{address}: {total:,} images, top 20")
        for column in ("clients", "seconds", "requests", "errors", "p50 ms", "p99 ms", "MiB"):
            table.add_column(column, justify="right")
        rounds = [(1, 10.0), *((options.clients, options.seconds / 4) for _ in range(4))]
        for clients, seconds in rounds:
            taken, errors = asyncio.run(load(url, clients, seconds))
            table.add_row(
                str(clients),
                f"{seconds:g}",
                f"{len(taken):,}",
                str(errors),
                f"{1000 * statistics.median(taken):.0f}",
                f"{1000 * taken[int(0.99 * len(taken))]:.0f}",
                f"{process.memory_info().rss / 2**20:,.0f}",
            )
        console.print(table)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(40)


if __name__ == "__main__":
    main()
