"""Writing a pretrained image-text model as a bundle. torch is imported when it is needed."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dualpath.data.original_transform import OriginalTransform
from dualpath.data.tokenizer import Tokenizer
from dualpath.data.transforms import WHOLE
from dualpath.errors import BundleError, ExportError
from dualpath.inference.bundle import write_bundle
from dualpath.inference.similarity import Similarity
from dualpath.recipes.encoders import IMAGE_TEXT, ResolvedImageEncoder, TextEncoderRecipe
from dualpath.recipes.schema import ResolvedRecipe
from dualpath.utils.extras import needs_extra

if TYPE_CHECKING:
    from dualpath.models.image_text.original import OriginalModel

Log = Callable[[str], None]


def write_original(original: "OriginalModel", name: str, out: Path, log: Log) -> None:
    """Write the bundle of a model that its own library has loaded.

    Args:
        log: called with lines about what is compared.

    Raises:
        BundleError: pixels or token ids of the bundle differ from those of the library, or a file
            cannot be written.
        ExportError: ONNX Runtime computes other features than torch.
    """
    from dualpath.models.dual_encoder import DualEncoder
    from dualpath.models.image_text.checks import check_pixels, check_tokens
    from dualpath.models.image_text.encoders import wrap_towers

    recipe = _recipe(original, name)
    transform = OriginalTransform(
        [WHOLE], original.input_size, preprocessing=original.preprocessing
    )
    tokenizer = _tokenizer(original, recipe.text_encoder)
    check_pixels(original, transform)
    for text in check_tokens(original, tokenizer.encode):
        log(f"note: the text {text!r} gets other tokens than from {original.spec.library}")
    network = DualEncoder(*wrap_towers(original.spec, original.model, recipe))
    network.requires_grad_(False)
    metrics = {
        **Similarity(original.logit_scale, original.logit_bias).to_metrics(),
        "original": {
            "name": name,
            "library": original.spec.library,
            "licence": original.licence,
        },
    }
    log("writing weights and ONNX encoders")
    write_bundle(out, network, tokenizer, recipe, metrics)


def load_original(library: str, source: str, folder: Path | None, name: str) -> "OriginalModel":
    """Load a model with its own library.

    Args:
        library: ``transformers`` or ``open_clip``.
        source: the library's name of it.
        folder: of the configuration and the model card.

    Raises:
        BundleError: it cannot be loaded.
        MissingPackageError: the library is not installed.
    """
    with needs_extra("pretrained", name):
        if library == "open_clip":
            from dualpath.models.image_text.open_clip_model import load_open_clip
        else:
            from dualpath.models.image_text.transformers_model import load_transformers
        try:
            card = folder or Path(source)
            if library == "open_clip":
                return load_open_clip(source, card, name)
            return load_transformers(source, card, name)
        except (BundleError, ExportError, ModuleNotFoundError):
            raise
        except Exception as error:  # the libraries raise errors of their dependencies
            from dualpath.utils.text import error_reason

            raise BundleError(
                f"{name}: {library} cannot load the model ({error_reason(error)})"
            ) from error


def _recipe(original: "OriginalModel", name: str) -> ResolvedRecipe:
    image = ResolvedImageEncoder(
        backbone=IMAGE_TEXT,
        pretrained=False,
        input_size=original.input_size,
        mean=original.mean,
        std=original.std,
        preprocessing=original.preprocessing,
        flip_average=False,
    )
    text = TextEncoderRecipe(
        trunk=IMAGE_TEXT,
        vocabulary="subword",
        position_shift=False,
        max_words=original.spec.context_length,
        cleaning=original.cleaning,
    )
    return ResolvedRecipe(
        name=name,
        description=f"The pretrained image-text model {name}, as {original.spec.library} has it.",
        dim=original.dim,
        image_encoder=image,
        text_encoder=text,
    )


def _tokenizer(original: "OriginalModel", text: TextEncoderRecipe) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_text(original.tokenizer_json, encoding="utf-8")
        return Tokenizer.load(path, text.vocabulary, text.max_words, text.cleaning)
