"""Draw captioned images, so that the benchmark needs no download."""

import json
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from setting import Setting

from dualpath.data.manifest import write_manifest
from dualpath.datasets.synthetic.shapes import write_shapes
from dualpath.recipes.schema import SplitRecipe

TRAIN, OTHER = 6000, 500  # photographs to train on; to validate on and to test on, each
SCENES = 3200  # as `dualpath prepare shapes` draws them
CHUNK = 250  # photographs drawn by one call
SIZE = (640, 480)  # pixels
_NOISE = 12.0  # standard deviation; without noise, a JPEG decodes faster than a photograph


def draw_images(setting: Setting) -> None:
    """Draw scenes as PNG files, and others as JPEG files of the size of photographs.

    The photographs are drawn in chunks by several processes, each with a seed of its own: one seed
    does not have as many different scenes. Their splits are those of Flickr8k.
    """
    train, other = (60, 20) if setting.small else (TRAIN, OTHER)
    scenes, chunk = (100, 25) if setting.small else (SCENES, CHUNK)
    total = train + 2 * other
    started = time.perf_counter()
    (setting.photographs / "images").mkdir(parents=True)
    with ProcessPoolExecutor(setting.cores) as pool:
        drawn_scenes = pool.submit(write_shapes, setting.scenes, scenes=scenes)
        draw = partial(_draw_photographs, setting.photographs, chunk)
        chunks = pool.map(draw, range(1, 1 + total // chunk))
        rows = [row for rows in chunks for row in rows]
        photographs_seconds = time.perf_counter() - started
        drawn_scenes.result()
    splits = ["train"] * train + ["val"] * other + ["test"] * other
    # The other parts wait for this manifest, so it is written last.
    write_manifest(
        setting.photographs,
        [{**row, "split": split} for row, split in zip(rows, splits, strict=True)],
    )
    sizes = [(setting.photographs / row["file_name"]).stat().st_size for row in rows]
    setting.add_row(
        {
            "scenes": scenes,
            "photographs": total,
            "seconds": time.perf_counter() - started,
            "seconds for photographs": photographs_seconds,
            "mean JPEG KiB": sum(sizes) / len(sizes) / 1024,
        }
    )


def _draw_photographs(folder: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """Draw noisy scenes as JPEG files, and return their rows of the manifest."""
    scenes = folder / f"scenes-{seed}"
    manifest = write_shapes(
        scenes, scenes=count, seed=seed, split=SplitRecipe(train=1.0, val=0.0, test=0.0)
    )
    generator = np.random.default_rng(seed)
    rows = []
    for line in manifest.read_text().splitlines():
        row = json.loads(line)
        name = f"images/{seed}-{Path(row['file_name']).stem}.jpg"
        with Image.open(scenes / row["file_name"]) as image:
            resized = image.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)
        pixels = np.asarray(resized, np.float32)
        noise = _NOISE * generator.standard_normal(pixels.shape[:2], np.float32)
        noisy = (pixels + noise[:, :, None]).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / name, quality=90)
        rows.append({"file_name": name, "captions": row["captions"]})
    shutil.rmtree(scenes)
    return rows
