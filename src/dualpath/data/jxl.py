"""The size of a JPEG XL image, read from its header.

The plugin of Pillow decodes a file when it opens it, so a size that is too large must be found
before. The layout is that of ISO/IEC 18181-1, section D.2 (``SizeHeader``).
"""

_BOX = 8  # bytes of the head of a box
_SIZE_BITS = (9, 13, 18, 30)
_RATIOS = ((0, 0), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def jxl_pixels(content: bytes) -> int:
    """Return the number of pixels of a JPEG XL file.

    Raises:
        ValueError: the file has no header.
    """
    code = _codestream(content)
    if code[:2] != b"\xff\x0a" or len(code) < 12:
        raise ValueError("no JPEG XL header")
    bits = int.from_bytes(code[2:12], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take(_SIZE_BITS[take(2)]) + 1

    height = side()
    ratio = take(3)
    if not ratio:
        return height * side()
    numerator, denominator = _RATIOS[ratio]
    return height * (height * numerator // denominator)


def _codestream(content: bytes) -> bytes:
    """Return the first bytes of the image in a file, which may have boxes around it."""
    if content[4:8] != b"JXL ":
        return content[:32]
    start = 0
    while start + _BOX <= len(content):
        length = int.from_bytes(content[start : start + 4], "big")
        kind, head = content[start + 4 : start + _BOX], _BOX
        if length == 1:
            length, head = int.from_bytes(content[start + 8 : start + 16], "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            begin = start + head + (4 if kind == b"jxlp" else 0)
            return content[begin : begin + 32]
        if length < head:
            break
        start += length
    return b""
