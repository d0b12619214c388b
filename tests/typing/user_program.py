"""A program as a user writes it. ``mypy --strict`` checks it; nothing runs it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

import dualpath
from dualpath import DualPath, DualPathError, EvaluationResult, Gallery, Hit, TrainingEvent


def show(event: TrainingEvent) -> None:
    """Print what a training reports."""
    if event.validation is not None:
        print(event.stage, event.epoch, event.validation["rsum"])
    for name, value in event.losses.items():
        print(f"{name} {value:.3f}")


def train_a_model(data: Path, out: Path) -> DualPath:
    """Train a shipped recipe with changes."""
    dualpath.prepare("flickr8k", data.with_name("raw"), data, split="karpathy")
    recipe = dualpath.read_recipe("default", ["stages.0.epochs=3"])
    epochs: list[int] = [stage.epochs for stage in recipe.stages]
    print(recipe.name, sum(epochs))
    model = dualpath.train(recipe, data, out, progress=show)
    dualpath.train("default", data, out, resume=True, progress=False)
    return model


def measure(model: DualPath, data: Path) -> float:
    """Return the sum of the recalls."""
    result: EvaluationResult = dualpath.evaluate(model, data, split="val")
    if result.image_to_text is None or result.rsum is None:
        return result.text_to_image.recall_at_1
    return result.rsum


def rank(queries: npt.NDArray[np.float32], images: npt.NDArray[np.float32]) -> float:
    """Measure vectors of another model."""
    numbers = np.arange(len(queries))
    ranks: dualpath.Ranks = dualpath.rank_relevant(queries, images, numbers, numbers)
    metrics: dualpath.RetrievalMetrics = dualpath.retrieval_metrics(ranks)
    return max(metrics.map, dualpath.recall_at_k(ranks.first, 3))


def search(folder: Path, text: str) -> list[tuple[str, float]]:
    """Search the images of a folder."""
    try:
        with Gallery.open("photos.db", model="bundle") as gallery:
            gallery.add(folder)
            hits: list[Hit] = list(gallery.search(text, top=5, where="year >= 2020"))
            captions = [hit.caption for hit in gallery.search_captions(text)]
            print(len(gallery), captions)
            return [(hit.image.name, hit.score) for hit in hits]
    except DualPathError as error:
        print(error)
        return []


def similarities(bundle: str, texts: list[str], images: list[Path]) -> npt.NDArray[np.float32]:
    """Compare texts with images."""
    model = dualpath.load(bundle, device="cpu")
    exported = dualpath.export(bundle, images[0].parent, precision="int8")
    print(dualpath.__version__, model.dim, model.fingerprint, [one.speedup for one in exported])
    if model.calibration is not None:
        print(model.calibration.probability(0.3))
    model.save_pretrained("copy")
    address: str = model.push_to_hub("owner/name", private=True)
    print(address)
    scores: npt.NDArray[np.float32] = model.embed_texts(texts) @ model.embed_images(images).T
    return scores
