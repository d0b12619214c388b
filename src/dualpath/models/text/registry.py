"""The text encoders by name. A new one is a line here."""

from importlib import import_module

from dualpath.errors import TextEncoderError
from dualpath.models.text.base import TextEncoder, TextEncoderSpec
from dualpath.recipes.encoders import TextEncoderRecipe

# The name that a recipe gives in text_encoder.trunk, and the class.
TEXT_ENCODERS: dict[str, str] = {
    "bottleneck": "dualpath.models.text.cnn:TextCNN",
    "residual": "dualpath.models.text.residual_cnn:ResidualTextCNN",
    "image_text": "dualpath.models.image_text.encoders:ImageTextEncoder",
    "transformer": "dualpath.models.text.transformer:TransformerTextEncoder",
}


def find_text_encoder(recipe: TextEncoderRecipe) -> type[TextEncoder]:
    """Return the class of the text encoder that a recipe names.

    Raises:
        TextEncoderError: there is none of that name.
    """
    name = "transformer" if recipe.transformer is not None else recipe.trunk
    if name not in TEXT_ENCODERS:
        raise TextEncoderError(
            f"text_encoder.trunk: '{name}' does not exist; choose one of {', '.join(TEXT_ENCODERS)}"
        )
    module, _, class_name = TEXT_ENCODERS[name].partition(":")
    found: type[TextEncoder] = getattr(import_module(module), class_name)
    return found


def build_text_encoder(spec: TextEncoderSpec) -> TextEncoder:
    """Build the text encoder of a recipe.

    Raises:
        TextEncoderError: it does not exist or cannot be built.
    """
    return find_text_encoder(spec.recipe.text_encoder).from_recipe(spec)
