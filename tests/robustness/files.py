"""Odd files that several tests build, and the command line in this process."""

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import Result
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

from dualpath.cli.main import app

ORIENTATION, IMAGE_WIDTH = 0x0112, 0x0100
SIZE = (64, 40)


def run(*arguments: object) -> Result:
    """Run a command. Nothing but one line may end it: no traceback, whatever the input is."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    return result


def photo(size: tuple[int, int] = SIZE) -> Image.Image:
    """A smooth image with a dark corner, so that a wrong turn or crop is seen."""
    width, height = size
    across = np.linspace(40, 240, width)[None, :, None].repeat(height, axis=0)
    down = np.linspace(0, 60, height)[:, None, None]
    pixels = np.clip(across - down * [1.0, 2.0, 3.0], 0, 255).astype(np.uint8)
    pixels[: height // 4, : width // 4] = (10, 20, 120)
    return Image.fromarray(pixels)


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tiff_tags(entries: list[tuple[int, int, int, bytes]]) -> bytes:
    """EXIF with tags of any type: (tag, type, count, four bytes of value)."""
    body = struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        body += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")[:4]
    return b"Exif\0\0" + b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", 0)


def jpeg_with_exif(exif: bytes) -> bytes:
    content = encode(photo(), "JPEG", quality=95)
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:]


def png_chunk(kind: bytes, body: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + checksum


def png_with_size(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, without the pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + pixels + png_chunk(b"IEND", b"")


def png_with_texts(length: int, *, compressed: bool) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * length, zip=compressed)
    info.add_itxt("Note", "y" * length, zip=compressed)
    return encode(photo(), "PNG", pnginfo=info)


def write_rows(folder: Path, rows: list[Any], name: str = "metadata.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return folder


def write_images(folder: Path, names: list[str]) -> Path:
    """Write images of different colours."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        colour = (40 * number % 256, 200 - 30 * number % 200, 90)
        (folder / name).write_bytes(encode(Image.new("RGB", (24, 20), colour)))
    return folder
