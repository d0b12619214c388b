import struct
import tracemalloc

import numpy as np
import pytest

from dualpath.data.word_vectors import read_word_vectors
from dualpath.errors import WordVectorError

VECTORS = {"dog": [1.0, -2.5, 0.125], "Zürich": [0.0, 3.0, 4.0], "犬": [-1.0, 0.5, 2.0]}


def write_word2vec(path, vectors, dim=3, newline=b"\n"):
    with path.open("wb") as file:
        file.write(f"{len(vectors)} {dim}\n".encode())
        for word, vector in vectors.items():
            file.write(word.encode() + b" " + struct.pack(f"<{dim}f", *vector) + newline)


def write_text(path, vectors, header=""):
    lines = [f"{word} {' '.join(map(str, vector))}" for word, vector in vectors.items()]
    path.write_text(header + "\n".join(lines) + "\n", encoding="utf-8")


def assert_same(read, expected):
    assert list(read) == list(expected)
    for word, vector in expected.items():
        assert read[word].dtype == np.float32
        assert read[word].tolist() == vector


@pytest.mark.parametrize("newline", [b"\n", b""])
def test_the_binary_format_of_word2vec_is_read(tmp_path, newline):
    write_word2vec(tmp_path / "vectors.bin", VECTORS, newline=newline)
    assert_same(read_word_vectors(tmp_path / "vectors.bin"), VECTORS)


def test_the_text_format_of_glove_is_read(tmp_path):
    write_text(tmp_path / "glove.txt", VECTORS)
    assert_same(read_word_vectors(tmp_path / "glove.txt"), VECTORS)


def test_the_text_format_of_fasttext_is_read(tmp_path):
    write_text(tmp_path / "wiki.vec", VECTORS, header="3 3\n")
    assert_same(read_word_vectors(tmp_path / "wiki.vec"), VECTORS)


def test_only_requested_words_are_read_in_the_order_of_the_file(tmp_path):
    write_word2vec(tmp_path / "vectors.bin", VECTORS)
    read = read_word_vectors(tmp_path / "vectors.bin", ["犬", "dog", "missing"])
    assert list(read) == ["dog", "犬"]


def test_a_word_with_a_space_is_read_whole(tmp_path):
    write_text(tmp_path / "glove.txt", {"dog": [1.0, 2.0], "New York": [3.0, 4.0]})
    assert read_word_vectors(tmp_path / "glove.txt")["New York"].tolist() == [3.0, 4.0]


def test_a_file_that_is_cut_short_is_an_error_that_says_where(tmp_path):
    write_word2vec(tmp_path / "vectors.bin", VECTORS)
    content = (tmp_path / "vectors.bin").read_bytes()
    (tmp_path / "vectors.bin").write_bytes(content[:-8])
    with pytest.raises(WordVectorError, match=r"vectors\.bin: cut short after 2 of 3 words"):
        read_word_vectors(tmp_path / "vectors.bin")


def test_an_invalid_line_is_named(tmp_path):
    (tmp_path / "glove.txt").write_text("dog 1 2 3\ncat 1 x 3\n")
    with pytest.raises(WordVectorError, match=r"glove\.txt:2: a value is not a number"):
        read_word_vectors(tmp_path / "glove.txt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WordVectorError, match=r"missing\.txt: cannot be read"):
        read_word_vectors(tmp_path / "missing.txt")


def test_a_large_binary_file_is_not_loaded_into_memory(tmp_path):
    count, dim = 40_000, 300
    body = np.random.default_rng(0).normal(size=(count, dim)).astype("<f4")
    with (tmp_path / "large.bin").open("wb") as file:
        file.write(f"{count} {dim}\n".encode())
        for number, vector in enumerate(body):
            file.write(f"w{number} ".encode() + vector.tobytes() + b"\n")
    tracemalloc.start()
    read = read_word_vectors(tmp_path / "large.bin", {"w7", "w39999"})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(read["w39999"], body[39999])
    assert peak < (tmp_path / "large.bin").stat().st_size / 3
