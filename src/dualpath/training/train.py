"""Train a recipe on a folder of captioned images, into a bundle."""

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from dualpath.data.cache import default_cache_folder
from dualpath.data.manifest import read_manifest
from dualpath.data.table import instance_numbers
from dualpath.data.tokenizer import Tokenizer
from dualpath.data.transforms import WHOLE
from dualpath.distributed.process_group import init_distributed
from dualpath.errors import BundleError, CheckpointError
from dualpath.inference.model import DualPath
from dualpath.models.backbones import resolve_recipe
from dualpath.models.dual_encoder import build_network
from dualpath.models.text.registry import find_text_encoder
from dualpath.recipes.loading import read_recipe, read_resolved_recipe, write_recipe
from dualpath.recipes.scaling import scale_recipe
from dualpath.recipes.schema import Recipe, ResolvedRecipe
from dualpath.training.clustering import cluster_instances
from dualpath.training.data import TrainingData, gather_data
from dualpath.training.feature_cache import cached_features
from dualpath.training.trainer import LAST, Trainer
from dualpath.training.vocabulary import build_vocabulary
from dualpath.utils.files import atomic_write
from dualpath.utils.progress import Display, ProgressOption

_FOLDER = "training"  # inside the bundle
_RECIPE, _TOKENIZER = "recipe.yaml", "tokenizer.json"
_FINGERPRINT, _CLASSES = "data.txt", "classes.npy"
_COMPLETE = "complete.txt"  # stands for the checkpoints of a complete training


def train(
    recipe: Recipe | str | Path,
    data: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    skip_broken: bool = False,
    keep_checkpoints: bool = False,
    cache: Path | None = None,
    progress: ProgressOption = True,
) -> DualPath:
    """Train a model, write its bundle and return it.

    Launched several times by ``torchrun`` or ``accelerate launch``, the processes train one model
    together: each embeds its share of every batch and holds its shard of the classifier. All of
    them need access to ``data`` and ``out``.

    Args:
        recipe: a recipe, its YAML file, or the name of a shipped recipe such as ``default``.
        data: a folder with a manifest.
        out: folder of the bundle; checkpoints and logs are written to ``training`` inside it.
        resume: continue the training that was started in ``out``. A complete one is loaded.
        skip_broken: leave broken images out instead of raising an error.
        keep_checkpoints: do not delete the checkpoints when the training is complete.
        cache: folder for backbone features (default: the user's cache).
        progress: ``True``: bars on standard error. ``False``: silent. A function: it is called with
            a :class:`dualpath.utils.progress.TrainingEvent` for every step and epoch.

    Raises:
        RecipeError, ManifestError, WordVectorError, BackboneError, TextEncoderError: before the
            training starts.
        CheckpointError: ``out`` contains another training, or its checkpoint cannot be used.
        TrainingError: the loss is not finite any more.
        BundleError: the bundle cannot be written.
    """
    state = init_distributed()
    display = Display.from_option(progress if state.is_main_process else False)
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    find_text_encoder(recipe.text_encoder)
    resolved = resolve_recipe(recipe)
    folder = Path(out) / _FOLDER
    started, complete = (folder / LAST).exists(), (folder / _COMPLETE).exists()
    if (started or complete) and not resume:
        raise CheckpointError(
            f"{folder.parent}: contains a training already; add --resume to continue it, or choose "
            "another --out"
        )
    cache = cache or default_cache_folder()
    manifest = read_manifest(Path(data), resolved.split, resolved.seed, cache)
    with (
        state.main_process_first(),
        display.bar("checking images", len(manifest.images)) as count,
    ):
        images = gather_data(
            manifest, cache, skip_broken=skip_broken, log=display.log, progress=count
        )
    display.log(
        f"{len(images.train):,} training images, {len(images.val):,} validation images"
        + ("" if images.val else "; without validation the last weights are saved")
    )
    resolved = scale_recipe(resolved, len(images.train))
    if complete and not started:
        _check_same_recipe(folder, resolved)
        _check_same_data(folder, images)
        display.log("this training is complete")
        return DualPath.from_pretrained(out)
    if started:
        resolved = _check_same_recipe(folder, resolved)
        model = _restore_model(folder, images, resolved)
    else:
        model = _new_model(resolved, images, folder, display, writes=state.is_main_process)
    with state.main_process_first():
        class_of = _classes(model, images, folder, cache)
    model.metrics = Trainer(model, images, class_of, folder, cache, display).run()
    model.network.eval()
    model.metrics["data"] = {
        "images": len(images.train),
        "captions": int(images.train.caption_counts.sum()),
        "fingerprint": images.fingerprint,
    }
    try:
        if state.is_main_process:
            model.save_pretrained(out)
            if not keep_checkpoints:
                _delete_checkpoints(folder)
    except BundleError as error:
        raise BundleError(
            f"{error}; free some disk space and add --resume, the training is saved"
        ) from error
    state.wait_for_everyone()
    return model


