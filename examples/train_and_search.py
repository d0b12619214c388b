"""Train a model on captioned images, measure it, index the images, and search them.

    python examples/train_and_search.py
    python examples/train_and_search.py photos --recipe default

The first command draws 500 images of coloured shapes and trains for some epochs of the recipe
"shapes": under a minute on a CPU. The second command trains the recipe "default" on your folder of
captioned photographs, with a manifest as in the guide "Your own images"; it downloads the weights
of an image backbone.

The model and the gallery are written to the folder "example" (--out).
"""

import argparse
from pathlib import Path

import dualpath
from dualpath.datasets.synthetic.shapes import write_shapes

SHORT = ["stages.0.epochs=2", "stages.1.epochs=6"]  # overrides for the drawn shapes
QUERIES = ["a big red circle to the left of a small blue square", "three little green stars"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", help="captioned images; default: drawn")
    parser.add_argument("--recipe", default="shapes", help="name or YAML file; default: shapes")
    parser.add_argument("--queries", nargs="+", default=QUERIES, help="sentences to search for")
    parser.add_argument("--out", type=Path, default=Path("example"), help="default: example")
    options = parser.parse_args()

    folder = options.folder
    if folder is None:
        folder = options.out / "shapes"
        write_shapes(folder, scenes=500, size=64)
    recipe = dualpath.read_recipe(options.recipe, [] if options.folder else SHORT)

    # Bars on standard error show the progress. Images without a split are split by the recipe.
    model = dualpath.train(recipe, folder, options.out / "model")

    result = dualpath.evaluate(model, folder, split="test")
    print(f"test split: {result.images} images, {result.captions} captions")
    print(f"text to image: R@1 {result.text_to_image.recall_at_1:.1f} %")
    if result.image_to_text is not None:
        print(f"image to text: R@1 {result.image_to_text.recall_at_1:.1f} %")

    # A gallery that is opened with the folder of a model remembers it.
    with dualpath.Gallery.open(options.out / "gallery", model=options.out / "model") as gallery:
        summary = gallery.add(folder)
        print(f"{summary.new} images indexed")
        for query in options.queries:
            print(f"\n{query}")
            for hit in gallery.search(query, top=3):
                caption = next(iter(hit.image.captions), "")
                print(f"  {hit.score:.3f}  {hit.image.name}  {caption}")


if __name__ == "__main__":
    main()
