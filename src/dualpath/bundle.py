"""The bundle: one folder with everything that embeds a picture or a sentence anywhere.

``model.safetensors`` (weights), ``recipe.yaml``, ``tokenizer.json``, ``metrics.json`` and
``README.md`` (the model card). Nothing in it is code or a pickle. The classifier of the instance
loss is no part of it: embedding does not need it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from dualpath.data.tokenizer import Tokenizer
from dualpath.models.dual_path import DualPathNetwork, build_network
from dualpath.models.text_transformer import SentenceEncoderError, TextTransformer
from dualpath.recipe import Recipe, TextEncoderRecipe
from dualpath.recipe_file import RecipeError, read_recipe, write_recipe

WEIGHTS, RECIPE, TOKENIZER = "model.safetensors", "recipe.yaml", "tokenizer.json"
METRICS, CARD = "metrics.json", "README.md"
SENTENCE_ENCODER = "sentence_encoder.json"  # the configuration of a transformer text path
RUNTIMES, EXPORTED = "runtimes.json", ("image_encoder.*", "text_encoder.*")  # see runtimes.py
FILES = (WEIGHTS, RECIPE, TOKENIZER, METRICS, CARD, SENTENCE_ENCODER, RUNTIMES, *EXPORTED)
_FORMAT = "dualpath-1"


class BundleError(ValueError):
    """A bundle that cannot be read or written; the message names the file."""


class Parts(NamedTuple):
    """What a bundle holds."""

    network: DualPathNetwork
    tokenizer: Tokenizer
    recipe: Recipe
    metrics: dict[str, Any]


def write_bundle(folder: Path, parts: Parts) -> None:
    """Write a bundle. Each file is written whole or not at all, the weights last.

    What was exported from the weights that were there before is deleted.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in (RUNTIMES, *EXPORTED):
            for stale in folder.glob(pattern):
                stale.unlink()
        write_recipe(parts.recipe, folder / RECIPE)
        parts.tokenizer.save(folder / TOKENIZER)
        if isinstance(parts.network.text_encoder, TextTransformer):
            parts.network.text_encoder.backbone.config.to_json_file(folder / SENTENCE_ENCODER)
        text = json.dumps(parts.metrics, indent=2, ensure_ascii=False)
        (folder / METRICS).write_text(text + "\n", encoding="utf-8")
        (folder / CARD).write_text(_card(parts), encoding="utf-8")
        state = {k: v.contiguous().cpu() for k, v in parts.network.state_dict().items()}
        partial = folder / f"{WEIGHTS}.partial"
        save_file(state, partial, metadata={"format": _FORMAT})
        partial.replace(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{folder}: the bundle cannot be written ({error})") from error


def read_bundle(source: str | Path) -> Parts:
    """Read a bundle from a folder, or from the Hugging Face hub by its id (``user/name``).

    Raises:
        BundleError: there is no such bundle, or one of its files is missing, cut short or of
            another kind.
    """
    folder = find_bundle(source)
    missing = [name for name in (WEIGHTS, RECIPE, TOKENIZER) if not (folder / name).is_file()]
    if missing:
        raise BundleError(f"{folder}: no bundle, {' and '.join(missing)} missing")
    try:
        recipe = read_recipe(folder / RECIPE)
        text = recipe.text_encoder
        tokenizer = Tokenizer.load(folder / TOKENIZER, text.vocabulary, text.max_words)
        metrics = _read_metrics(folder / METRICS)
    except (RecipeError, ValueError) as error:
        raise BundleError(str(error)) from error
    try:
        network = build_network(_with_own_configuration(recipe, folder), tokenizer.rows)
    except SentenceEncoderError as error:
        raise BundleError(str(error)) from error
    _load_weights(network, folder / WEIGHTS)
    return Parts(network.eval(), tokenizer, recipe, metrics)


def _with_own_configuration(recipe: Recipe, folder: Path) -> Recipe:
    """Let a sentence encoder be built from the bundle, wherever it once came from."""
    if recipe.text_encoder.transformer is None:
        return recipe
    own = {"transformer": str(folder / SENTENCE_ENCODER)}
    text = recipe.text_encoder.model_copy(update=own)
    return recipe.model_copy(update={"text_encoder": text})


def find_bundle(source: str | Path) -> Path:
    """Return the folder of a bundle, fetched from the hub when it is no folder here."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    if len(folder.parts) != 2 or folder.is_absolute():
        raise BundleError(f"{source}: no such folder")
    try:
        return Path(snapshot_download(str(source), allow_patterns=list(FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:150]
        raise BundleError(
            f"{source}: no such folder, and not found on the hub ({reason})"
        ) from error


def fingerprint(network: DualPathNetwork) -> str:
    """Return a hash of all weights, 32 hexadecimal digits: embeddings of another differ."""
    return digest_weights(network, size=16).hexdigest()


def digest_weights(module: nn.Module, *, size: int) -> "hashlib.blake2b":
    """Return a hash of ``size`` bytes of a module's weights, to which more may be added."""
    digest = hashlib.blake2b(digest_size=size)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest


def _read_metrics(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{path}: not valid JSON ({error})") from error
    return metrics


def _load_weights(network: DualPathNetwork, path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("format") != _FORMAT:
                raise BundleError(f"{path}: not the weights of a DualPath bundle")
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path}: damaged or cut short ({error}); copy it again") from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise BundleError(
            f"{path}: does not fit the recipe beside it; were files of two bundles mixed?"
        ) from error


def describe_text_encoder(text: TextEncoderRecipe) -> str:
    """Tell in a few words what reads the sentences."""
    if text.transformer is not None:
        return f"sentence encoder {Path(text.transformer).name}"
    if text.trunk == "residual":
        return f"residual text CNN of width {text.width:g}, {text.layers} layers"
    return f"text CNN of width {text.width:g}, depths {text.depths}"


def _card(parts: Parts) -> str:
    recipe, metrics = parts.recipe, parts.metrics
    lines = [
        "---",
        "library_name: dualpath",
        "pipeline_tag: feature-extraction",
        "tags: [image-text-retrieval, dual-path, instance-loss]",
        "---",
        f"# {recipe.name}",
        "",
        "An image and text embedding trained with DualPath (Zheng et al., arXiv 1711.05535).",
        "",
        f"- image encoder: {recipe.image_encoder.backbone} at {recipe.image_encoder.input_size} "
        "pixels, two-layer head",
        f"- text encoder: {describe_text_encoder(recipe.text_encoder)}, "
        f"{parts.tokenizer.rows - 1:,} words ({recipe.text_encoder.vocabulary} vocabulary)",
        f"- space: {recipe.dim} dimensions, cosine",
        f"- seed: {recipe.seed}",
    ]
    validation = metrics.get("validation")
    if validation:
        lines += ["", f"## Validation ({validation['images']} pictures)", ""]
        lines += ["| direction | R@1 | R@5 | R@10 | median rank |", "|---|---|---|---|---|"]
        for name in ("image_to_text", "text_to_image"):
            m = validation[name]
            cells = [m["recall_at_1"], m["recall_at_5"], m["recall_at_10"], m["median_rank"]]
            lines.append(f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    return "\n".join([*lines, "", "```python", "import dualpath", ""]) + (
        'model = dualpath.load("this folder")\nmodel.embed_texts(["a sentence"])\n```\n'
    )
