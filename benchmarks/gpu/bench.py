"""Measure DualPath on a GPU, beside bare forward and backward passes of the same modules.

    PYTHONPATH=src bash benchmarks/gpu/run.sh --out gpu.json

Every part runs in a process of its own and has a time limit. If a part fails or takes too long,
its traceback is written to the report, and the other parts run. A row is written as soon as it is
measured. ``--device cpu --small`` runs all parts with small networks and few steps on a CPU.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from report import environment, markdown
from worker import Worker

# Time limit of each part in seconds. Later parts get less if the time of the whole run is short.
LIMITS = {
    "tests": 110,
    "steps": 100,
    "trainer": 130,
    "profile": 60,
    "embedding": 45,
    "classes": 45,
    "end_to_end": 130,
}
DRAWING = 100  # seconds, time limit for the images, which are drawn while the tests run
RESERVE = 5  # seconds for the report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="small networks and few steps")
    parser.add_argument("--seconds", type=float, default=440, help="time limit of the whole run")
    parser.add_argument("--only", nargs="*", default=list(LIMITS), choices=list(LIMITS))
    parser.add_argument("--commit", help="the measured commit, if this is not a git repository")
    options = parser.parse_args()
    started = time.monotonic()
    report: dict[str, Any] = {**environment(options.commit), "small": options.small, "parts": []}
    print(json.dumps(report, indent=1))
    slower = 10 if options.device == "cpu" else 1  # the limits are those of a GPU

    def elapsed() -> str:
        return f"[{time.monotonic() - started:5.0f} s]"

    def save() -> None:
        report["seconds"] = round(time.monotonic() - started, 1)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")

    def add(result: dict[str, Any]) -> None:
        report["parts"].append(result)
        print(f"{elapsed()} {result['part']}: {result['status']}", flush=True)
        save()

    with tempfile.TemporaryDirectory(prefix="dualpath-gpu-") as scratch:

        def worker(part: str) -> Worker:
            return Worker(part, options.device, small=options.small, scratch=Path(scratch))

        drawing, following = worker("images"), worker(options.only[0])
        drawing.start()
        if options.only[0] != "tests":  # other parts measure times, and drawing would disturb them
            add(drawing.finish(slower * DRAWING))
        for number, part in enumerate(options.only):
            current = following
            if number + 1 < len(options.only):  # the next process imports its modules meanwhile
                following = worker(options.only[number + 1])
            left = slower * options.seconds - RESERVE - (time.monotonic() - started)
            print(f"{elapsed()} {part} starts", flush=True)
            add(current.run(min(slower * LIMITS[part], max(left, 0))))
            if part == "tests":
                add(drawing.finish(slower * DRAWING))
    save()
    print(markdown(report))
    sys.exit(any(part["status"] != "done" for part in report["parts"]))


if __name__ == "__main__":
    main()
