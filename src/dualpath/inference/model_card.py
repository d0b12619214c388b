"""The model card of a bundle, in the Hugging Face format."""

from collections.abc import Mapping
from typing import Any

from dualpath.recipes.encoders import IMAGE_TEXT
from dualpath.recipes.schema import ResolvedRecipe

_DIRECTIONS = {"image_to_text": "image → text", "text_to_image": "text → image"}


def model_card(recipe: ResolvedRecipe, num_words: int, metrics: Mapping[str, Any]) -> str:
    """Return the card as Markdown with a YAML header.

    Args:
        num_words: size of the vocabulary.
        metrics: of the training; ``validation`` becomes a table.
    """
    image, text = recipe.image_encoder, recipe.text_encoder
    lines = [
        "---",
        "library_name: dualpath",
        "pipeline_tag: feature-extraction",
        f"tags: [{', '.join(_tags(recipe))}]",
        "---",
        f"# {recipe.name}",
        "",
        *_introduction(recipe, metrics),
        "",
        f"- image encoder: {image.description} at {image.input_size} pixels"
        f"{'' if image.backbone == IMAGE_TEXT else ', two-layer head'}",
        f"- text encoder: {text.description}, {num_words:,} words ({text.vocabulary} vocabulary)",
        f"- space: {recipe.dim} dimensions, cosine",
        f"- seed: {recipe.seed}",
    ]
    validation = metrics.get("validation")
    if validation:
        lines += ["", f"## Validation ({validation['images']} images)", ""]
        lines += ["| direction | R@1 | R@5 | R@10 | median rank |", "|---|---|---|---|---|"]
        for name, label in _DIRECTIONS.items():
            m = validation[name]
            cells = [m["recall_at_1"], m["recall_at_5"], m["recall_at_10"], m["median_rank"]]
            lines.append(f"| {label} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    lines += [
        "",
        "## Usage",
        "",
        "```python",
        "import dualpath",
        "",
        'model = dualpath.load("this folder")',
        'model.embed_texts(["a red bus"])',
        "```",
    ]
    return "\n".join(lines) + "\n"


def _tags(recipe: ResolvedRecipe) -> list[str]:
    trained = recipe.image_encoder.backbone != IMAGE_TEXT
    return ["image-text-retrieval", "dual-path", *(["instance-loss"] if trained else [])]


def _introduction(recipe: ResolvedRecipe, metrics: Mapping[str, Any]) -> list[str]:
    original = metrics.get("original")
    if original is None or recipe.stages:
        return ["An image-text embedding trained with DualPath (Zheng et al., arXiv 1711.05535)."]
    return [
        f"The pretrained image-text model {original['name']} as a DualPath bundle, converted from "
        f"{original['library']}. Its weights are unchanged. Licence of the weights: "
        f"{original['licence'] or 'see its own model card'}."
    ]
