"""Packages that only a part of the users needs: the extras of this package."""

from collections.abc import Iterator
from contextlib import contextmanager

from dualpath.errors import MissingPackageError

# The extra that has a package.
_EXTRAS = {
    "accelerate": "train",
    "sklearn": "train",
    "timm": "train",
    "torch": "train",
    "torchvision": "train",
    "open_clip": "pretrained",
    "sentencepiece": "pretrained",
    "transformers": "transformers",
    "nncf": "export",
    "onnx": "export",
    "openvino": "openvino",
    "pymilvus": "milvus",
    "ray": "ray",
}


def find_extra(error: ModuleNotFoundError) -> str | None:
    """Return the extra that has the package of an error; None for packages of no extra.

    >>> find_extra(ModuleNotFoundError(name="torch.nn"))
    'train'
    """
    return _EXTRAS.get((error.name or "").partition(".")[0])


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Name the extra to install where an import fails inside the block.

    Args:
        extra: of this package, such as ``train``.
        what: the subject of the message.

    Raises:
        MissingPackageError: a package is not installed.

    >>> with needs_extra("train", "training"):
    ...     import no_such_package
    Traceback (most recent call last):
    dualpath.errors.MissingPackageError: training needs the package no_such_package: pip install \
'dualpath[train]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("dualpath"):
            raise
        raise MissingPackageError(
            f"{what} needs the package {error.name}: pip install 'dualpath[{extra}]'"
        ) from error
