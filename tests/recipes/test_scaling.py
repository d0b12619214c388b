import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualpath.recipes.scaling import scale_recipe
from tests.conftest import STAGE, small_recipe, train_quietly


def recipe(epochs=16, batch_size=128, lr=1e-3):
    stage = {**STAGE, "name": "one", "epochs": epochs, "batch_size": batch_size}
    return small_recipe(reference_size=6000, stages=[{**stage, "optimizer": {"lr": lr}}])


def test_the_reference_number_of_images_leaves_the_recipe_unchanged():
    scaled = scale_recipe(recipe(), 6000)
    assert scaled == recipe().model_copy(update={"reference_size": None})


def test_a_recipe_without_a_reference_size_is_unchanged():
    assert scale_recipe(small_recipe(), 7) == small_recipe()


@pytest.mark.parametrize(
    ("images", "epochs", "batch_size"), [(1_500, 32, 64), (24_000, 8, 256), (1_000_000, 1, 1024)]
)
def test_the_rules_by_hand(images, epochs, batch_size):
    stage = scale_recipe(recipe(), images).stages[0]
    assert stage.epochs == epochs
    assert stage.batch_size == batch_size
    assert stage.optimizer.lr == pytest.approx(1e-3 * (batch_size / 128) ** 0.5)


@given(images=st.integers(2, 10**7), epochs=st.integers(1, 50))
def test_any_number_of_images_gives_a_recipe_that_can_be_trained(images, epochs):
    stage = scale_recipe(recipe(epochs), images).stages[0]
    assert 1 <= stage.epochs <= 5 * epochs
    assert 32 <= stage.batch_size <= 1024
    assert stage.validate_every <= stage.epochs


@pytest.mark.slow
def test_a_bundle_contains_the_scaled_recipe_and_resumes(tmp_path, shapes, cache):
    given = recipe(epochs=1).model_copy(update={"keep": "last"})
    model = train_quietly(given, shapes, tmp_path, cache=cache)
    assert model.recipe.reference_size is None
    assert model.recipe.stages[0].epochs == 5
    assert len(model.metrics["history"]) == 5
    again = train_quietly(given, shapes, tmp_path, resume=True, cache=cache)
    assert again.fingerprint == model.fingerprint
