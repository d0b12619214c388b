import pytest

from dualpath.errors import TextEncoderError
from dualpath.models.text.base import TextEncoder, TextEncoderSpec
from dualpath.models.text.registry import TEXT_ENCODERS, build_text_encoder, find_text_encoder
from tests.conftest import SMALL, small_resolved_recipe


# The tower of a pretrained model is built from its bundle (tests/inference/test_pretrained.py).
@pytest.mark.parametrize("name", sorted(set(TEXT_ENCODERS) - {"image_text"}))
def test_every_registered_name_is_built_from_a_recipe(name, sentence_encoder):
    text = {**SMALL["text_encoder"], "trunk": name}
    if name == "transformer":
        text = {"transformer": str(sentence_encoder)}
    recipe = small_resolved_recipe(text_encoder=text)
    encoder = build_text_encoder(TextEncoderSpec(recipe, 20))
    assert isinstance(encoder, TextEncoder)
    assert type(encoder) is find_text_encoder(recipe.text_encoder)
    module, _, class_name = TEXT_ENCODERS[name].partition(":")
    assert (type(encoder).__module__, type(encoder).__name__) == (module, class_name)


def test_the_tower_of_a_pretrained_model_needs_its_bundle():
    recipe = small_resolved_recipe(text_encoder={**SMALL["text_encoder"], "trunk": "image_text"})
    with pytest.raises(TextEncoderError, match="dualpath pretrained"):
        build_text_encoder(TextEncoderSpec(recipe, 20))


def test_an_unknown_name_is_answered_with_the_known_ones():
    recipe = small_resolved_recipe(text_encoder={**SMALL["text_encoder"], "trunk": "lstm"})
    with pytest.raises(TextEncoderError, match="'lstm' does not exist; choose one of bottleneck"):
        find_text_encoder(recipe.text_encoder)
