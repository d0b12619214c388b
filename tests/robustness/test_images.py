"""An odd image is decoded or named in one line, on every path, and the others are not touched."""

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import dualpath
from dualpath.data.images import (
    MAX_PIXELS_VARIABLE,
    decode_image,
    image_hash,
    image_key,
    image_size,
    image_state,
    open_image,
    read_image_bytes,
)
from dualpath.data.jxl import jxl_pixels
from dualpath.data.manifest import read_image_folder
from dualpath.data.scan import scan_images
from dualpath.data.transforms import ImageTransform, fixed_views, scaled_size
from dualpath.datasets.prepare import prepare
from dualpath.errors import DatasetError, ImageError
from dualpath.gallery.gallery import Gallery
from dualpath.server.app import create_app
from dualpath.server.settings import Settings
from tests.data.files import write_tar
from tests.robustness.files import (
    IMAGE_WIDTH,
    ORIENTATION,
    SIZE,
    encode,
    jpeg_with_exif,
    photo,
    png_chunk,
    png_with_size,
    png_with_texts,
    run,
    tiff_tags,
    write_images,
    write_rows,
)

SHORT, ASCII = 3, 2
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TURNED = (ORIENTATION, SHORT, 1, struct.pack("<H", 6))


def exif_cases() -> list[object]:
    """EXIF in which one tag has each type, count and value; the image itself is good."""
    cases = [
        pytest.param(
            jpeg_with_exif(tiff_tags([(IMAGE_WIDTH, ASCII, 4, b"abc"), TURNED])),
            True,
            id="width-as-text",
        )
    ]
    for kind in (0, 1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 13, 255):
        for count in (0, 1, 2, 1_000_000):
            tags = tiff_tags([(IMAGE_WIDTH, kind, count, b"ab\xff\0"), TURNED])
            cases.append(pytest.param(jpeg_with_exif(tags), None, id=f"width-{kind}-{count}"))
            wrong = tiff_tags([(ORIENTATION, kind, count, b"\x06\0\0\0")])
            cases.append(pytest.param(jpeg_with_exif(wrong), None, id=f"turn-{kind}-{count}"))
    for name, exif in {
        "empty": b"Exif\0\0",
        "short": b"Exif\0\0II*\0",
        "offset": b"Exif\0\0II*\0\xff\xff\xff\x7f",
        "loop": tiff_tags([(0x8769, 4, 1, struct.pack("<I", 8))]),
        "noise": b"Exif\0\0" + bytes(range(256)),
    }.items():
        cases.append(pytest.param(jpeg_with_exif(exif), False, id=name))
    return cases


@pytest.mark.parametrize(("content", "turned"), exif_cases())
def test_damaged_exif_does_not_hide_the_pixels(content, turned):
    image = decode_image(content, "x.jpg")
    assert image.size == image_size(content, "x.jpg")
    assert image.size in (SIZE, SIZE[::-1])
    if turned is not None:
        assert (image.size == SIZE[::-1]) is turned


@pytest.mark.parametrize("value", range(12))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_size_and_pixels_agree_for_every_orientation(format, value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    try:
        content = encode(photo(), format, exif=exif)
    except (OSError, KeyError):
        pytest.skip(f"{format} cannot be written here")
    image = decode_image(content, "x")
    assert image.size == image_size(content, "x")
    assert image.size == (SIZE[::-1] if value in range(5, 9) else SIZE)
    turn = TURNS.get(value)
    expected = photo() if turn is None else photo().transpose(turn)
    assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).mean() < 6


