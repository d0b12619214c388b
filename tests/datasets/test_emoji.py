import builtins
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dualpath.data.manifest import read_manifest
from dualpath.datasets import emoji as module
from dualpath.datasets.emoji import write_emoji
from dualpath.datasets.emoji_names import captions, parse_variant, read_groups
from dualpath.errors import DatasetError
from tests.conftest import run_cli

table = pytest.importorskip("emoji", reason="the extra 'emoji' is not installed").EMOJI_DATA
DEJAVU = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")


def has_font() -> bool:
    try:
        module.find_font()
    except DatasetError:
        return False
    return True


needs_font = pytest.mark.skipif(not has_font(), reason="Noto Color Emoji is not installed")


@pytest.mark.parametrize(
    ("emoji", "base", "skin_tone", "gender"),
    [
        ("🐕", "🐕", None, None),
        ("👋🏽", "👋", "medium", None),
        ("👩🏾‍🚒", "🧑‍🚒", "medium-dark", "female"),
        ("🕵️‍♂️", "🕵", None, "male"),
        ("☝️", "☝", None, None),
        ("🏃🏻‍♀️‍➡️", "🏃", "light", "female"),
        ("👨🏿‍❤️‍💋‍👨🏻", "💏", "mixed", "male"),
        ("👩🏻‍🤝‍👨🏻", "🧑‍🤝‍🧑", "light", "mixed"),
        ("👨‍👩‍👧", "👪", None, "mixed"),
        ("🫱🏻‍🫲🏿", "🤝", "mixed", None),
        ("🇩🇪", "🇩🇪", None, None),
    ],
)
def test_a_variant_names_its_base_its_skin_tone_and_its_gender(emoji, base, skin_tone, gender):
    variant = parse_variant(emoji)
    assert (variant.base, variant.skin_tone, variant.gender) == (base, skin_tone, gender)


def test_every_base_is_an_emoji_itself():
    qualified = {
        sign.replace("\ufe0f", "") for sign, entry in table.items() if entry["status"] == 2
    }
    assert {parse_variant(sign).base for sign, e in table.items() if e["status"] == 2} <= qualified


def test_captions_are_names_and_aliases_without_country_codes():
    assert captions(table["😀"], "en", "😀") == ("grinning face", "grinning")
    assert captions(table["🇩🇪"], "en", "🇩🇪") == ("Germany", "flag for Germany")


def test_groups_are_read_from_the_file_of_unicode(tmp_path):
    file = tmp_path / "emoji-test.txt"
    file.write_text("# group: Animals & Nature\n1F415 ; fully-qualified # 🐕 E0.7 dog\n", "utf-8")
    assert read_groups(file) == {"🐕": "Animals & Nature"}
    file.write_text("nothing")
    with pytest.raises(DatasetError, match=r"emoji-test\.txt: lists no emoji; give Unicode's file"):
        read_groups(file)


@needs_font
def test_emoji_become_images_with_captions_and_metadata(tmp_path):
    groups = tmp_path / "emoji-test.txt"
    groups.write_text("# group: All\n1F947 ; fully-qualified # 🥇\n", "utf-8")
    prepared = write_emoji(tmp_path / "out", groups=groups, limit=60, size=32, seed=1)
    images = read_manifest(tmp_path / "out").images
    assert 50 <= len(images) == sum(prepared.image_counts.values()) <= 60
    first = images[0]
    assert first.captions == ("1st place medal",)
    assert first.metadata == {"group": "All", "emoji_version": 3.0, "emoji": "🥇", "base": "🥇"}
    for image in images:
        pixels = np.asarray(Image.open(image.path))
        assert pixels.shape == (32, 32, 3)
        assert (pixels == 255).all(axis=2).mean() < 0.95
    write_emoji(tmp_path / "again", groups=groups, limit=60, size=32, seed=1)
    text = (tmp_path / "out/metadata.jsonl").read_text("utf-8")
    assert text == (tmp_path / "again/metadata.jsonl").read_text("utf-8")


@needs_font
@pytest.mark.slow
def test_no_base_is_in_two_splits_and_every_split_has_its_share(tmp_path):
    write_emoji(tmp_path, size=16)
    images = read_manifest(tmp_path).images
    splits: dict[str, set[str]] = {}
    for image in images:
        splits.setdefault(image.metadata["base"], set()).add(image.split)
    assert all(len(names) == 1 for names in splits.values())
    assert len(images) > 3000
    shares = [sum(i.split == name for i in images) / len(images) for name in ("val", "test")]
    assert all(0.07 < share < 0.14 for share in shares)


@needs_font
def test_captions_are_in_the_chosen_language(tmp_path):
    write_emoji(tmp_path, language="de", limit=3, size=16)
    assert read_manifest(tmp_path).images[0].captions == ("goldmedaille",)


@needs_font
def test_a_language_without_names_is_an_error_that_lists_the_languages(tmp_path):
    with pytest.raises(DatasetError, match=r"no names in 'xx'; choose one of en, es, "):
        write_emoji(tmp_path, language="xx")


def test_a_missing_package_is_an_error_that_names_the_extra(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_emoji(name, *arguments, **options):
        if name == "emoji":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_emoji)
    with pytest.raises(DatasetError, match=r"pip install 'dualpath\[emoji\]'"):
        write_emoji(tmp_path)


def test_a_font_that_is_not_installed_is_an_error_that_names_the_package(tmp_path, monkeypatch):
    empty = subprocess.CompletedProcess([], 0, stdout="")
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: empty)
    with pytest.raises(DatasetError, match=r"not installed; install .* fonts-noto-color-emoji"):
        write_emoji(tmp_path)


@pytest.mark.skipif(not DEJAVU.exists(), reason="DejaVu Sans is not installed")
def test_a_font_without_colours_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match=r"DejaVuSans\.ttf: the font has no colour bitmaps"):
        write_emoji(tmp_path, font=DEJAVU)


def test_a_file_that_is_not_a_font_is_an_error(tmp_path):
    (tmp_path / "font.ttf").write_text("no font")
    with pytest.raises(DatasetError, match=r"font\.ttf: not a font with bitmaps of 109 pixels"):
        write_emoji(tmp_path, font=tmp_path / "font.ttf")


@needs_font
@pytest.mark.slow
def test_the_command_renders_emoji(tmp_path):
    done = run_cli("prepare", "emoji", "--out", tmp_path, "--limit", 20, "--size", 16)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout
    assert "metadata.jsonl" in done.stdout
