"""What the tokenizers of pretrained image-text models do to a text before they split it.

These steps are Python code in the original libraries, so ``tokenizer.json`` cannot contain them.
"""

import html
import re
import string
from collections.abc import Callable

from dualpath.recipes.encoders import Cleaning

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def find_cleaner(name: Cleaning) -> Callable[[str], str] | None:
    """Return the function of that name. None for ``none``."""
    return _CLEANERS[name]


def clean_whitespace(text: str) -> str:
    """Repair the encoding, resolve HTML entities, and join words by single blanks (open_clip).

    >>> clean_whitespace(" Salt  &amp; pepper ")
    'Salt & pepper'
    """
    return " ".join(_repair(text).split())


def clean_openai(text: str) -> str:
    """Clean as :func:`clean_whitespace`, and lower-case (CLIP of OpenAI, open_clip).

    >>> clean_openai("It’s  A Dog")
    "it's a dog"
    """
    return clean_whitespace(text).lower()


def clean_canonicalize(text: str) -> str:
    """Clean, lower-case, and remove punctuation (open_clip's SigLIP).

    >>> clean_canonicalize("A well-known, old_fashioned dog.")
    'a wellknown old fashioned dog'
    """
    text = _repair(text).replace("_", " ").translate(_NO_PUNCTUATION)
    return " ".join(text.lower().split())


def clean_siglip(text: str) -> str:
    """Lower-case and remove punctuation (the SigLIP tokenizer of transformers).

    >>> clean_siglip("A well-known dog.")
    'a wellknown dog'
    """
    return re.sub(r"\s+", " ", text.lower().translate(_NO_PUNCTUATION)).strip()


def _repair(text: str) -> str:
    import ftfy  # takes time to import, and few models need it

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


_CLEANERS: dict[Cleaning, Callable[[str], str] | None] = {
    "none": None,
    "whitespace": clean_whitespace,
    "openai": clean_openai,
    "canonicalize": clean_canonicalize,
    "siglip": clean_siglip,
}
