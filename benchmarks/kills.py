"""Kill an indexing run at random moments, then complete it and verify the gallery.

    python benchmarks/kills.py photos --model model --out killed --kills 20

Each run is killed by SIGKILL. The exit code is that of ``dualpath gallery verify``.
"""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import dualpath
from common import command_line

COMMAND = [sys.executable, "-m", "dualpath", "gallery"]


def count_images(gallery: Path) -> int:
    """Return the number of images of a gallery; 0 if it does not exist yet."""
    try:
        with dualpath.Gallery.open(gallery) as opened:
            return len(opened)
    except dualpath.GalleryError:
        return 0


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("folder", type=Path, help="folder of images")
    parser.add_argument("--model", required=True, help="folder of a trained model")
    parser.add_argument(
        "--out", type=Path, required=True, help="gallery to fill; its content is deleted first"
    )
    parser.add_argument("--kills", type=int, default=20, help="default: 20")
    parser.add_argument(
        "--start", type=float, default=4.0, help="seconds before the earliest kill; default: 4"
    )
    parser.add_argument(
        "--longest", type=float, default=12.0, help="seconds between the earliest and the latest "
        "possible kill; default: 12",
    )  # fmt: skip
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    add = [*COMMAND, "add", str(options.out), str(options.folder), "--model", options.model]
    generator = random.Random(0)
    for number in range(1, options.kills + 1):
        process = subprocess.Popen(add, stderr=subprocess.DEVNULL)
        time.sleep(options.start + generator.uniform(0, options.longest))
        finished = process.poll() is not None
        process.kill()
        process.wait()
        note = " (the run had finished before)" if finished else ""
        print(f"kill {number}: {count_images(options.out):,} images{note}", flush=True)
    subprocess.run(add, check=True)
    verify = [*COMMAND, "verify", str(options.out)]
    raise SystemExit(subprocess.run(verify, check=False).returncode)


if __name__ == "__main__":
    main()