GOOD = {
    "text-of-1-MB": lambda: png_with_texts(1_200_000, compressed=False),
    "compressed-text": lambda: png_with_texts(70_000_000, compressed=True),
    "text-behind-pixels": lambda: (
        encode(photo())[:-12]
        + png_chunk(b"tEXt", b"Comment\0" + b"x" * 2_000_000)
        + png_chunk(b"IEND", b"")
    ),
    "noise-behind-the-end": lambda: encode(photo()) + b"noise" * 100,
    "progressive-jpeg": lambda: encode(photo(), "JPEG", progressive=True),
    "multi-picture-jpeg": lambda: encode(
        photo(), "MPO", save_all=True, append_images=[photo().rotate(180)]
    ),
    "animated-gif": lambda: encode(
        photo(), "GIF", save_all=True, append_images=[Image.new("RGB", SIZE)]
    ),
    "animated-webp": lambda: encode(
        photo(), "WEBP", save_all=True, append_images=[Image.new("RGB", SIZE)]
    ),
    "several-pages": lambda: encode(
        photo(), "TIFF", save_all=True, append_images=[Image.new("RGB", SIZE)]
    ),
    "animated-png": lambda: encode(
        photo(), "PNG", save_all=True, append_images=[Image.new("RGB", SIZE)]
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_an_unusual_but_valid_file_shows_its_first_image(name):
    content = GOOD[name]()
    decoded = np.asarray(decode_image(content, name), int)
    assert image_size(content, name) == SIZE
    assert np.abs(decoded - np.asarray(photo(), int)).mean() < 8  # a palette or JPEG changes a bit


def broken_files() -> dict[str, bytes]:
    jpeg, png = encode(photo(), "JPEG"), encode(photo())
    files = {
        "empty": b"",
        "text": b"not an image",
        "half.jpg": jpeg[: len(jpeg) // 2],
        "half.png": png[: len(png) // 2],
        "bomb": png_with_size(60_000, 60_000),
        "no-pixels": png_with_size(5, 5),
        "zero-wide": png_with_size(0, 5),
        "html": b"<html><body>404</body></html>",
        "only-start.jpg": b"\xff\xd8\xff\xe0",
        "only-start.gif": b"GIF89a",
        "only-start.webp": b"RIFF\x10\0\0\0WEBPVP8 ",
        "only-start.tif": b"II*\0\x08\0\0\0",
        "only-start.bmp": b"BM" + b"\xff" * 60,
        "only-start.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "only-start.avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
        "only-start.jxl": b"\xff\x0a\xff\xff",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "icns": b"icns\0\0\0\x10ic07\0\0\0\x08",
    }
    return {f"{number:02}-{name}": content for number, (name, content) in enumerate(files.items())}


@pytest.mark.parametrize("name", broken_files())
@pytest.mark.parametrize("use", [decode_image, image_size, image_key], ids=lambda f: f.__name__)
def test_a_broken_file_raises_one_line_that_names_it(name, use):
    if use is image_size and "half" in name:
        return  # the header is whole
    if use is image_size and "no-pixels" in name:
        return
    with pytest.raises(ImageError) as raised:
        use(broken_files()[name], "folder/x.jpg")
    assert str(raised.value).startswith("folder/x.jpg: ")
    assert "\n" not in str(raised.value)


def special_files(folder: Path) -> dict[str, Callable[[Path], object]]:
    """How to make files that are not regular files, by the reason in the message."""
    return {
        "not a regular file": os.mkfifo,
        "Is a directory": Path.mkdir,
        "Too many levels of symbolic links": lambda path: path.symlink_to(path.name),
        "No such file": lambda path: path.symlink_to(folder / "nowhere"),
        "not a regular file ": lambda path: path.symlink_to("/dev/zero"),
        "not a regular file  ": lambda path: path.symlink_to("/dev/null"),
        "larger than": lambda path: os.truncate(path, 2**31) if path.touch() is None else None,
        "Permission denied": lambda path: (path.touch(), path.chmod(0)),
    }


@pytest.mark.parametrize("reason", special_files(Path()))
def test_only_regular_files_of_a_limited_size_are_opened(tmp_path, reason):
    path = tmp_path / "x.jpg"
    special_files(tmp_path)[reason](path)
    if reason == "Permission denied" and os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    with pytest.raises(ImageError, match=rf"x\.jpg: cannot be read \({reason.strip()}"):
        open_image(path)
    result = scan_images([path], tmp_path / "cache")
    assert list(result.broken) == [path]


@pytest.mark.parametrize("name", ["a\0b.jpg", "a\ud800.jpg", "x" * 300 + ".jpg", "a/" * 3000 + "x"])
def test_a_name_that_no_file_can_have_is_one_line(tmp_path, name):
    with pytest.raises(ImageError, match="cannot be read"):
        read_image_bytes(tmp_path / name)
    assert image_state(tmp_path / name) is None
    assert len(scan_images([tmp_path / name], tmp_path / "cache").broken) == 1


def test_the_limit_of_pixels_can_be_raised(tmp_path, monkeypatch):
    (tmp_path / "panorama.png").write_bytes(encode(Image.new("1", (20_000, 4_800))))
    with pytest.raises(ImageError, match=r"too many pixels \(96,000,000.*--max-pixels"):
        image_size((tmp_path / "panorama.png").read_bytes(), "panorama.png")
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "100000000")
    assert image_size((tmp_path / "panorama.png").read_bytes(), "p") == (20_000, 4_800)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # far below the wanted limit
    assert image_size((tmp_path / "panorama.png").read_bytes(), "p") == (20_000, 4_800)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "many")
    with pytest.raises(ImageError, match="must be a number of pixels"):
        image_size((tmp_path / "panorama.png").read_bytes(), "p")


def test_the_command_line_raises_the_limit_of_pixels(tmp_path, monkeypatch):
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "300")
    write_rows(write_images(tmp_path, ["a.png"]), [{"file_name": "a.png", "text": "a"}])
    refused = run("data", "check", tmp_path, "--cache", tmp_path / "cache")
    assert refused.exit_code == 1
    assert "a.png: too many pixels (480; more than 300)" in refused.output
    assert (
        run("--max-pixels", 480, "data", "check", tmp_path, "--cache", tmp_path / "c").exit_code
        == 0
    )


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1), (2, 60_000)])
def test_a_very_narrow_image_is_embedded_or_refused_in_one_line(size):
    image = Image.new("RGB", size, "red")
    pixels = ImageTransform(fixed_views(flip=True, crops=2), 32)(image)
    assert pixels.shape == (6, 3, 32, 32)
    assert min(scaled_size(image, 32)) == 32
    with pytest.raises(ImageError, match="too narrow"):
        scaled_size(Image.new("L", (1, 60_000)), 512)