def _delete_checkpoints(folder: Path) -> None:
    atomic_write(folder / _COMPLETE, "The checkpoints were deleted: the training is complete.\n")
    for checkpoint in folder.glob("*.pt"):
        checkpoint.unlink()


def _check_same_recipe(folder: Path, recipe: ResolvedRecipe) -> ResolvedRecipe:
    """Return the recipe to continue with, if it is that of the training in ``folder``."""
    old = read_resolved_recipe(folder / _RECIPE)
    # The length of word vectors is known once they are read; these keys change no result.
    if recipe.text_encoder.word_vectors or any(stage.distillation for stage in recipe.stages):
        recipe = _with_embedding_dim(recipe, old.text_encoder.embedding_dim)
    free = {
        "workers": recipe.workers,
        "checkpoint_minutes": recipe.checkpoint_minutes,
        "description": recipe.description,
    }
    if old.model_copy(update=free) != recipe:
        changed = _differences(old, recipe)
        raise CheckpointError(
            f"{folder.parent}: was started with another recipe ({changed}); resume with that "
            "recipe, or choose another --out"
        )
    return recipe


def _with_embedding_dim(recipe: ResolvedRecipe, dim: int) -> ResolvedRecipe:
    text = recipe.text_encoder.model_copy(update={"embedding_dim": dim})
    return recipe.model_copy(update={"text_encoder": text})


def _differences(old: Recipe, new: Recipe) -> str:
    def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
        if isinstance(node, dict | list):
            pairs = node.items() if isinstance(node, dict) else enumerate(node)
            return {k: v for key, sub in pairs for k, v in flatten(sub, f"{prefix}.{key}").items()}
        return {prefix.lstrip("."): node}

    before, after = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return ", ".join(f"{key}: {before.get(key)}, now {after.get(key)}" for key in keys[:3])


def _new_model(
    recipe: ResolvedRecipe, data: TrainingData, folder: Path, display: Display, *, writes: bool
) -> DualPath:
    vocabulary = build_vocabulary(recipe, data.train.captions, display.log)
    if vocabulary.vectors is not None:
        recipe = _with_embedding_dim(recipe, vocabulary.vectors.shape[1])
    seed_weights(recipe)
    network = build_network(recipe, vocabulary.tokenizer.num_embeddings, load_pretrained=True)
    if vocabulary.vectors is not None:
        network.text_encoder.set_word_vectors(vocabulary.vectors)
    if writes:
        write_recipe(recipe, folder / _RECIPE)
        vocabulary.tokenizer.save(folder / _TOKENIZER)
        atomic_write(folder / _FINGERPRINT, data.fingerprint)
    return DualPath(network, vocabulary.tokenizer, recipe)


def seed_weights(recipe: ResolvedRecipe) -> None:
    """Seed the generator that draws the initial weights of a network.

    Version 0.1 built the backbone once more after seeding. Repeating its random draws keeps the
    weights that belong to a seed, and so the published results.
    """
    torch.manual_seed(recipe.seed)
    timm.create_model(recipe.image_encoder.backbone, num_classes=0)


def _classes(model: DualPath, data: TrainingData, folder: Path, cache: Path) -> torch.Tensor:
    """Return the class of each training instance, (instances,) int64; saved for resuming."""
    instance_ids, _ = instance_numbers(data.train)
    clusters = model.recipe.classifier.clusters
    if clusters is None:
        return torch.arange(int(instance_ids.max()) + 1)
    path = folder / _CLASSES
    if init_distributed().is_main_process and not (folder / LAST).exists():
        size = model.recipe.image_encoder.input_size
        source = cached_features(
            model.network.image_encoder,
            data.train.paths,
            data.train_hashes,
            [WHOLE],
            size,
            cache,
        )
        features = source.features[0][source.rows[0]]
        np.save(path, cluster_instances(features, instance_ids, clusters, model.recipe.seed))
    return torch.from_numpy(np.load(path))


def _check_same_data(folder: Path, data: TrainingData) -> None:
    if (folder / _FINGERPRINT).read_text(encoding="ascii") != data.fingerprint:
        raise CheckpointError(
            f"{folder.parent}: the images, captions or splits have changed since this training "
            "was started; restore them to resume, or choose another --out"
        )


def _restore_model(folder: Path, data: TrainingData, recipe: ResolvedRecipe) -> DualPath:
    _check_same_data(folder, data)
    text = recipe.text_encoder
    tokenizer = Tokenizer.load(folder / _TOKENIZER, text.vocabulary, text.max_words)
    return DualPath(build_network(recipe, tokenizer.num_embeddings), tokenizer, recipe)
