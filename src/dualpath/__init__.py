"""DualPath: from a folder of captioned pictures to a trained, measured, searchable model."""

from dualpath.embedding import DualPath
from dualpath.evaluation.evaluate import evaluate
from dualpath.training.train import train

load = DualPath.from_pretrained

__all__ = ["DualPath", "evaluate", "load", "train"]
