"""What can go wrong with a gallery, for whoever calls it."""


class GalleryError(ValueError):
    """A gallery that cannot be opened, filled or asked; the message names the mend."""


class FieldError(GalleryError):
    """Metadata that does not fit the gallery's; the message tells of the picture and the field."""


class FilterError(GalleryError):
    """A filter that is none; the message tells of the filter and the fields alone."""
