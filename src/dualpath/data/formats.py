"""Formats of image files: which of them can be read, and the kinds of the other files.

HEIC and HEIF need the package ``pillow-heif``, JPEG XL needs ``pillow-jxl-plugin``: the extra
``images``. AVIF needs Pillow 11.3 or newer.
"""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# A subset of what Pillow reads: no format that runs another program or contains other files.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# File names that belong to a format, whether it can be read here or not.
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "JXL": (".jxl",),
}
_PLUGINS = {"HEIF": "pillow_heif", "JXL": "pillow_jxl"}
_INSTALL = "pip install 'dualpath[images]'"
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_JXL_STARTS = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")

# Files beside images that a person may expect in a search: (one, several) to suffixes.
_OTHERS = {
    ("video", "videos"): "mp4 mov m4v avi mkv webm mpg mpeg 3gp mts wmv flv",
    ("RAW", "RAW"): "arw cr2 cr3 crw dng nef nrw orf pef raf raw rw2 rwl sr2 srw x3f 3fr",
    ("PDF", "PDF"): "pdf",
    ("SVG", "SVG"): "svg svgz",
    ("PSD", "PSD"): "psd psb",
    ("JPEG 2000", "JPEG 2000"): "jp2 j2k jpf jpx",
    ("icon", "icons"): "ico icns",
    ("EXR or HDR", "EXR or HDR"): "exr hdr",
    ("zip", "zip"): "zip 7z rar",
}
_KIND_OF = {f".{end}": kind for kind, ends in _OTHERS.items() for end in ends.split()}


@cache
def _missing() -> dict[str, str]:
    """Return the formats that cannot be read here, with what to install."""
    from PIL import features

    missing = {
        name: f"{_INSTALL} (the package {package.replace('_', '-')} is missing)"
        for name, package in _PLUGINS.items()
        if find_spec(package) is None
    }
    if "avif" not in features.modules or not features.check("avif"):
        missing["AVIF"] = "pip install --upgrade pillow (AVIF needs 11.3 or newer)"
    return missing


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of image files that can be read here, in lower case.

    >>> ".jfif" in image_suffixes(), ".txt" in image_suffixes()
    (True, False)
    """
    readable = (ends for name, ends in _SUFFIXES.items() if name not in _missing())
    return frozenset(end for ends in readable for end in ends)


def readable_formats(content: bytes) -> tuple[str, ...]:
    """Return the formats as which Pillow may open the bytes of a file.

    The plugin of HEIF or JPEG XL is imported when a file needs it.
    """
    if content.startswith((b"II", b"MM")):
        _silence_libtiff()
    special = _special_format(content)
    if special is None or special in _missing():
        return FORMATS
    _register(special)
    return (special,)


def missing_format(content: bytes) -> str | None:
    """Return why a file of a known format cannot be read here, and what to install; else None."""
    special = _special_format(content)
    if special is None or special not in _missing():
        return None
    return f"{special} cannot be read here: {_missing()[special]}"


def describe_others(suffixes: Iterable[str]) -> str:
    """Count files that are not indexed, by kind; the empty text if there are none.

    Args:
        suffixes: of files, in lower case. Files that are no images at all, such as text, are not
            counted.

    >>> describe_others([".mp4", ".mov", ".arw", ".txt"])
    '2 videos, 1 RAW not indexed'
    """
    counts = Counter(kind for suffix in suffixes if (kind := _kind(suffix)) is not None)
    if not counts:
        return ""
    parts = [f"{count:,} {one if count == 1 else many}" for (one, many), count in counts.items()]
    return f"{', '.join(parts)} not indexed"


def _kind(suffix: str) -> tuple[str, str] | None:
    for name in _missing():
        if suffix in _SUFFIXES[name]:
            kind = f"{name} (to index them: {_missing()[name]})"
            return kind, kind
    return _KIND_OF.get(suffix)


def _special_format(content: bytes) -> str | None:
    """Return AVIF, HEIF or JXL by the first bytes of a file; None for other formats."""
    if content.startswith(_JXL_STARTS):
        return "JXL"
    if content[4:8] != b"ftyp":
        return None
    if b"avif" in content[8:64] or b"avis" in content[8:64]:
        return "AVIF"
    return "HEIF" if content[8:12] in _HEIF_BRANDS else None


@cache
def _register(name: str) -> None:
    """Register the plugin of a format with Pillow."""
    if name == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    elif name == "JXL":
        import pillow_jxl  # noqa: F401


@cache
def _silence_libtiff() -> None:
    """Stop libtiff from printing; it writes hundreds of lines about one damaged file.

    Its functions return the errors as well. The library is the one in the wheels of Pillow.
    """
    import ctypes

    import PIL

    for path in (Path(PIL.__file__).parents[1] / "pillow.libs").glob("libtiff*"):
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(str(path))
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)
