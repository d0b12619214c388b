"""DualPath: from a folder of captioned images to a trained, measured, searchable model.

>>> import dualpath
>>> dualpath.read_recipe("default").name
'default'

The names that ``dir(dualpath)`` lists are the public API.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dualpath.errors import (
    BackboneError,
    BundleError,
    CaptionFileError,
    CheckpointError,
    ClassificationError,
    ClusterError,
    DatasetError,
    DualPathError,
    ExportError,
    FieldError,
    FilterError,
    GalleryError,
    ImageError,
    KeyFileError,
    ManifestError,
    MetricError,
    MiningError,
    MissingPackageError,
    ProtocolError,
    PublishError,
    RecipeError,
    ServerError,
    ShardError,
    TeacherError,
    TextEncoderError,
    TrainingError,
    UnknownImageError,
    WordVectorError,
)
from dualpath.utils.extras import needs_extra as _needs_extra

if TYPE_CHECKING:
    from dualpath.data.record import ImageRecord
    from dualpath.datasets.prepare import prepare
    from dualpath.evaluation.evaluate import evaluate
    from dualpath.evaluation.metrics import (
        Ranks,
        RetrievalMetrics,
        rank_relevant,
        recall_at_k,
        retrieval_metrics,
    )
    from dualpath.evaluation.protocols import EvaluationResult
    from dualpath.exporting.export import export
    from dualpath.gallery.gallery import Gallery
    from dualpath.gallery.schema import CaptionHit, GalleryImage, Hit
    from dualpath.inference.model import DualPath, load
    from dualpath.inference.pretrained import convert_pretrained
    from dualpath.inference.zero_shot import classify
    from dualpath.recipes.loading import read_recipe
    from dualpath.recipes.schema import Recipe
    from dualpath.training.train import train
    from dualpath.utils.progress import TrainingEvent

    __version__: str

# Where the names are that are imported when they are first used.
_MODULES = {
    "CaptionHit": "dualpath.gallery.schema",
    "DualPath": "dualpath.inference.model",
    "EvaluationResult": "dualpath.evaluation.protocols",
    "Gallery": "dualpath.gallery.gallery",
    "GalleryImage": "dualpath.gallery.schema",
    "Hit": "dualpath.gallery.schema",
    "ImageRecord": "dualpath.data.record",
    "Ranks": "dualpath.evaluation.metrics",
    "Recipe": "dualpath.recipes.schema",
    "RetrievalMetrics": "dualpath.evaluation.metrics",
    "TrainingEvent": "dualpath.utils.progress",
    "classify": "dualpath.inference.zero_shot",
    "convert_pretrained": "dualpath.inference.pretrained",
    "evaluate": "dualpath.evaluation.evaluate",
    "export": "dualpath.exporting.export",
    "load": "dualpath.inference.model",
    "prepare": "dualpath.datasets.prepare",
    "rank_relevant": "dualpath.evaluation.metrics",
    "read_recipe": "dualpath.recipes.loading",
    "recall_at_k": "dualpath.evaluation.metrics",
    "retrieval_metrics": "dualpath.evaluation.metrics",
    "train": "dualpath.training.train",
}

__all__ = [
    "BackboneError",
    "BundleError",
    "CaptionFileError",
    "CaptionHit",
    "CheckpointError",
    "ClassificationError",
    "ClusterError",
    "DatasetError",
    "DualPath",
    "DualPathError",
    "EvaluationResult",
    "ExportError",
    "FieldError",
    "FilterError",
    "Gallery",
    "GalleryError",
    "GalleryImage",
    "Hit",
    "ImageError",
    "ImageRecord",
    "KeyFileError",
    "ManifestError",
    "MetricError",
    "MiningError",
    "MissingPackageError",
    "ProtocolError",
    "PublishError",
    "Ranks",
    "Recipe",
    "RecipeError",
    "RetrievalMetrics",
    "ServerError",
    "ShardError",
    "TeacherError",
    "TextEncoderError",
    "TrainingError",
    "TrainingEvent",
    "UnknownImageError",
    "WordVectorError",
    "__version__",
    "classify",
    "convert_pretrained",
    "evaluate",
    "export",
    "load",
    "prepare",
    "rank_relevant",
    "read_recipe",
    "recall_at_k",
    "retrieval_metrics",
    "train",
]


def _read_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("dualpath")
    except PackageNotFoundError:  # used from a source tree, without installation
        return "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        globals()[name] = _read_version()
        return globals()[name]
    if name not in _MODULES:
        raise AttributeError(f"module 'dualpath' has no attribute '{name}'")
    with _needs_extra("train", f"dualpath.{name}"):
        value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
