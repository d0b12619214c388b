"""Cleaning steps of tokenizers, compared with the code of the original libraries."""

import pytest

from dualpath.data.text_cleaning import find_cleaner

TEXTS = [
    "  It’s a “dog”,\tisn't IT? ",
    "Salt &amp;amp; pepper &lt;b&gt;",
    "naÃ¯ve cafÃ©",  # UTF-8 that was read as Latin-1
    "under_score well-known (a) 50%",
    "ﬁne ＦＵＬＬ　width 犬",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    ("name", "original"),
    [("openai", "lower"), ("whitespace", "whitespace"), ("canonicalize", "canonicalize")],
)
def test_texts_are_cleaned_as_open_clip_does(text, name, original):
    open_clip = pytest.importorskip("open_clip.tokenizer")
    assert find_cleaner(name)(text) == open_clip.get_clean_fn(original)(text)


def test_no_cleaning_is_no_function():
    assert find_cleaner("none") is None
