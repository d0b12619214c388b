"""Renders emoji with a colour font: images that anyone may use, with names in many languages.

Each fully qualified emoji that the font has becomes an image. Its captions are its name and its
aliases from the package ``emoji``, which takes them from Unicode's CLDR. Variants of skin tone,
gender and direction have a base emoji in common. All variants of a base are in one split, so the
emoji of the test are unseen in training.
"""

import subprocess
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from dualpath.data.manifest import write_manifest
from dualpath.datasets.base import PreparedDataset
from dualpath.datasets.emoji_names import captions, parse_variant, read_groups, unqualified
from dualpath.errors import DatasetError
from dualpath.recipes.schema import SplitRecipe
from dualpath.types import Progress, no_progress
from dualpath.utils.text import error_reason, first_n_and_more

SPLIT = SplitRecipe()
FONT_FAMILY = "Noto Color Emoji"
# Debian's package unicode-data installs this file; the package ``emoji`` does not have groups.
GROUPS_FILE = Path("/usr/share/unicode/emoji/emoji-test.txt")
_FONT_SIZE = 109  # the one size of the bitmaps in Noto Color Emoji
_CANVAS = 136  # pixels; its bitmaps are 136 x 128
_EXAMPLE = "😀"
_NOTHING = "\U0010fffe"  # a code point that no font has
_SHOWN_MISSING = 5
_INSTALL_FONT = (
    "install the Debian package fonts-noto-color-emoji, or give the file of a colour font: --font"
)


