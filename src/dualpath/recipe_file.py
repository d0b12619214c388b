"""Reading a recipe from YAML, with changes to it, and writing it again."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dualpath.recipe import Recipe


class RecipeError(ValueError):
    """A recipe that cannot be read; the message names the file and the key."""


def read_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe from YAML and apply ``key.path=value`` overrides, in order.

    A file of the keys ``base`` and ``set`` is a variant: another recipe beside it with overrides.

    Raises:
        RecipeError: the file is missing, is no YAML mapping, or a key or value is wrong.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: a recipe is a YAML mapping of keys to values")
    base, changes = tree.pop("base", None), tree.pop("set", [])
    if base is not None:
        return read_recipe(path.parent / str(base), [*changes, *(overrides or [])])
    for override in overrides or []:
        _apply_override(tree, override)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(_problem(detail) for detail in error.errors())
        raise RecipeError(f"{path}: {problems}") from error


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe as YAML; :func:`read_recipe` gives the same recipe back."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def _problem(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"unknown key '{key}'"
    return f"{key or 'recipe'}: {detail['msg'].removeprefix('Value error, ')}"


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override}: write it as key=value, e.g. stages.0.epochs=3")
    *parents, leaf = key.split(".")
    node: Any = tree
    try:
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if isinstance(node, list):
            node[int(leaf)] = _plain_value(value)
        else:
            node[leaf] = _plain_value(value)
    except (ValueError, IndexError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise RecipeError(f"--set {override}: there is no '{key}' in the recipe") from error


def _plain_value(text: str) -> Any:
    """A YAML value; numbers such as ``1e-3``, which YAML 1.1 takes for words, are numbers."""
    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)
    except ValueError:
        return yaml.safe_load(text)
