"""Packages that only a part of the users needs: the extras of this package."""

from collections.abc import Iterator
from contextlib import contextmanager

from dualpath.errors import MissingPackageError


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
