"""Recipe keys of earlier versions, so that old recipes and bundles stay readable.

A path is a tuple of keys; ``"*"`` stands for any place in a list.
"""

from collections.abc import Sequence
from typing import Any

RENAMED: dict[tuple[str, ...], str] = {
    ("scale",): "reference_size",
    ("parts",): "num_heads",
    ("relu",): "relu_before_loss",
    ("expected", "pictures"): "images",
    ("image_encoder", "states"): "feature_layers",
    ("image_encoder", "average_crops"): "tta_crops",
    ("text_encoder", "states"): "feature_layers",
    ("classifier", "fraction"): "sample_rate",
    ("classifier", "projection"): "projection_dim",
    ("stages", "*", "captions_per_picture"): "captions_per_image",
    ("stages", "*", "instance", "scale"): "logit_scale",
}
_VALUES: dict[tuple[str, ...], dict[str, str]] = {
    ("stages", "*", "captions_of"): {"picture": "image"},
}


def current_path(path: Sequence[str]) -> list[str]:
    """Return the path of a key as it is called now.

    >>> current_path(["stages", "0", "instance", "scale"])
    ['stages', '0', 'instance', 'logit_scale']
    """
    general = tuple("*" if part.lstrip("-").isdigit() else part for part in path)
    return [*path[:-1], RENAMED.get(general, path[-1])]


def upgrade(tree: Any, path: tuple[str, ...] = ()) -> Any:
    """Return a recipe as read from YAML with every old key under its current name.

    Raises:
        ValueError: a mapping has a key under both names.

    >>> upgrade({"parts": 4, "stages": [{"instance": {"scale": 16}}]})
    {'num_heads': 4, 'stages': [{'instance': {'logit_scale': 16}}]}
    """
    if isinstance(tree, list | tuple):
        return [upgrade(value, (*path, "*")) for value in tree]
    if isinstance(tree, dict):
        upgraded: dict[Any, Any] = {}
        for key, value in tree.items():
            here = (*path, str(key))
            name = RENAMED.get(here, key)
            if name != key and name in tree:
                raise ValueError(f"'{key}' is the old name of '{name}'; keep one of the two")
            upgraded[name] = upgrade(value, here)
        return upgraded
    values = _VALUES.get(path, {})
    return values.get(tree, tree) if isinstance(tree, str) else tree
