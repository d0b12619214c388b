"""An indexing run that is killed at random moments, then completed and verified.

    python benchmarks/kills.py photos --model model --out killed --kills 20

Each run is killed (SIGKILL) some moments after it has begun to read images.
"""

import argparse
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import dualpath

COMMAND = [sys.executable, "-m", "dualpath", "gallery"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True, help="gallery, emptied first")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--start", type=float, default=4.0, help="seconds before the first moment")
    parser.add_argument("--longest", type=float, default=12.0, help="seconds after that")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    add = [*COMMAND, "add", str(options.out), str(options.folder), "--model", options.model]
    moments = random.Random(0)
    for number in range(1, options.kills + 1):
        process = subprocess.Popen(add, stderr=subprocess.DEVNULL)
        time.sleep(options.start + moments.uniform(0, options.longest))
        ended = process.poll() is not None
        process.kill()
        process.wait()
        try:
            with dualpath.Gallery.open(options.out) as gallery:
                there = len(gallery)
        except ValueError:
            there = 0
        print(f"kill {number}: {there:,} images{' (it had ended)' if ended else ''}", flush=True)
    subprocess.run(add, check=True)
    raise SystemExit(subprocess.run([*COMMAND, "verify", str(options.out)], check=False).returncode)


if __name__ == "__main__":
    main()
