"""Recipes of earlier versions are read under the names that keys have now."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dualpath.errors import RecipeError
from dualpath.recipes.loading import read_recipe
from dualpath.recipes.old_keys import RENAMED, current_path, upgrade

# A value for each old key that differs from the default.
VALUES: dict[tuple[str, ...], Any] = {
    ("scale",): 500,
    ("parts",): 4,
    ("relu",): True,
    ("expected", "pictures"): 33,
    ("image_encoder", "states"): [-2, -1],
    ("image_encoder", "average_crops"): 3,
    ("text_encoder", "states"): [0, -1],
    ("classifier", "fraction"): 0.25,
    ("classifier", "projection"): 16,
    ("stages", "*", "captions_per_picture"): 5,
    ("stages", "*", "instance", "scale"): 16.0,
}
OTHER_VALUES = {int: 2, bool: False, list: [-1], float: 0.5}
OLD_KEYS = pytest.mark.parametrize("path", RENAMED, ids=".".join)


def minimal(*, images="pictures") -> dict[str, Any]:
    stage = {"name": "one", "epochs": 1, "instance": {}}
    expected = {"words": 1, "instances": 1, images: 1}
    return {"name": "x", "expected": expected, "stages": [dict(stage), dict(stage)]}


def set_value(tree: Any, path: tuple[str, ...], value: Any) -> None:
    """Set a key of a recipe; ``*`` is the second item of a list."""
    *parents, leaf = path
    for part in parents:
        tree = tree[1] if part == "*" else tree.setdefault(part, {})
    tree[leaf] = value


def get_value(recipe: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        recipe = recipe[1] if part == "*" else getattr(recipe, part)
    return list(recipe) if isinstance(recipe, tuple) else recipe


def dotted(path: tuple[str, ...]) -> str:
    return ".".join("1" if part == "*" else part for part in path)


def write(path, tree):
    path.write_text(yaml.safe_dump(tree))
    return path


def test_every_old_key_has_a_value_to_test_with():
    assert VALUES.keys() == RENAMED.keys()


@OLD_KEYS
def test_an_old_key_of_a_recipe_is_read_as_the_new_one(path, tmp_path):
    tree = minimal()
    set_value(tree, path, VALUES[path])
    recipe = read_recipe(write(tmp_path / "old.yaml", tree))
    assert get_value(recipe, (*path[:-1], RENAMED[path])) == VALUES[path]


@OLD_KEYS
@pytest.mark.parametrize("images", ["pictures", "images"])  # the recipe itself is old or new
def test_an_override_may_use_the_old_key(path, images, tmp_path):
    file = write(tmp_path / "recipe.yaml", minimal(images=images))
    recipe = read_recipe(file, [f"{dotted(path)}={VALUES[path]}"])
    assert get_value(recipe, (*path[:-1], RENAMED[path])) == VALUES[path]


@OLD_KEYS
@pytest.mark.parametrize("base", ["old", "new"])
def test_a_variant_may_set_the_old_key(path, base, tmp_path):
    tree = minimal()
    if base == "old":
        set_value(tree, path, VALUES[path])
        changes = []
    else:
        tree = minimal(images="images")
        changes = [f"{dotted(path)}={VALUES[path]}"]
    write(tmp_path / "base.yaml", tree)
    file = write(tmp_path / "variant.yaml", {"base": "base.yaml", "set": changes})
    recipe = read_recipe(file)
    assert get_value(recipe, (*path[:-1], RENAMED[path])) == VALUES[path]


@OLD_KEYS
def test_a_new_override_replaces_the_value_of_an_old_key(path, tmp_path):
    tree = minimal()
    set_value(tree, path, VALUES[path])
    new = (*path[:-1], RENAMED[path])
    other = OTHER_VALUES[type(VALUES[path])]
    recipe = read_recipe(write(tmp_path / "old.yaml", tree), [f"{dotted(new)}={other}"])
    assert get_value(recipe, new) == other


@OLD_KEYS
def test_a_recipe_with_both_names_of_a_key_is_refused(path, tmp_path):
    tree = minimal()
    for key in (path[-1], RENAMED[path]):
        set_value(tree, (*path[:-1], key), VALUES[path])
    with pytest.raises(
        RecipeError, match=rf"old\.yaml: '{path[-1]}' is the old name of '{RENAMED[path]}'"
    ):
        read_recipe(write(tmp_path / "old.yaml", tree))


def test_an_override_may_contain_old_keys_in_its_value(tmp_path):
    file = write(tmp_path / "recipe.yaml", minimal())
    recipe = read_recipe(file, ["stages.0.instance={scale: 12, dropout: 0.5}"])
    assert recipe.stages[0].instance.logit_scale == 12
    assert recipe.stages[0].instance.dropout == 0.5


@pytest.mark.parametrize("how", ["file", "override", "variant"])
def test_the_old_value_of_captions_of_is_read_as_the_new_one(how, tmp_path):
    tree = minimal()
    tree["stages"][0]["captions_of"] = "instance"
    changes = ["stages.0.captions_of=picture"]
    if how == "file":
        tree["stages"][0]["captions_of"] = "picture"
    file = write(tmp_path / "base.yaml", tree)
    if how == "variant":
        file = write(tmp_path / "variant.yaml", {"base": "base.yaml", "set": changes})
    recipe = read_recipe(file, changes if how == "override" else [])
    assert recipe.stages[0].captions_of == "image"


def test_a_key_elsewhere_with_the_name_of_an_old_one_is_unknown(tmp_path):
    tree = minimal()
    set_value(tree, ("text_encoder", "parts"), 4)
    with pytest.raises(RecipeError, match=r"unknown key 'text_encoder\.parts'"):
        read_recipe(write(tmp_path / "recipe.yaml", tree))


KEYS = sorted(
    {part for path in RENAMED for part in path if part != "*"} | set(RENAMED.values()) | {"name"}
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.just("picture")
)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*KEYS, "captions_of"]), inner, max_size=5)
    ),
    max_leaves=25,
)


@given(TREES)
def test_upgrading_twice_is_upgrading_once(tree):
    try:
        upgraded = upgrade(tree)
    except ValueError as error:
        assert "is the old name of" in str(error)
        return
    assert upgrade(upgraded) == upgraded


@given(st.lists(st.sampled_from([*KEYS, "0", "1", "-1"]), min_size=1, max_size=4))
def test_renaming_a_path_twice_is_renaming_it_once(path):
    assert current_path(current_path(path)) == current_path(path)


def test_a_recipe_with_new_keys_is_unchanged():
    tree = minimal(images="images")
    for path, value in VALUES.items():
        set_value(tree, (*path[:-1], RENAMED[path]), value)
    assert upgrade(tree) == tree
