from pathlib import Path

import pytest

from dualpath.errors import RecipeError
from dualpath.recipes.loading import read_recipe, write_recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
MINIMAL = "name: x\nstages: [{name: one, epochs: 2, instance: {}}]\n"


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_project_is_read_and_written_back_the_same(path, tmp_path):
    recipe = read_recipe(path)
    write_recipe(recipe, tmp_path / "copy.yaml")
    assert read_recipe(tmp_path / "copy.yaml") == recipe


def test_overrides_reach_into_lists_and_make_what_is_missing(recipe_file):
    recipe = read_recipe(
        recipe_file,
        ["stages.0.epochs=3", "stages.0.optimizer.lr=1e-4", "text_encoder.width=0.5", "seed=7"],
    )
    assert recipe.stages[0].epochs == 3
    assert recipe.stages[0].optimizer.lr == 1e-4
    assert recipe.text_encoder.width == 0.5
    assert recipe.seed == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.0.epoch=3", "unknown key 'stages.0.epoch'"),
        ("stages.0.epochs=many", "stages.0.epochs: .*integer"),
        ("stages.4.epochs=3", "there is no 'stages.4.epochs' in the recipe"),
        ("nonsense", "write it as key=value"),
        ("split.train=0.9", "split: .*must sum to 1"),
        ("text_encoder.vocabulary=paper", "set word_vectors"),
        ("stages.0.instance=null", "needs at least one of instance, ranking, contrastive"),
        ("stages.0.ranking.negatives=easy", "'hardest', 'all' or 'mined'"),
    ],
)
def test_what_is_wrong_is_named_by_its_key(recipe_file, override, message):
    with pytest.raises(RecipeError, match=message):
        read_recipe(recipe_file, [override])


def test_a_file_that_is_no_recipe_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"missing\.yaml: cannot be read"):
        read_recipe(tmp_path / "missing.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(RecipeError, match=r"broken\.yaml: not valid YAML"):
        read_recipe(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(RecipeError, match="a YAML mapping"):
        read_recipe(tmp_path / "list.yaml")
