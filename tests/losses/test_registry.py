import inspect

import pytest

from dualpath.losses.registry import PAIR_LOSSES
from dualpath.recipes.stages import StageRecipe


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_a_recipe_can_set_every_option_of_a_registered_loss(name):
    annotation = StageRecipe.model_fields[name].annotation
    (recipe,) = (kind for kind in annotation.__args__ if kind is not type(None))
    options = set(inspect.signature(PAIR_LOSSES[name]).parameters)
    options -= {"image_features", "text_features", "owners", "instance_ids"}
    assert set(recipe.model_fields) - {"weight"} == options
