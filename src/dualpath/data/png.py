"""Removing the texts of PNG files, which may be large and say nothing about pixels."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FRAME = 12  # bytes of a chunk besides its content: length, type, checksum
_SMALL = 64 * 2**10  # bytes; larger texts are removed
# EXIF (as ImageMagick writes it) and XMP can contain the orientation.
_USEFUL = (b"Raw profile type", b"XML:com.adobe.xmp")


def without_texts(content: bytes) -> bytes:
    """Return a PNG file without its texts; other files are returned unchanged.

    Pillow refuses a file with a text of more than a megabyte. Small texts with an orientation
    remain.

    >>> without_texts(b"not a PNG")
    b'not a PNG'
    """
    if not content.startswith(_SIGNATURE):
        return content
    parts, start, copied = [], len(_SIGNATURE), 0
    while start + _FRAME <= len(content):
        length = int.from_bytes(content[start : start + 4], "big")
        kind = content[start + 4 : start + 8]
        end = start + _FRAME + length
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            useful = content.startswith(_USEFUL, start + 8) and length <= _SMALL
            if not useful:
                parts.append(content[copied:start])
                copied = min(end, len(content))
        if kind == b"IEND":
            break
        start = end
    return b"".join([*parts, content[copied:]]) if parts else content
