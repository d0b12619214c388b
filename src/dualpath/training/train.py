"""Train a recipe on a folder of captioned pictures, into a bundle."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from dualpath.bundle import BundleError
from dualpath.data.cache import default_cache_folder
from dualpath.data.manifest import read_manifest
from dualpath.data.tokenizer import Tokenizer
from dualpath.data.views import WHOLE
from dualpath.embedding import DualPath
from dualpath.evaluation.protocols import instance_numbers
from dualpath.models.dual_path import build_network, complete_recipe
from dualpath.models.text_transformer import TextTransformer
from dualpath.recipe import Recipe
from dualpath.recipe_file import read_recipe, write_recipe
from dualpath.training.checkpoints import CheckpointError
from dualpath.training.clusters import cluster_instances
from dualpath.training.feature_cache import cached_features
from dualpath.training.prepare import TrainingData, build_words, gather_data, set_word_vectors
from dualpath.training.progress import Display
from dualpath.training.scaling import scale_recipe
from dualpath.training.together import meet_processes
from dualpath.training.trainer import LAST, Trainer

WORK = "training"
_SAME_DATA, _CLASSES = "data.txt", "classes.npy"


def train(
    recipe: Recipe | str | Path,
    data: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    skip_broken: bool = False,
    cache: Path | None = None,
    display: Display | None = None,
) -> DualPath:
    """Train and write a bundle; return the trained model.

    Launched several times by ``torchrun`` or ``accelerate launch``, the processes train one model
    together: each embeds its share of every batch and holds its share of the classifier. All of
    them need to see ``data`` and ``out``.

    Args:
        recipe: a recipe or its YAML file.
        data: a folder with a manifest.
        out: folder of the bundle; checkpoints and logs go to ``training`` in it.
        resume: go on with the training that was begun in ``out``.
        skip_broken: leave broken pictures out instead of stopping.
        cache: folder for backbone features (default: the user's).

    Raises:
        RecipeError, ManifestError, WordVectorError, BackboneError: before training begins.
        CheckpointError: ``out`` holds another training, or its checkpoint cannot be used.
        TrainingError: the loss is not finite any more.
        BundleError: the bundle cannot be written.
    """
    everyone = meet_processes()
    if not everyone.is_main_process:
        display = Display(Console(quiet=True))
    display = display or Display()
    recipe = complete_recipe(recipe if isinstance(recipe, Recipe) else read_recipe(Path(recipe)))
    folder = Path(out) / WORK
    begun = (folder / LAST).exists()
    if begun and not resume:
        raise CheckpointError(
            f"{folder.parent}: holds a training already; add --resume to go on with it, or choose "
            "another --out"
        )
    cache = cache or default_cache_folder()
    manifest = read_manifest(Path(data), recipe.split, recipe.seed, cache)
    with (
        everyone.main_process_first(),
        display.work("checking pictures", len(manifest.items)) as advance,
    ):
        pictures = gather_data(
            manifest, cache, skip_broken=skip_broken, say=display.say, advance=advance
        )
    display.say(
        f"{len(pictures.train):,} pictures to train on, {len(pictures.val):,} to validate"
        + ("" if pictures.val else "; no validation: the last weights are kept")
    )
    recipe = scale_recipe(recipe, len(pictures.train))
    if begun:
        recipe = _recipe_begun(folder, recipe)
        model = _begun_model(folder, pictures, recipe)
    else:
        model = _new_model(recipe, pictures, folder, display, writes=everyone.is_main_process)
    with everyone.main_process_first():
        class_of = _classes(model, pictures, folder, cache)
    model.metrics = Trainer(model, pictures, class_of, folder, cache, display).run()
    model.network.eval()
    model.metrics["data"] = {
        "pictures": len(pictures.train),
        "captions": int(pictures.train.caption_counts.sum()),
        "fingerprint": pictures.fingerprint,
    }
    try:
        if everyone.is_main_process:
            model.save_pretrained(out)
    except BundleError as error:
        raise BundleError(f"{error}; make room and add --resume, the training is kept") from error
    everyone.wait_for_everyone()
    return model


def _recipe_begun(folder: Path, recipe: Recipe) -> Recipe:
    """Return the recipe to go on with, if it is that of the training in ``folder``."""
    old = read_recipe(folder / "recipe.yaml")
    # How long word vectors are is known once they are read; the other two change no result.
    if recipe.text_encoder.word_vectors or any(stage.distillation for stage in recipe.stages):
        recipe = _with_embedding_dim(recipe, old.text_encoder.embedding_dim)
    free = {"workers": recipe.workers, "checkpoint_minutes": recipe.checkpoint_minutes}
    if old.model_copy(update=free) != recipe:
        changed = _differences(old, recipe)
        raise CheckpointError(
            f"{folder.parent}: was begun with another recipe ({changed}); use that one to resume, "
            "or choose another --out"
        )
    return recipe


def _with_embedding_dim(recipe: Recipe, dim: int) -> Recipe:
    """Word vectors, where there are some, decide how long they are."""
    text = recipe.text_encoder.model_copy(update={"embedding_dim": dim})
    return recipe.model_copy(update={"text_encoder": text})


def _differences(old: Recipe, new: Recipe) -> str:
    def flat(node: Any, prefix: str = "") -> dict[str, Any]:
        if isinstance(node, dict | list):
            pairs = node.items() if isinstance(node, dict) else enumerate(node)
            return {k: v for key, sub in pairs for k, v in flat(sub, f"{prefix}.{key}").items()}
        return {prefix.lstrip("."): node}

    before, after = flat(old.model_dump(mode="json")), flat(new.model_dump(mode="json"))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return ", ".join(f"{key}: {before.get(key)}, now {after.get(key)}" for key in keys[:3])


def _new_model(
    recipe: Recipe, data: TrainingData, folder: Path, display: Display, *, writes: bool
) -> DualPath:
    words = build_words(recipe, data.train, display.say)
    if words.vectors is not None:
        recipe = _with_embedding_dim(recipe, words.vectors.shape[1])
    torch.manual_seed(recipe.seed)
    network = build_network(recipe, words.tokenizer.rows, load_backbone=True)
    if words.vectors is not None:
        assert not isinstance(network.text_encoder, TextTransformer)
        set_word_vectors(network.text_encoder.embedding, words.vectors)
    if writes:
        folder.mkdir(parents=True, exist_ok=True)
        write_recipe(recipe, folder / "recipe.yaml")
        words.tokenizer.save(folder / "tokenizer.json")
        (folder / _SAME_DATA).write_text(data.fingerprint, encoding="ascii")
    return DualPath(network, words.tokenizer, recipe)


def _classes(model: DualPath, data: TrainingData, folder: Path, cache: Path) -> torch.Tensor:
    """Return the class of each training instance, (instances,) int64; kept for resuming."""
    instance_ids, _ = instance_numbers(data.train)
    clusters = model.recipe.classifier.clusters
    if clusters is None:
        return torch.arange(int(instance_ids.max()) + 1)
    path = folder / _CLASSES
    if meet_processes().is_main_process and not (folder / LAST).exists():
        size = model.recipe.image_encoder.input_size
        assert size is not None, "the recipe was completed before training"
        encoder = model.network.image_encoder
        seen = cached_features(encoder, data.train.paths, data.train_hashes, [WHOLE], size, cache)
        features = seen.features[0][seen.rows[0]]
        np.save(path, cluster_instances(features, instance_ids, clusters, model.recipe.seed))
    return torch.from_numpy(np.load(path))


def _begun_model(folder: Path, data: TrainingData, recipe: Recipe) -> DualPath:
    if (folder / _SAME_DATA).read_text(encoding="ascii") != data.fingerprint:
        raise CheckpointError(
            f"{folder.parent}: the pictures, captions or splits have changed since this training "
            "began; restore them to resume, or choose another --out"
        )
    text = recipe.text_encoder
    tokenizer = Tokenizer.load(folder / "tokenizer.json", text.vocabulary, text.max_words)
    return DualPath(build_network(recipe, tokenizer.rows), tokenizer, recipe)
