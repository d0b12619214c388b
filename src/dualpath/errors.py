"""Every error that DualPath raises for a caller to catch. All derive from :class:`DualPathError`.

The message is one line for a person: it names the file, key or option, and says what to do.
"""


class DualPathError(Exception):
    """Base class of all errors of this package."""


class MissingPackageError(DualPathError, ImportError):
    """A package that this function needs is not installed; the message names the extra."""


class RecipeError(DualPathError, ValueError):
    """A recipe that cannot be read or does not fit; the message names the file and the key."""


class ManifestError(DualPathError, ValueError):
    """A manifest that cannot be used; the message names the file and the line."""


class ImageError(DualPathError, ValueError):
    """An image file that is missing or cannot be decoded; the message names it."""


class ShardError(DualPathError, ValueError):
    """A WebDataset shard, or a sample in it, that cannot be read; the message names it."""


class CaptionFileError(DualPathError, ValueError):
    """A file of captions without images that cannot be read; the message names it."""


class WordVectorError(DualPathError, ValueError):
    """A word-vector file that cannot be read; the message names the file and the line."""


class DatasetError(DualPathError, ValueError):
    """Files of a data set that are missing or not as published; the message names them."""


class BackboneError(DualPathError, ValueError):
    """An image backbone that does not exist or whose weights cannot be loaded."""


class TextEncoderError(DualPathError, ValueError):
    """A text encoder that does not exist or whose weights cannot be loaded."""


class BundleError(DualPathError, ValueError):
    """A bundle that cannot be read or written; the message names the file."""


class ExportError(DualPathError, ValueError):
    """An export that cannot be made, or whose results differ from torch's."""


class ClassificationError(DualPathError, ValueError):
    """Labels, templates or right labels with which images cannot be classified."""


class TrainingError(DualPathError, RuntimeError):
    """A training that cannot go on; the message names the step and what to change."""


class CheckpointError(DualPathError, ValueError):
    """A checkpoint that cannot be written, read or continued."""


class TeacherError(DualPathError, ValueError):
    """A teacher of a distillation that cannot be used."""


class ClusterError(DualPathError, ValueError):
    """More clusters are requested than there are training instances."""


class MiningError(DualPathError, ValueError):
    """A batch that leaves no caption to mine."""


class ProtocolError(DualPathError, ValueError):
    """An evaluation protocol that does not exist, or a split it cannot measure."""


class MetricError(DualPathError, ValueError):
    """Vectors that cannot be ranked: wrong shapes, values that are not finite, no right item."""


class GalleryError(DualPathError, ValueError):
    """A gallery that cannot be opened, filled or searched."""


class FieldError(GalleryError):
    """Metadata that does not fit the fields of a gallery; the message names image and field."""


class FilterError(GalleryError):
    """A filter that cannot be read; the message shows the filter and the known fields."""


class UnknownImageError(GalleryError, KeyError):
    """No image of the gallery has this id."""

    def __str__(self) -> str:
        return str(self.args[0])


class PublishError(DualPathError, ValueError):
    """A gallery that cannot be published as static files."""


class ServerError(DualPathError, ValueError):
    """Settings with which a server must not start."""


class KeyFileError(ServerError):
    """A file of API keys that cannot be used; the message names it."""
