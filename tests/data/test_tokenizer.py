from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualpath.data.tokenizer import Tokenizer, count_words, modern_vocabulary


def test_paper_mode_is_case_sensitive_and_drops_unknown_words():
    tokenizer = Tokenizer(["Man", "man", "dog"], "paper", max_words=3)
    encoded = tokenizer.encode(["Man, a man-dog (walking) dog dog.", "MAN"])
    # Unknown words take up no position, so the third known word still fits.
    assert encoded.tolist() == [[1, 2, 3], [0, 0, 0]]
    assert tokenizer.num_embeddings == 4


def test_modern_mode_lowers_case_and_encodes_unknown_words():
    tokenizer = Tokenizer(["a", "man", "don't"], "modern", max_words=5)
    encoded = tokenizer.encode(["A MAN, don't!", "a zebra"])
    assert encoded.tolist() == [[1, 2, 3, 0, 0], [1, 4, 0, 0, 0]]
    assert tokenizer.num_embeddings == 5


def test_paper_mode_splits_at_the_delimiters_of_the_authors():
    assert list(count_words(["A well-lit room (at night), again."], "paper")) == [
        "A", "well", "lit", "room", "at", "night", "again",
    ]  # fmt: skip


def test_paper_mode_splits_at_question_marks_where_the_authors_do(tmp_path):
    for split, words in ((True, ["a", "dog", "yes"]), (False, ["a", "dog?", "yes"])):
        counts = count_words(["a dog? yes"], "paper", split_question_marks=split)
        assert list(counts) == words
    tokenizer = Tokenizer(["a", "dog", "yes"], "paper", 4, split_question_marks=False)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json", "paper", 4)
    for one in (tokenizer, loaded):
        assert one.encode(["a dog? yes", "a dog."]).tolist() == [[1, 3, 0, 0], [1, 2, 0, 0]]


def test_other_scripts_and_emoji_are_words_in_modern_mode():
    counts = count_words(["собака бежит", "犬が走る", "a 🐕 runs", "Ｃａｆé café"], "modern")
    assert {"собака", "犬", "走", "🐕", "café"} <= set(counts)


def test_the_modern_vocabulary_is_ordered_by_frequency_then_alphabet():
    counts = Counter({"b": 2, "a": 2, "c": 5, "rare": 1})
    assert modern_vocabulary(counts, min_count=2) == ["c", "a", "b"]


@pytest.mark.parametrize("mode", ["paper", "modern"])
def test_a_saved_and_loaded_tokenizer_encodes_the_same(tmp_path, mode):
    tokenizer = Tokenizer(["two", "Dogs", "dogs"], mode, max_words=4)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json", mode, max_words=4)
    sentences = ["two Dogs, 3 dogs", "", "🐕"]
    assert loaded.encode(sentences).tolist() == tokenizer.encode(sentences).tolist()
    assert loaded.num_embeddings == tokenizer.num_embeddings


def test_a_file_that_is_not_a_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer file"):
        Tokenizer.load(tmp_path / "tokenizer.json", "modern", 4)


@pytest.mark.parametrize("mode", ["paper", "modern"])
@given(sentences=st.lists(st.text(max_size=200), max_size=5))
def test_any_text_is_encoded_left_aligned_with_valid_ids(mode, sentences):
    tokenizer = Tokenizer(["a", "dog"], mode, max_words=6)
    encoded = tokenizer.encode(sentences)
    assert encoded.shape == (len(sentences), 6)
    assert encoded.min(initial=0) >= 0
    assert encoded.max(initial=0) < tokenizer.num_embeddings
    for row in encoded:
        words = (row != 0).sum()
        assert (row[:words] != 0).all()
