import pytest
import yaml

from dualpath.errors import RecipeError
from dualpath.recipes.loading import (
    find_recipe,
    read_recipe,
    read_resolved_recipe,
    shipped_recipes,
    write_recipe,
)
from tests.conftest import SMALL

MINIMAL = "name: x\nstages: [{name: one, epochs: 2, instance: {}}]\n"


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_is_read_by_name_and_written_back_the_same(name, tmp_path):
    recipe = read_recipe(name)
    assert recipe == read_recipe(shipped_recipes()[name])
    write_recipe(recipe, tmp_path / "copy.yaml")
    assert read_recipe(tmp_path / "copy.yaml") == recipe


def test_overrides_change_list_items_and_add_missing_keys(recipe_file):
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
        ("stages.4.epochs=3", "the recipe has no 'stages.4.epochs'"),
        ("nonsense", "write it as key=value"),
        ("split.train=0.9", "split: .*must sum to 1"),
        ("text_encoder.vocabulary=paper", "set word_vectors"),
        ("stages.0.instance=null", "needs at least one loss: instance, ranking, contrastive"),
        ("stages.0.ranking.negatives=easy", "'hardest', 'all' or 'mined'"),
        ("num_heads=3", r"dim \(2048\) is not divisible by num_heads \(3\)"),
    ],
)
def test_an_invalid_override_is_named_by_its_key(recipe_file, override, message):
    with pytest.raises(RecipeError, match=message):
        read_recipe(recipe_file, [override])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"recipe\.yaml: cannot be read"),
        ("a: [", r"recipe\.yaml: not valid YAML"),
        ("- a", r"recipe\.yaml: a recipe is a YAML mapping"),
        ("name: x", r"recipe\.yaml: stages: Field required"),
    ],
)
def test_a_file_that_is_not_a_recipe_is_named_in_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(RecipeError, match=message) as raised:
        read_recipe(tmp_path / "recipe.yaml")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("defualt", "similar names: default"),
        ("flickr30", "similar names: .*flickr30k"),
        ("nothing_of_the_kind", "shipped recipes: cuhk_pedes, .*shapes"),
    ],
)
def test_an_unknown_name_is_answered_with_names_of_shipped_recipes(name, message):
    with pytest.raises(RecipeError, match=rf"{name}: neither a recipe file .*; {message}"):
        find_recipe(name)


def test_a_file_without_the_suffix_of_yaml_is_found_by_its_path(recipe_file):
    renamed = recipe_file.rename(recipe_file.with_name("recipe"))
    assert find_recipe(renamed) == renamed


def test_a_variant_is_another_recipe_with_overrides(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\nset: ['dim=7', 'stages.0.epochs=9']\n")
    with pytest.raises(RecipeError, match=r"b\.yaml: cannot be read"):
        read_recipe(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text(
        "name: b\nstages: [{name: s, epochs: 1, instance: {}}]\nimage_encoder: {grid: 1}\n"
    )
    recipe = read_recipe(tmp_path / "a.yaml", ["dim=8"])
    assert (recipe.name, recipe.dim, recipe.stages[0].epochs) == ("b", 8, 9)


@pytest.mark.parametrize("missing", ["input_size", "mean", "std"])
def test_a_resolved_recipe_needs_the_preprocessing_of_its_images(tmp_path, missing):
    image = {"backbone": "test_resnet", "input_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "image_encoder": image}))
    assert read_resolved_recipe(path).image_encoder.input_size == 32
    del image[missing]
    path.write_text(yaml.safe_dump({**SMALL, "image_encoder": image}))
    with pytest.raises(RecipeError, match=rf"image_encoder\.{missing}: Field required"):
        read_resolved_recipe(path)
