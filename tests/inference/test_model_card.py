import json

import yaml

from dualpath.inference.model_card import model_card
from dualpath.recipes.loading import read_resolved_recipe


def test_the_model_card_shows_what_was_measured(bundle):
    card = (bundle / "README.md").read_text()
    metrics = json.loads((bundle / "metrics.json").read_text())["validation"]
    _, header, _ = card.split("---", 2)
    assert yaml.safe_load(header)["library_name"] == "dualpath"
    for direction in ("image_to_text", "text_to_image"):
        row = " | ".join(
            f"{metrics[direction][name]:.1f}"
            for name in ("recall_at_1", "recall_at_5", "recall_at_10", "median_rank")
        )
        assert f"| {row} |" in card
    assert "test_efficientnet at 32 pixels" in card


def test_without_validation_the_card_has_no_table(bundle):
    recipe = read_resolved_recipe(bundle / "recipe.yaml")
    card = model_card(recipe, 1234, {})
    assert "Validation" not in card
    assert "1,234 words (modern vocabulary)" in card
