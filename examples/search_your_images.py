"""Index a folder of images that have no captions, and search it.

    python examples/search_your_images.py FOLDER --model BUNDLE --queries "a red bus" "two dogs"

BUNDLE is the folder of a trained model, for example "example/model" of train_and_search.py. The
script searches by sentences, by an image, and with a filter. For filters, it gives each image three
metadata fields: the folder, the size in kilobytes, and the year of the file.

The gallery is written to the folder "my-images" (--out). Run the script again after adding images:
those that are already indexed are skipped.
"""

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import dualpath

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def write_metadata(images: Sequence[Path], manifest: Path) -> None:
    """Write a manifest: one JSON object per image; keys other than these two are metadata."""
    manifest.mkdir(parents=True, exist_ok=True)
    with (manifest / "metadata.jsonl").open("w") as file:
        for path in images:
            state = path.stat()
            row = {
                "file_name": str(path),
                "captions": [],
                "folder": path.parent.name,
                "kilobytes": round(state.st_size / 1000, 1),
                "year": datetime.fromtimestamp(state.st_mtime, UTC).year,
            }
            file.write(json.dumps(row) + "\n")


def show(title: str, hits: Sequence[dualpath.Hit]) -> None:
    print(f"\n{title}")
    for hit in hits:
        probability = "" if hit.probability is None else f"  {100 * hit.probability:.0f} %"
        print(f"  {hit.score:.3f}{probability}  {hit.image.path}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="images, at any depth")
    parser.add_argument("--model", required=True, help="folder of a trained model")
    parser.add_argument("--queries", nargs="+", default=["a red circle", "two blue squares"])
    parser.add_argument("--where", default="year >= 2000 and kilobytes < 100000", help="filter")
    parser.add_argument("--out", type=Path, default=Path("my-images"), help="default: my-images")
    options = parser.parse_args()

    folder = options.folder.resolve()
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not images:
        parser.error(f"{folder}: contains no images")
    write_metadata(images, options.out / "manifest")
    with dualpath.Gallery.open(options.out / "gallery", model=options.model) as gallery:
        # Without metadata, gallery.add(folder) is enough.
        summary = gallery.add(options.out / "manifest", roots=[folder])
        print(f"{summary.new} new images, {summary.unchanged} unchanged, {len(gallery)} in all")
        for query in options.queries:
            show(query, gallery.search(query, top=3))
        show(f"images like {images[0].name}", gallery.search(images[0], top=3))
        filtered = gallery.search(options.queries[0], top=3, where=options.where)
        show(f"{options.queries[0]}, where {options.where}", filtered)


if __name__ == "__main__":
    main()
