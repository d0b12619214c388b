"""Reading a recipe from YAML, with changes to it, and writing it again."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from dualpath.errors import RecipeError
from dualpath.recipes.old_keys import current_path, upgrade
from dualpath.recipes.schema import Recipe, ResolvedRecipe
from dualpath.utils.files import atomic_write
from dualpath.utils.text import error_reason

_FOLDER = Path(__file__).parent
_AnyRecipe = TypeVar("_AnyRecipe", bound=Recipe)


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that ship with the package: their names and files, sorted by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def find_recipe(source: str | Path) -> Path:
    """Return the file of a recipe, given as a file or as the name of a shipped one.

    Raises:
        RecipeError: there is neither such a file nor such a name; similar names are listed.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    shipped = shipped_recipes()
    if str(source) in shipped:
        return shipped[str(source)]
    close = difflib.get_close_matches(str(source), shipped, n=3, cutoff=0.5)
    names = ", ".join(close or shipped)
    raise RecipeError(
        f"{source}: neither a recipe file (.yaml) nor the name of a shipped recipe; "
        f"{'similar names' if close else 'shipped recipes'}: {names}"
    )


def read_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``key.path=value`` overrides, in order.

    A file with the keys ``base`` and ``set`` is a variant of another recipe beside it. Keys of
    earlier versions are accepted (:mod:`dualpath.recipes.old_keys`).

    Args:
        source: a YAML file, or the name of a shipped recipe such as ``default``.
        overrides: changes such as ``stages.0.epochs=3``.

    Raises:
        RecipeError: the file is missing, is not a YAML mapping, or a key or value is wrong.

    >>> read_recipe("default", ["seed=7"]).seed
    7
    """
    return _read(find_recipe(source), overrides, Recipe)


def read_resolved_recipe(path: Path) -> ResolvedRecipe:
    """Read a recipe as training and bundles write it, with its preprocessing filled in.

    Raises:
        RecipeError: as :func:`read_recipe`, or ``input_size``, ``mean`` or ``std`` is missing.
    """
    return _read(path, (), ResolvedRecipe)


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe as YAML; :func:`read_recipe` returns an equal recipe."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    atomic_write(path, text)


def _read(path: Path, overrides: Sequence[str], kind: type[_AnyRecipe]) -> _AnyRecipe:
    tree = _read_tree(path)
    base, changes = tree.pop("base", None), tree.pop("set", [])
    if base is not None:
        return _read(path.parent / str(base), [*changes, *overrides], kind)
    try:
        tree = upgrade(tree)
        for override in overrides:
            _apply_override(tree, override)
        return kind.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(_problem(detail) for detail in error.errors())
        raise RecipeError(f"{path}: {problems}") from error
    except ValueError as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"{path}: {error}") from error


def _read_tree(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {error_reason(error)}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: a recipe is a YAML mapping of keys to values")
    return tree


def _problem(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"unknown key '{key}'"
    return f"{key or 'recipe'}: {detail['msg'].removeprefix('Value error, ')}"


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override}: write it as key=value, e.g. stages.0.epochs=3")
    *parents, leaf = current_path(key.split("."))
    node: Any = tree
    try:
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if isinstance(node, list):
            node[int(leaf)] = _parse_value(value)
        else:
            node[leaf] = _parse_value(value)
    except (ValueError, IndexError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise RecipeError(f"--set {override}: the recipe has no '{key}'") from error


def _parse_value(text: str) -> Any:
    """Parse a YAML value, and numbers such as ``1e-3``, which YAML 1.1 reads as text."""
    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)
    except ValueError:
        return yaml.safe_load(text)
