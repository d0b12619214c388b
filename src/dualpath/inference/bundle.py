"""The bundle: one folder with everything needed to embed images and texts, with or without torch.

It holds ``model.safetensors`` (weights), both encoders as ONNX, ``runtimes.json`` (a list of them
and of further exported encoders), ``recipe.yaml``, ``tokenizer.json``, ``metrics.json`` and
``README.md`` (the model card). A
bundle contains neither code nor pickles, and not the classifier of the instance loss, which only
training needs.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dualpath.data.tokenizer import Tokenizer
from dualpath.errors import BundleError, RecipeError
from dualpath.inference.model_card import model_card
from dualpath.inference.runtimes import RUNTIMES_FILE, read_exports, write_exports
from dualpath.inference.weights import WeightsInfo, read_weights_info
from dualpath.recipes.loading import read_resolved_recipe, write_recipe
from dualpath.recipes.schema import ResolvedRecipe
from dualpath.utils.files import atomic_write
from dualpath.utils.text import error_reason

if TYPE_CHECKING:
    from dualpath.models.dual_encoder import DualEncoder

WEIGHTS, RECIPE, TOKENIZER = "model.safetensors", "recipe.yaml", "tokenizer.json"
METRICS, CARD = "metrics.json", "README.md"
SENTENCE_ENCODER = "sentence_encoder.json"  # the configuration of a pretrained text encoder
IMAGE_TEXT_MODEL = "image_text_model.json"  # the architecture of a pretrained image-text model
EXPORTED = (RUNTIMES_FILE, "image_encoder.*", "text_encoder.*")
FILES = (WEIGHTS, RECIPE, TOKENIZER, METRICS, CARD, SENTENCE_ENCODER, IMAGE_TEXT_MODEL, *EXPORTED)


class BundleContents(NamedTuple):
    """What a bundle holds beside its encoders."""

    tokenizer: Tokenizer
    recipe: ResolvedRecipe
    metrics: dict[str, Any]
    weights: WeightsInfo


def write_bundle(
    folder: Path,
    network: "DualEncoder",
    tokenizer: Tokenizer,
    recipe: ResolvedRecipe,
    metrics: dict[str, Any],
) -> None:
    """Write a bundle: each file whole or not at all, then the weights, then the ONNX encoders.

    Encoders that were exported from earlier weights are deleted.

    Raises:
        BundleError: a file cannot be written.
        ExportError: ONNX Runtime computes other features than torch.
    """
    from dualpath.inference.torch_backend import save_onnx_encoders, save_weights

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in EXPORTED:
            for outdated in folder.glob(pattern):
                outdated.unlink()
        write_recipe(recipe, folder / RECIPE)
        tokenizer.save(folder / TOKENIZER)
        for name, content in network.text_encoder.config_files().items():
            atomic_write(folder / name, content)
        text = json.dumps(metrics, indent=2, ensure_ascii=False)
        atomic_write(folder / METRICS, text + "\n")
        atomic_write(folder / CARD, model_card(recipe, tokenizer.num_embeddings - 1, metrics))
        save_weights(network, folder / WEIGHTS)
        write_exports(folder, save_onnx_encoders(network, recipe, folder))
    except OSError as error:
        raise BundleError(f"{folder}: the bundle cannot be written ({error})") from error


def read_bundle(folder: Path) -> BundleContents:
    """Read a bundle from a folder, without the encoders.

    Raises:
        BundleError: a file is missing, damaged or does not fit the others.
    """
    missing = [name for name in (WEIGHTS, RECIPE, TOKENIZER) if not (folder / name).is_file()]
    if missing:
        raise BundleError(f"{folder}: not a bundle, {' and '.join(missing)} missing")
    try:
        recipe = read_resolved_recipe(folder / RECIPE)
        text = recipe.text_encoder
        tokenizer = Tokenizer.load(
            folder / TOKENIZER, text.vocabulary, text.max_words, text.cleaning
        )
        metrics = _read_metrics(folder / METRICS)
    except (RecipeError, ValueError) as error:
        raise BundleError(str(error)) from error
    return BundleContents(tokenizer, recipe, metrics, read_weights_info(folder / WEIGHTS))


def add_onnx_encoders(folder: Path, network: "DualEncoder", recipe: ResolvedRecipe) -> None:
    """Write the ONNX encoders into a bundle of a version that did not have them.

    Raises:
        ExportError: ONNX Runtime computes other features than torch.
        OSError: a file cannot be written.
    """
    from dualpath.inference.torch_backend import save_onnx_encoders

    added = save_onnx_encoders(network, recipe, folder)
    files = {exported.file for exported in added}
    others = [exported for exported in read_exports(folder) if exported.file not in files]
    write_exports(folder, [*others, *added])


def find_bundle(source: str | Path) -> Path:
    """Return the folder of a bundle, downloaded from the Hugging Face hub if it is not local.

    Args:
        source: a folder, or an id of the hub such as ``user/name``.

    Raises:
        BundleError: there is neither such a folder nor such a repository.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if len(folder.parts) != 2 or folder.is_absolute():
        raise BundleError(f"{source}: the folder does not exist")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), allow_patterns=list(FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BundleError(
            f"{source}: the folder does not exist, and the hub has no such bundle "
            f"({error_reason(error)})"
        ) from error


def _read_metrics(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{path}: not valid JSON ({error})") from error
    return metrics
