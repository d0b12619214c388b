"""DualPath: from a folder of captioned pictures to a trained, measured, searchable model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualpath.embedding import DualPath, load
    from dualpath.evaluation.evaluate import evaluate
    from dualpath.gallery.gallery import Gallery
    from dualpath.training.train import train

__all__ = ["DualPath", "Gallery", "evaluate", "load", "train"]

# Imported when they are first used: measuring needs no image backbones, searching no trainer.
_HOMES = {
    "DualPath": "dualpath.embedding",
    "Gallery": "dualpath.gallery.gallery",
    "load": "dualpath.embedding",
    "evaluate": "dualpath.evaluation.evaluate",
    "train": "dualpath.training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dualpath' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
