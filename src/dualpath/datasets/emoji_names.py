"""What the code points and the names of an emoji say: its base, its variant, its captions.

The rules are those of Unicode Technical Standard 51: a skin tone is a modifier after a person, a
gender is a sign after a joiner or the person at the start of a sequence.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dualpath.errors import DatasetError
from dualpath.utils.text import error_reason

_JOINER, _EMOJI_STYLE = "\u200d", "\ufe0f"
_TONES = {
    "\U0001f3fb": "light",
    "\U0001f3fc": "medium-light",
    "\U0001f3fd": "medium",
    "\U0001f3fe": "medium-dark",
    "\U0001f3ff": "dark",
}
_SIGNS = {"♀": "female", "♂": "male"}
_DIRECTION = "➡"  # "facing right"
# People with a gender, and the emoji of the same person without one.
_PEOPLE = {
    "👩": ("🧑", "female"),
    "👨": ("🧑", "male"),
    "👧": ("🧒", "female"),
    "👦": ("🧒", "male"),
    "👵": ("🧓", "female"),
    "👴": ("🧓", "male"),
    "👸": ("🫅", "female"),
    "🤴": ("🫅", "male"),
    "🤶": ("🧑‍🎄", "female"),
    "🎅": ("🧑‍🎄", "male"),
    "💃": ("💃", "female"),
    "🕺": ("💃", "male"),
}
# Sequences, without signs of style, and the one emoji that shows the same.
_SAME_BASE = {
    "👫": "🧑‍🤝‍🧑",
    "👬": "🧑‍🤝‍🧑",
    "👭": "🧑‍🤝‍🧑",
    "🧑‍❤‍🧑": "💑",
    "🧑‍❤‍💋‍🧑": "💏",
    "🧑‍🐰‍🧑": "👯",
    "🧑‍🫯‍🧑": "🤼",
    "🫱‍🫲": "🤝",
}
_FAMILY, _FAMILY_MEMBERS = "👪", {"🧑", "🧒"}
_COUNTRY_CODE = 2  # letters
_REGIONAL_INDICATORS = range(0x1F1E6, 0x1F200)


@dataclass(frozen=True)
class Variant:
    """An emoji as a variant of another one.

    Attributes:
        base: the emoji without skin tone, gender and direction, :func:`unqualified`.
        skin_tone: ``light``, ``medium-light``, ``medium``, ``medium-dark``, ``dark``, or ``mixed``
            for two people with different tones. None: the emoji has none.
        gender: ``female``, ``male``, or ``mixed``. None: the emoji has none.
    """

    base: str
    skin_tone: str | None
    gender: str | None


def parse_variant(emoji: str) -> Variant:
    """Return the base, the skin tone and the gender of a fully qualified emoji.

    >>> parse_variant("👩🏾‍🚒")
    Variant(base='🧑‍🚒', skin_tone='medium-dark', gender='female')
    >>> parse_variant("🐕")
    Variant(base='🐕', skin_tone=None, gender=None)
    """
    tones = {_TONES[sign] for sign in emoji if sign in _TONES}
    parts = "".join(sign for sign in emoji if sign not in _TONES).split(_JOINER)
    genders, others = set(), []
    for number, part in enumerate(parts):
        sign = part.removesuffix(_EMOJI_STYLE)
        if number and sign in _SIGNS:
            genders.add(_SIGNS[sign])
        elif not (number and sign == _DIRECTION):
            neutral, gender = _PEOPLE.get(part, (part, None))
            genders |= {gender} if gender else set()
            others.append(neutral)
    return Variant(_base(others), _only(tones), _only(genders))


def unqualified(emoji: str) -> str:
    """Return an emoji without the signs that ask for its colourful style (U+FE0F).

    Variants of one emoji have these signs or do not: ``☝️`` has one, ``☝🏽`` has none.

    >>> len("☝️"), len(unqualified("☝️"))
    (2, 1)
    """
    return emoji.replace(_EMOJI_STYLE, "")


def captions(names: Mapping[str, object], language: str, emoji: str) -> tuple[str, ...]:
    """Return the name and the aliases of an emoji as captions.

    Args:
        names: the entry of the emoji in ``emoji.EMOJI_DATA``.
        language: of the captions, as a key of ``names``. Aliases exist in English only.
        emoji: the emoji. Country codes among the aliases of a flag are left out.

    >>> captions({"en": ":dog_face:", "alias": [":dog:"]}, "en", "🐶")
    ('dog face', 'dog')
    """
    aliases = names.get("alias") if language == "en" else None
    all_names = [names.get(language), *(aliases if isinstance(aliases, list) else [])]
    is_flag = ord(emoji[0]) in _REGIONAL_INDICATORS
    found: dict[str, str] = {}
    for name in all_names:
        if not isinstance(name, str):
            continue
        text = " ".join(name.strip(":").replace("_", " ").split())
        if text and not (is_flag and len(text) == _COUNTRY_CODE):
            found.setdefault(text.casefold(), text)
    return tuple(found.values())


def read_groups(path: Path) -> dict[str, str]:
    """Read the group of each emoji from Unicode's file ``emoji-test.txt``.

    Raises:
        DatasetError: the file cannot be read or has another format.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        groups, group = {}, ""
        for line in lines:
            if line.startswith("# group:"):
                group = line.partition(":")[2].strip()
            elif group and "; fully-qualified" in line:
                codes = line.partition(";")[0].split()
                groups["".join(chr(int(code, 16)) for code in codes)] = group
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read ({error_reason(error)})") from error
    if not groups:
        raise DatasetError(f"{path}: lists no emoji; give Unicode's file emoji-test.txt")
    return groups


def _base(parts: list[str]) -> str:
    if len(parts) > 1 and set(parts) <= _FAMILY_MEMBERS:
        return _FAMILY
    base = unqualified(_JOINER.join(parts))
    return _SAME_BASE.get(base, base)


def _only(values: set[str]) -> str | None:
    if not values:
        return None
    return next(iter(values)) if len(values) == 1 else "mixed"
