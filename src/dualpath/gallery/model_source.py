"""Finding, loading and checking the model of a gallery."""

from pathlib import Path
from typing import TYPE_CHECKING

from dualpath.errors import BundleError, GalleryError
from dualpath.gallery.info import GalleryInfo

if TYPE_CHECKING:
    from dualpath.inference.model import DualPath


def load_bundle(source: str | Path) -> "DualPath":
    """Load a bundle. The package of the model is imported only now, since it is large."""
    from dualpath.inference.model import load

    return load(source)


def load_recorded_model(address: str, info: GalleryInfo) -> "DualPath":
    """Load the model that has filled a gallery from the place that the gallery records.

    Raises:
        GalleryError: the place is unknown, or has no bundle or that of another model.
    """
    hint = "give the folder of its bundle: --model on the command line, model= in Python"
    if info.source is None:
        raise GalleryError(f"{address}: the gallery does not record where its model is; {hint}")
    try:
        model = load_bundle(info.source)
    except BundleError as error:
        raise GalleryError(
            f"{address}: the model of the gallery cannot be loaded ({error}); {hint}"
        ) from error
    check_model(address, info, model)
    return model


def check_model(address: str, info: GalleryInfo, model: "DualPath") -> None:
    """Raise ``GalleryError`` unless a model is the one that has filled the gallery."""
    if model.fingerprint != info.fingerprint:
        source = f" of {info.source}" if info.source else ""
        raise GalleryError(
            f"{address}: was filled with the model {info.name} ({info.fingerprint[:12]}){source}, "
            f"not with {model.recipe.name} ({model.fingerprint[:12]}); open the gallery with its "
            "own model, or create a new gallery"
        )


def new_info(model: "DualPath") -> GalleryInfo:
    """Return the record of a new gallery."""
    return GalleryInfo(model.fingerprint, model.recipe.name, model.source, model.dim, (), {})
