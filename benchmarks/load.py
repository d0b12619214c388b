"""Clients that send searches to a server, with as little work of their own as possible.

A full HTTP client needs more CPU time for a request than the server, on the same cores.
"""

import asyncio
import random
import time
from urllib.parse import quote

NOUNS = ("dog", "man", "woman", "child", "grass", "water", "snow")
WORDS = ("a", "red", "blue", "green", "big", "small", "runs", "jumps", "on", "in", "two", *NOUNS)


def random_sentence(generator: random.Random) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(3, 10)))


async def search_repeatedly(port: int, number: int, end: float, durations: list[float]) -> int:
    """Search until ``end``, add the seconds of each request, and return the number of errors."""
    generator, errors = random.Random(number), 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < end:
        path = f"/v1/search?top=20&q={quote(random_sentence(generator))}"
        start = time.perf_counter()
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        durations.append(time.perf_counter() - start)
        errors += b" 200 " not in head.split(b"\r\n", 1)[0]
    writer.close()
    return errors


async def send_requests(port: int, clients: int, seconds: float) -> tuple[list[float], int]:
    """Let clients search again and again; return the sorted seconds of requests, and the errors."""
    durations: list[float] = []
    end = time.monotonic() + seconds
    searches = (search_repeatedly(port, number, end, durations) for number in range(clients))
    errors = await asyncio.gather(*searches)
    return sorted(durations), sum(errors)