# Every path of an image into the program.


@pytest.fixture(scope="module")
def model(bundle: Path) -> dualpath.DualPath:
    return dualpath.load(bundle)


@pytest.fixture
def odd_folder(tmp_path: Path) -> Path:
    """Four good images between all broken ones, a pipe, a link to itself and an odd EXIF."""
    folder = write_images(tmp_path / "odd", ["a.png", "m.png", "z.png"])
    (folder / "exif.jpg").write_bytes(
        jpeg_with_exif(tiff_tags([(IMAGE_WIDTH, ASCII, 4, b"abc"), TURNED]))
    )
    for name, content in broken_files().items():
        (folder / f"{name}.png").write_bytes(content)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "itself.jpg").symlink_to("itself.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "folder.jpg").mkdir()
    return folder


GOOD_NAMES = {"a.png", "m.png", "z.png", "exif.jpg"}


def captioned(folder: Path) -> Path:
    names = sorted(path.name for path in folder.iterdir() if path.name != "folder.jpg")
    rows = [{"file_name": n, "text": f"caption {n}", "split": "test"} for n in names]
    return write_rows(folder, [*rows, {"file_name": "gone.png", "text": "x", "split": "test"}])


def test_a_gallery_indexes_every_good_image_and_names_every_other(odd_folder, bundle, tmp_path):
    result = run("gallery", "add", tmp_path / "g", odd_folder, "--model", bundle)
    broken = len(broken_files()) + 3
    assert result.exit_code == 0
    assert f"4 new images, 0 changed, 0 unchanged, {broken} left out; 4 in" in result.output
    lines = [line for line in result.output.splitlines() if line.startswith("left out: ")]
    assert len(lines) == broken
    assert all(
        any(str(odd_folder / path.name) in line for line in lines)
        for path in odd_folder.iterdir()
        if path.name not in {*GOOD_NAMES, "folder.jpg"}
    )
    again = run("gallery", "add", tmp_path / "g", odd_folder)
    assert f"0 new images, 0 changed, 4 unchanged, {broken} left out; 4 in" in again.output


def test_a_check_names_every_odd_image(odd_folder, tmp_path):
    result = run("data", "check", captioned(odd_folder), "--cache", tmp_path / "cache")
    assert result.exit_code == 1
    errors = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(broken_files()) + 4
    assert not any(str(odd_folder / name) in line for line in errors for name in GOOD_NAMES)


def test_embedding_a_folder_names_what_is_left_out(odd_folder, bundle, tmp_path):
    out = tmp_path / "v.parquet"
    cache = ["--cache", tmp_path / "cache"]
    refused = run("embed", bundle, odd_folder, "--out", out, *cache)
    assert refused.exit_code == 1
    assert "--skip-broken" in refused.output
    result = run("embed", bundle, odd_folder, "--out", out, "--skip-broken", *cache)
    assert result.exit_code == 0
    assert result.output.count("left out: ") == len(broken_files()) + 3
    assert "4 vectors" in result.output


def test_an_evaluation_names_what_is_left_out(odd_folder, bundle, tmp_path):
    arguments = ["evaluate", bundle, "--data", captioned(odd_folder), "--cache", tmp_path / "cache"]
    assert run(*arguments).exit_code == 1
    result = run(*arguments, "--skip-broken", "--html", tmp_path / "sheet.html")
    assert result.exit_code == 0
    assert "4 images, 4 captions" in result.output
    assert result.output.count("left out: ") == len(broken_files()) + 4


def test_a_training_names_what_is_left_out(odd_folder, tmp_path, small_recipe_file):
    folder = captioned(odd_folder)
    text = (folder / "metadata.jsonl").read_text()
    (folder / "metadata.jsonl").write_text(text.replace('"test"', '"train"'))
    arguments = ["train", small_recipe_file, "--data", folder, "--out", tmp_path / "out"]
    arguments += ["--cache", tmp_path / "cache", "--set", "stages.0.epochs=1"]
    refused = run(*arguments)
    assert refused.exit_code == 1
    assert "--skip-broken" in refused.output
    result = run(*arguments, "--skip-broken")
    assert result.exit_code == 0
    assert result.output.count("left out: ") == len(broken_files()) + 4
    assert "4 training images" in result.output


@pytest.mark.parametrize("name", broken_files())
def test_searching_by_a_broken_image_is_one_line(name, odd_folder, bundle, tmp_path_factory):
    gallery = tmp_path_factory.getbasetemp() / "robust-gallery"
    if not gallery.exists():
        photos = write_images(tmp_path_factory.mktemp("photos"), ["a.png", "b.png"])
        run("gallery", "add", gallery, photos, "--model", bundle)
    result = run("search", gallery, "--image", odd_folder / f"{name}.png")
    assert result.exit_code == 1
    assert result.output.startswith(f"error: {odd_folder / name}.png: ")
    assert len(result.output.splitlines()) == 1


def test_resizing_names_the_broken_image(odd_folder, tmp_path):
    rows = [{"file": p.name, "text": "x"} for p in sorted(odd_folder.iterdir()) if p.is_file()]
    write_rows(odd_folder, rows, "list.jsonl")
    with pytest.raises(DatasetError, match="00-empty"):
        prepare("folder", odd_folder, tmp_path / "out", resize=16, workers=1)


def test_a_server_answers_415_and_writes_nothing(odd_folder, model, tmp_path):
    with Gallery.open(tmp_path / "g", model=model) as gallery:
        gallery.add(write_images(tmp_path / "photos", ["a.png"]))
        uploads = tmp_path / "uploads"
        with TestClient(create_app(gallery, Settings(uploads=uploads))) as client:
            for name, content in broken_files().items():
                for route in ("/v1/search/image", "/v1/items"):
                    answer = client.post(route, files={"file": ("x.jpg", content)})
                    assert answer.status_code in (415, 422), (name, route)  # 422: an empty file
                    assert "Traceback" not in answer.text
            assert list(uploads.iterdir()) == []
            odd = (odd_folder / "exif.jpg").read_bytes()
            added = client.post("/v1/items", files={"file": ("x.jpg", odd)})
            assert added.status_code == 201
            assert (added.json()["width"], added.json()["height"]) == SIZE[::-1]
            assert client.get(added.json()["image"]).status_code == 200
            assert client.post("/v1/search/image", files={"file": odd}).status_code == 200


def test_a_python_program_gets_an_image_error(odd_folder, model):
    for path in odd_folder.iterdir():
        if path.name in GOOD_NAMES:
            assert model.embed_images([path]).shape == (1, model.dim)
        else:
            with pytest.raises(ImageError, match=path.name):
                model.embed_images([path])


def test_members_of_archives_are_limited_in_size(tmp_path, monkeypatch):
    shard = write_tar(tmp_path / "x.tar", {"a.png": encode(photo()), "a.txt": b"a"})
    assert open_image(shard / "a.png").size == SIZE
    monkeypatch.setattr("dualpath.data.images.MAX_BYTES", 100)
    with pytest.raises(ImageError, match="larger than 100 bytes"):
        open_image(shard / "a.png")


# Formats.


def test_more_suffixes_are_images_and_other_files_are_counted_by_kind(tmp_path):
    names = ["a.jfif", "b.JPE", "c.avif", "d.heic", "e.jxl", "f.apng", "g.dib"]
    others = ["v.mp4", "w.MOV", "x.mkv", "r.CR2", "s.psd", "notes.txt", "t.pdf"]
    for name in (*names, *others):
        (tmp_path / name).touch()
    manifest = read_image_folder(tmp_path)
    found = {record.file_name for record in manifest.images}
    assert found >= {"a.jfif", "b.JPE", "f.apng", "g.dib"}
    assert found <= set(names)
    assert "3 videos" in manifest.notes[0]
    assert "1 RAW" in manifest.notes[0]
    assert "txt" not in manifest.notes[0]
    for name in set(names) - found:
        assert Path(name).suffix[1:].upper()[:3] in manifest.notes[0]


def test_a_gallery_prints_what_it_did_not_index(tmp_path, bundle):
    folder = write_images(tmp_path / "photos", ["a.png", "deep/b.png"])
    for name in ("v.mp4", "deep/w.mov", "x.avi", "r.dng"):
        (folder / name).touch()
    result = run("gallery", "add", tmp_path / "g", folder, "--model", bundle)
    assert "3 videos, 1 RAW not indexed" in result.output
    assert "2 new images" in result.output


def test_a_format_whose_package_is_missing_is_named(monkeypatch):
    from dualpath.data import formats

    hint = {"HEIF": "pip install 'dualpath[images]'", "JXL": "install jxl", "AVIF": "update pillow"}
    monkeypatch.setattr(formats, "_missing", lambda: hint)
    for start, name in [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF"),
        (b"\xff\x0a\0\0", "JXL"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avif", "AVIF"),
    ]:
        with pytest.raises(ImageError, match=f"{name} cannot be read here") as raised:
            decode_image(start, "x")
        assert hint[name] in str(raised.value)
    assert "HEIF (to index them: pip install" in formats.describe_others([".heic", ".heic"])


@pytest.mark.parametrize(
    ("package", "format"), [("pillow_heif", "HEIF"), ("PIL", "AVIF"), ("pillow_jxl", "JXL")]
)
def test_phone_formats_are_decoded(package, format):
    plugin = pytest.importorskip(package)
    if format == "HEIF":
        plugin.register_heif_opener()
    content = encode(photo(), format, quality=90)
    decoded = np.asarray(decode_image(content, "x"), int)
    assert np.abs(decoded - np.asarray(photo(), int)).mean() < 4
    assert image_size(content, "x") == SIZE
    assert image_key(content, "x") in (image_hash(content), image_key(content, "y"))
    with pytest.raises(ImageError):
        decode_image(content[: len(content) // 3], "x")


@pytest.mark.parametrize(
    "size", [(48, 32), (100, 37), (1000, 1000), (4000, 300), (640, 480), (9, 16)]
)
@pytest.mark.parametrize("container", [False, True])
def test_the_size_of_a_jpeg_xl_is_known_before_it_is_decoded(size, container, monkeypatch):
    pytest.importorskip("pillow_jxl")
    content = encode(Image.new("L", size), "JXL", effort=1, use_container=container)
    assert jxl_pixels(content) == size[0] * size[1]
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "10")
    with pytest.raises(ImageError, match="too many pixels"):
        decode_image(content, "x")


def test_plugins_are_imported_only_for_their_files():
    code = (
        "import io, sys; from PIL import Image; from dualpath.data.images import decode_image\n"
        "b = io.BytesIO(); Image.new('RGB', (4, 4)).save(b, 'PNG')\n"
        "decode_image(b.getvalue(), 'x')\n"
        "assert not {'pillow_heif', 'pillow_jxl'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_lost_when_a_good_image_becomes_odd(tmp_path, model):
    folder = write_images(tmp_path / "photos", ["a.png", "b.png", "c.png"])
    with Gallery.open(tmp_path / "g", model=model) as gallery:
        assert gallery.add(folder).new == 3
        shutil.copy(folder / "a.png", tmp_path / "saved.png")
        (folder / "a.png").write_bytes(b"")
        summary = gallery.add(folder)
        assert (summary.unchanged, len(summary.broken), len(gallery)) == (2, 1, 3)
        shutil.copy(tmp_path / "saved.png", folder / "a.png")
        assert not gallery.add(folder).broken
