"""Bounded fuzzing: damaged images and tables raise an error of this package, and nothing else.

The numbers of inputs are printed at the end (``pytest -s``). ``DUALPATH_FUZZ=100`` tries a hundred
times as many.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from dualpath.data.csv_table import read_csv
from dualpath.data.formats import image_suffixes
from dualpath.data.images import decode_image, image_format, image_key, image_size, open_image
from dualpath.data.json_values import gallery_metadata, parse_json
from dualpath.data.manifest_rows import Source, read_records
from dualpath.data.png import without_texts
from dualpath.errors import DualPathError, ImageError, ManifestError
from dualpath.server.images import decode_upload, thumbnail
from tests.robustness.files import IMAGE_WIDTH, ORIENTATION, encode, photo

MORE = int(os.environ.get("DUALPATH_FUZZ", "1"))
MAX_PIXELS = 1_000_000  # a damaged header can claim much more
COUNTS: Counter[str] = Counter()
bounded = settings(
    max_examples=250 * MORE,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


@pytest.fixture(scope="module", autouse=True)
def _print_counts() -> Iterator[None]:
    yield
    print("\nfuzzed:", ", ".join(f"{count:,} {name}" for name, count in sorted(COUNTS.items())))


@cache
def seeds() -> tuple[tuple[str, bytes], ...]:
    """Small valid files of all formats and depths, with EXIF, profile, transparency and frames."""
    image = photo((24, 18))
    exif = Image.Exif()
    exif[ORIENTATION], exif[IMAGE_WIDTH], exif[0x010E] = 6, 24, "text"
    frames = {"save_all": True, "append_images": [image.rotate(180)]}
    profile = {"icc_profile": b"\0" * 36 + b"acsp" + b"\0" * 100}
    deep = Image.fromarray(np.arange(432, dtype=np.uint16).reshape(18, 24) * 150)
    wanted = [
        (image, "JPEG", {"exif": exif, **profile}),
        (image, "JPEG", {"progressive": True, "quality": 30}),
        (image.convert("CMYK"), "JPEG", {}),
        (image, "MPO", frames),
        (image, "PNG", {"exif": exif}),
        (image.convert("RGBA"), "PNG", profile),
        (image.convert("P"), "PNG", {"transparency": 3}),
        (deep, "PNG", {}),
        (image, "PNG", frames),
        (image.convert("1"), "PNG", {}),
        (image, "GIF", frames),
        (image, "WEBP", {"exif": exif}),
        (image.convert("RGBA"), "WEBP", {"lossless": True, **frames}),
        (image, "BMP", {}),
        (image.convert("P"), "BMP", {}),
        (image, "TIFF", {"exif": exif, "compression": "tiff_lzw"}),
        (image, "TIFF", {"compression": "jpeg"}),
        (deep, "TIFF", {"compression": "tiff_deflate"}),
        (Image.fromarray(np.asarray(image.convert("L"), np.float32) / 255), "TIFF", {}),
        (image.convert("YCbCr"), "TIFF", {}),
    ]
    if ".avif" in image_suffixes():
        wanted.append((image, "AVIF", {"exif": exif}))
    if ".heic" in image_suffixes():
        import pillow_heif

        pillow_heif.register_heif_opener()
        wanted.append((image, "HEIF", {"exif": exif.tobytes()}))
    if ".jxl" in image_suffixes():
        import pillow_jxl  # noqa: F401

        wanted.append((image, "JXL", {"effort": 1}))
    return tuple((format, encode(one, format, **options)) for one, format, options in wanted)


def mutate(content: bytes, generator: random.Random) -> bytes:
    """Flip, overwrite, cut, repeat or exchange some bytes."""
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 5, 20))):
        place = generator.randrange(len(data)) if data else 0
        # The head of a file has its sizes and types.
        place = place if generator.random() < 0.4 else place % 200
        kind = generator.randrange(6)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << generator.randrange(8)
        elif kind == 1:
            data[place : place + 1] = generator.choice((b"\0", b"\xff", b"\x80", b"\x7f"))
        elif kind == 2:
            data[place : place + 4] = generator.choice(
                (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", generator.randbytes(4))
            )
        elif kind == 3:
            del data[place : place + generator.randrange(1, 40)]
        elif kind == 4:
            length = generator.randrange(1, 40)
            data[place:place] = data[place : place + length]
        elif generator.random() < 0.2:
            del data[place:]
    return bytes(data)


damaged = st.builds(
    lambda seed_file, number: (seed_file[0], mutate(seed_file[1], random.Random(number))),
    st.sampled_from(seeds()),
    st.integers(0, 2**32),
)


@seed(1)
@bounded
@given(st.lists(damaged, min_size=8, max_size=8))
def test_a_damaged_image_is_decoded_or_refused_on_every_path(files):
    for format, content in files:
        COUNTS[f"images ({format})"] += 1
        sizes = []
        for use in (
            lambda content=content: decode_image(content, "x", max_pixels=MAX_PIXELS).size,
            lambda content=content: decode_image(content, "x", max_pixels=MAX_PIXELS, side=8).mode,
            lambda content=content: image_size(content, "x"),
            lambda content=content: len(image_key(content, "x")),
            lambda content=content: image_format(content, "x"),
            lambda content=content: decode_upload(content, MAX_PIXELS).mode,
        ):
            try:
                sizes.append(use())
            except ImageError as error:
                assert "\n" not in str(error)
                sizes.append(None)
        COUNTS["images that are decoded"] += sizes[0] is not None
        if sizes[0] is not None:
            assert sizes[2] == sizes[0]
            assert sizes[1] == sizes[5] == "RGB"
            assert sizes[3] == 32


@seed(2)
@settings(bounded, max_examples=40 * MORE)
@given(st.lists(damaged, min_size=8, max_size=8))
def test_a_thumbnail_of_a_damaged_image_is_made_or_refused(tmp_path_factory, files):
    folder = tmp_path_factory.getbasetemp()
    for _, content in files:
        COUNTS["thumbnails"] += 1
        COUNTS["files"] += 1
        path = folder / f"fuzz-{COUNTS['files']}.img"
        path.write_bytes(content)
        try:
            assert thumbnail(path, 16, [Path(os.path.realpath(folder))])[:2] == b"\xff\xd8"
            open_image(path, side=8)
        except ImageError as error:
            assert "\n" not in str(error)
        finally:
            path.unlink()


@seed(3)
@bounded
@given(st.lists(st.binary(max_size=64), min_size=8, max_size=8), st.sampled_from(seeds()))
def test_bytes_behind_the_start_of_a_format_are_refused_or_decoded(tails, seed_file):
    for tail in tails:
        COUNTS["starts of files"] += 1
        content = seed_file[1][:16] + tail
        assert len(without_texts(content)) <= len(content)
        try:
            assert decode_image(content, "x", max_pixels=MAX_PIXELS).mode == "RGB"
        except ImageError as error:
            assert "\n" not in str(error)


LINES = [
    '{"file_name": "a.png", "captions": ["a", "b"], "year": 2020, "split": "train"}\n',
    '{"file_name": "b.png", "text": "x \\ud83d\\udc15", "tags": ["x", {"y": null}]}\n',
]
TABLES = {
    ".jsonl": "".join(LINES).encode(),
    ".csv": b'file_name,captions,year\na.png,"a, b",2020\nb.png,"[""x"", ""y""]",\n',
}
damaged_tables = st.builds(
    lambda suffix, number: (suffix, mutate(TABLES[suffix], random.Random(number))),
    st.sampled_from(sorted(TABLES)),
    st.integers(0, 2**32),
)


@seed(4)
@bounded
@given(st.lists(damaged_tables, min_size=4, max_size=4))
def test_a_damaged_table_is_read_or_refused_with_its_file(tmp_path_factory, tables):
    for suffix, content in tables:
        COUNTS[f"tables ({suffix})"] += 1
        path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
        path.write_bytes(content)
        problems: list[str] = []
        try:
            records = list(read_records([Source(path)], path.parent, problems))
        except ManifestError as error:
            records = []
            problems.append(str(error))
        for problem in problems:
            assert problem.startswith(str(path))
            assert "\n" not in problem
        for record in records:
            assert record.file_name
            assert all(isinstance(caption, str) for caption in record.captions)
            gallery_metadata(record.metadata)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@seed(5)
@bounded
@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_metadata_survives_the_way_through_json(metadata):
    import json

    COUNTS["metadata"] += 1
    try:
        read = parse_json(json.dumps(metadata))
    except ValueError as error:
        assert "NUL" in str(error) or "surrogate" in str(error)
        return
    cleaned = gallery_metadata(read)
    text = json.dumps(cleaned, allow_nan=False, ensure_ascii=False)
    text.encode("utf-8")
    assert parse_json(text.replace("\0", "")) == cleaned or "\\u0000" in text


@seed(6)
@bounded
@given(
    st.sampled_from(",;\t|"),
    st.lists(
        st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"])), min_size=1
    ),
)
def test_every_text_survives_the_way_through_csv(tmp_path_factory, delimiter, texts):
    import csv

    COUNTS["csv"] += 1
    path = tmp_path_factory.getbasetemp() / "round.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["file_name", "text"])
        writer.writerows([f"{number}.png", text] for number, text in enumerate(texts))
    problems: list[str] = []
    rows = list(read_csv(path, ("file_name", "text"), problems))
    assert [row["text"] for _, row in rows] == texts
    assert problems == []


def test_errors_of_images_and_tables_are_errors_of_this_package():
    assert issubclass(ImageError, DualPathError)
    assert issubclass(ManifestError, DualPathError)