def write_emoji(
    folder: Path,
    *,
    language: str = "en",
    font: Path | None = None,
    groups: Path | None = None,
    size: int = 128,
    limit: int | None = None,
    seed: int = 0,
    split: SplitRecipe = SPLIT,
    progress: Progress = no_progress,
) -> PreparedDataset:
    """Write PNG images of emoji with a manifest.

    Args:
        folder: to write.
        language: of the captions, a language of the package ``emoji`` such as ``"en"``.
        font: file of a colour font with bitmaps. None: Noto Color Emoji, found by fontconfig.
        groups: Unicode's file ``emoji-test.txt``, from which the groups are read. None:
            :data:`GROUPS_FILE`; if it does not exist, the images have no group.
        size: pixels per side of an image.
        limit: render only this many emoji, evenly spaced. None: all.
        seed: of the splits.
        split: shares of the images in train, val and test.
        progress: called with the number of images written since the last call.

    Raises:
        DatasetError: the package or the font is missing, the font cannot be used, or the language
            does not exist.
    """
    table = _emoji_table(language)
    render = _renderer(font or find_font())
    if groups is None:
        groups = GROUPS_FILE if GROUPS_FILE.is_file() else None
    group_of = read_groups(groups) if groups else {}
    qualified = {unqualified(emoji): emoji for emoji in table}
    spread = np.linspace(0, len(table) - 1, min(limit or len(table), len(table)), dtype=np.int64)
    chosen = [list(table)[number] for number in spread]
    splits = _draw_splits(chosen, split, seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows, missing = [], []
    for emoji in chosen:
        image = render(emoji)
        progress(1)
        if image is None:
            missing.append(emoji)
            continue
        file_name = f"images/{'-'.join(f'{ord(sign):x}' for sign in emoji)}.png"
        image.resize((size, size), Image.Resampling.LANCZOS).save(folder / file_name)
        base = qualified.get(parse_variant(emoji).base, emoji)
        rows.append(
            {
                "file_name": file_name,
                "captions": list(captions(table[emoji], language, emoji)),
                "split": splits[emoji],
                **_metadata(emoji, base, table[emoji], group_of),
            }
        )
    if not rows:
        raise DatasetError(
            f"{font or FONT_FAMILY}: the font has none of the emoji; {_INSTALL_FONT}"
        )
    manifest = write_manifest(folder, rows)
    counts = {name: sum(row["split"] == name for row in rows) for name in ("train", "val", "test")}
    return PreparedDataset(manifest, counts, _warnings(missing, table, grouped=bool(group_of)))


def find_font() -> Path:
    """Return the file of Noto Color Emoji, found by fontconfig.

    Raises:
        DatasetError: fontconfig or the font is not installed.
    """
    command = ["fc-list", FONT_FAMILY, "--format", "%{file}\n"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise DatasetError(
            f"fontconfig cannot search for the font {FONT_FAMILY} ({error_reason(error)}); "
            f"{_INSTALL_FONT}"
        ) from error
    files = sorted(done.stdout.splitlines())
    if not files:
        raise DatasetError(f"the font {FONT_FAMILY} is not installed; {_INSTALL_FONT}")
    return Path(files[0])


def _emoji_table(language: str) -> dict[str, dict[str, Any]]:
    """Return the entries of the package ``emoji`` for all fully qualified emoji.

    The package loads the names of a language into a table that all callers share.
    """
    try:
        import emoji
    except ImportError as error:
        raise DatasetError("the package emoji is missing: pip install 'dualpath[emoji]'") from error
    if language not in emoji.LANGUAGES:
        raise DatasetError(
            f"the package emoji has no names in '{language}'; choose one of "
            f"{', '.join(emoji.LANGUAGES)}"
        )
    emoji.config.load_language(language)
    qualified = emoji.STATUS["fully_qualified"]
    return {sign: entry for sign, entry in emoji.EMOJI_DATA.items() if entry["status"] == qualified}


def _renderer(path: Path) -> Callable[[str], Image.Image | None]:
    """Return a function that renders an emoji, or returns None if the font does not have it."""
    if not features.check("raqm"):
        raise DatasetError(
            "this Pillow cannot join the parts of an emoji, because it was built without Raqm; "
            "install Pillow from PyPI: pip install --force-reinstall pillow"
        )
    try:
        font = ImageFont.truetype(str(path), _FONT_SIZE, layout_engine=ImageFont.Layout.RAQM)
    except OSError as error:
        raise DatasetError(
            f"{path}: not a font with bitmaps of {_FONT_SIZE} pixels ({error_reason(error)}); "
            f"{_INSTALL_FONT}"
        ) from error
    one = font.getlength(_EXAMPLE)

    def render(emoji: str) -> Image.Image | None:
        left, top, right, bottom = font.getbbox(emoji)
        # Parts that the font cannot join are drawn beside each other.
        if font.getlength(emoji) > one or right <= left or bottom <= top:
            return None
        image = Image.new("RGB", (_CANVAS, _CANVAS), "white")
        middle = ((_CANVAS - right - left) // 2, (_CANVAS - bottom - top) // 2)
        ImageDraw.Draw(image).text(middle, emoji, font=font, embedded_color=True)
        return image

    example = render(_EXAMPLE)
    if example is None or render(_NOTHING) is not None or not _is_colourful(example):
        raise DatasetError(f"{path}: the font has no colour bitmaps of emoji; {_INSTALL_FONT}")
    return render


def _is_colourful(image: Image.Image) -> bool:
    pixels = np.asarray(image, dtype=np.int64)
    return bool((pixels.max(axis=2) - pixels.min(axis=2)).max() > 64)


def _draw_splits(emoji: Sequence[str], split: SplitRecipe, seed: int) -> dict[str, str]:
    """Draw a split for each base; a large family of variants counts as its number of images."""
    families: dict[str, list[str]] = defaultdict(list)
    for sign in emoji:
        families[parse_variant(sign).base].append(sign)
    shares = {"train": split.train, "val": split.val, "test": split.test}
    filled = dict.fromkeys(shares, 0)
    splits: dict[str, str] = {}
    bases = sorted(families)
    for number in np.random.default_rng(seed).permutation(len(bases)):
        family = families[bases[number]]
        name = max(shares, key=lambda name: shares[name] * (len(splits) + 1) - filled[name])
        filled[name] += len(family)
        splits |= dict.fromkeys(family, name)
    return splits


def _metadata(
    emoji: str, base: str, entry: Mapping[str, Any], group_of: Mapping[str, str]
) -> dict[str, Any]:
    variant = parse_variant(emoji)
    values = {
        "group": group_of.get(emoji, group_of.get(base)),
        "skin_tone": variant.skin_tone,
        "gender": variant.gender,
        "emoji_version": float(entry["E"]),
        "emoji": emoji,
        "base": base,
    }
    return {name: value for name, value in values.items() if value is not None}


def _warnings(missing: Sequence[str], table: Mapping[str, Any], *, grouped: bool) -> list[str]:
    warnings = []
    if missing:
        newest = max(float(table[emoji]["E"]) for emoji in missing)
        names = first_n_and_more(
            [str(table[emoji]["en"]).strip(":") for emoji in missing], _SHOWN_MISSING
        )
        warnings.append(
            f"{len(missing):,} emoji (up to version {newest:g}) are not in the font and left out: "
            f"{names}"
        )
    if not grouped:
        warnings.append(
            "the images have no group; install the Debian package unicode-data, or give Unicode's "
            "file emoji-test.txt: --groups"
        )
    return warnings
