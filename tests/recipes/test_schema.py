import pytest
from pydantic import ValidationError

from dualpath.recipes.schema import Recipe
from tests.conftest import small_recipe

STAGE = {"name": "a", "epochs": 1, "contrastive": {}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 10, "num_heads": 3}, r"dim \(10\) is not divisible by num_heads \(3\)"),
        (
            {"dim": 10, "num_heads": 2, "classifier": {"projection_dim": 4}},
            "projection_dim mixes the heads",
        ),
        ({"stages": []}, "at least 1 item"),
        ({"seed": "one"}, "valid integer"),
        ({"image_encoder": {"test_size": 256, "tta_crops": 1}}, "set tta_crops: 0"),
        ({"image_encoder": {"test_size": 256, "grid": 2}}, "set grid: 1"),
        ({"image_encoder": {"test_size": 256, "feature_layers": [-2]}}, r"feature_layers: \[\]"),
        ({"text_encoder": {"vocabulary": "subword"}}, "subword and transformer need each other"),
        ({"text_encoder": {"transformer": "x", "vocabulary": "modern"}}, "need each other"),
        ({"text_encoder": {"transformer": "x", "word_dropout": 0.1}}, "belong to a text CNN"),
        ({"text_encoder": {"vocabulary": "paper"}}, "set word_vectors"),
        ({"classifier": {"bias": True, "sample_rate": 0.5}}, r"classifier\.bias needs"),
        (
            {"text_encoder": {"vocabulary": "paper", "word_vectors": "v", "word_dropout": 0.1}},
            r"word_dropout needs \[UNK\]",
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate({"name": "a", "stages": [STAGE], **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrastive": None}, "needs at least one loss"),
        ({"distillation": {"teacher": "t"}, "contrastive": None}, "needs at least one loss"),
        (
            {"distillation": {"teacher": "t"}, "ranking": {"negatives": "mined"}},
            "cannot be combined",
        ),
        (
            {"sentence_encoder": "frozen", "ranking": {"negatives": "mined"}},
            "a frozen sentence encoder can be combined with neither",
        ),
        (
            {"sentence_encoder": "frozen", "distillation": {"teacher": "t"}},
            "a frozen sentence encoder can be combined with neither",
        ),
        ({"batch_size": 1}, "greater than or equal to 2"),
        ({"optimizer": {"lr": float("inf")}}, "finite number"),
    ],
)
def test_a_stage_that_cannot_be_trained_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate({"name": "a", "stages": [{**STAGE, **changes}]})


def test_a_recipe_does_not_change():
    recipe = small_recipe()
    with pytest.raises(ValidationError, match="frozen"):
        recipe.dim = 64


def test_a_transformer_brings_its_own_tokenizer():
    text = small_recipe(text_encoder={"transformer": "x"}).text_encoder
    assert (text.vocabulary, text.position_shift, text.max_words) == ("subword", False, 64)
    longer = small_recipe(text_encoder={"transformer": "x", "max_words": 9}).text_encoder
    assert longer.max_words == 9


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ({"transformer": "owner/MiniLM"}, "sentence encoder MiniLM"),
        ({"width": 0.5}, r"text CNN of width 0.5, depths (3, 4, 6, 1)"),
        ({"trunk": "residual", "layers": 3}, "residual text CNN of width 1, 3 layers"),
    ],
)
def test_a_text_encoder_is_described_in_a_few_words(text, description):
    assert small_recipe(text_encoder=text).text_encoder.description == description
