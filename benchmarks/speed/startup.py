"""CPU seconds and peak memory of whole processes that start, answer once and end.

    python benchmarks/speed/startup.py demo/gallery --rclip rclip/bin/rclip

The model of the gallery must be where the gallery records it. ``--rclip`` is the program of rclip
in an environment of its own. Its model is downloaded at the first search, so its help is timed.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from rich.console import Console
from rich.table import Table

RUNS = 5


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command to its end; return its CPU seconds and its peak memory in MB."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}: {error.decode()}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def measure_server(command: list[str]) -> tuple[float, float]:
    """Start a server, stop it when it is ready, and return what it used until then."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([*command, "--port", str(port)], stderr=subprocess.DEVNULL)
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5)
            break
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None:
                sys.exit(f"{' '.join(command)}: ended before it was ready")
            time.sleep(0.05)
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    peak = next(
        line.split()[1]
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    process.terminate()
    process.wait()
    return seconds, int(peak) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gallery")
    parser.add_argument("--python", default=sys.executable, help="of the environment to measure")
    parser.add_argument("--rclip", help="program of rclip")
    options = parser.parse_args()
    dualpath = [options.python, "-m", "dualpath"]
    rows = {
        "dualpath --help": (measure, [*dualpath, "--help"]),
        "dualpath gallery info": (measure, [*dualpath, "gallery", "info", options.gallery]),
        "dualpath search": (measure, [*dualpath, "search", options.gallery, "three green stars"]),
        "dualpath serve, until ready": (measure_server, [*dualpath, "serve", options.gallery]),
        "import torch": (measure, [sys.executable, "-c", "import torch"]),
    }
    if options.rclip:
        rows["rclip --help"] = (measure, [options.rclip, "--help"])
    table = Table(title=f"median of {RUNS}")
    for column in ("process", "CPU seconds", "peak memory, MB"):
        table.add_column(column, justify="left" if column == "process" else "right")
    for name, (function, command) in rows.items():
        results = [function(command) for _ in range(RUNS)]
        seconds, memory = (statistics.median(values) for values in zip(*results, strict=True))
        table.add_row(name, f"{seconds:.2f}", f"{memory:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
