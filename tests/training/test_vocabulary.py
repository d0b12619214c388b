import pytest

from dualpath.data.manifest import read_manifest
from dualpath.errors import WordVectorError
from dualpath.models.dual_encoder import build_network
from dualpath.training.vocabulary import build_vocabulary
from tests.conftest import SMALL, small_recipe, small_resolved_recipe


def text_encoder(**changes):
    return {**SMALL["text_encoder"], **changes}


def captions(shapes):
    return read_manifest(shapes).images.captions


def test_words_without_a_vector_get_random_numbers_with_the_same_spread(tmp_path, shapes):
    (tmp_path / "glove.txt").write_text("red 1 -1 1 -1\nblue -1 1 1 1\n")
    recipe = small_recipe(text_encoder=text_encoder(word_vectors=str(tmp_path / "glove.txt")))
    lines = []
    vocabulary = build_vocabulary(recipe, captions(shapes), lines.append)
    assert any("2 of" in line and "word vectors" in line for line in lines)
    network = build_network(
        small_resolved_recipe(text_encoder=text_encoder(embedding_dim=4)),
        vocabulary.tokenizer.num_embeddings,
    )
    network.text_encoder.set_word_vectors(vocabulary.vectors)
    table = network.text_encoder.embedding.weight
    assert table[0].tolist() == [0, 0, 0, 0]
    assert table[1 + vocabulary.tokenizer.words.index("blue")].tolist() == [-1, 1, 1, 1]
    assert table.std().item() == pytest.approx(1, abs=0.25)


def test_the_paper_vocabulary_consists_of_the_words_with_a_vector(tmp_path, shapes):
    (tmp_path / "glove.txt").write_text("red 1 -1\nzebra 0 0\nblue -1 1\n")
    text = text_encoder(word_vectors=str(tmp_path / "glove.txt"), vocabulary="paper")
    vocabulary = build_vocabulary(small_recipe(text_encoder=text), captions(shapes), print)
    assert vocabulary.tokenizer.words == ["red", "blue"]
    assert vocabulary.vectors[1:].tolist() == [[1, -1], [-1, 1]]


@pytest.mark.parametrize(("split", "words"), [(True, ["red", "blue"]), (False, ["blue"])])
def test_the_recipe_chooses_whether_question_marks_end_words(tmp_path, split, words):
    (tmp_path / "glove.txt").write_text("red 1 -1\nblue -1 1\n")
    text = text_encoder(
        word_vectors=str(tmp_path / "glove.txt"), vocabulary="paper", split_question_marks=split
    )
    tokenizer = build_vocabulary(small_recipe(text_encoder=text), ["blue red?"], print).tokenizer
    assert tokenizer.words == words
    assert (tokenizer.encode(["red?"]) > 0).any() == split


def test_rare_words_are_left_out_of_the_modern_vocabulary():
    recipe = small_recipe(text_encoder=text_encoder(min_count=2))
    lines = []
    vocabulary = build_vocabulary(recipe, ["A red dog", "a dog", "red zebra"], lines.append)
    assert vocabulary.tokenizer.words == ["a", "dog", "red"]
    assert vocabulary.vectors is None
    assert lines == [
        "vocabulary: 3 of 4 different words, 85.7 % of the 7 words in captions",
    ]


def test_word_vectors_without_any_word_of_the_captions_are_refused(tmp_path, shapes):
    (tmp_path / "glove.txt").write_text("zebra 1 -1\n")
    recipe = small_recipe(text_encoder=text_encoder(word_vectors=str(tmp_path / "glove.txt")))
    with pytest.raises(WordVectorError, match=r"glove\.txt: contains none of the words"):
        build_vocabulary(recipe, captions(shapes), print)


def test_a_sentence_encoder_brings_its_own_tokenizer(sentence_encoder, shapes):
    recipe = small_recipe(text_encoder={"transformer": str(sentence_encoder)})
    vocabulary = build_vocabulary(recipe, captions(shapes), print)
    assert vocabulary.tokenizer.vocabulary == "subword"
    assert vocabulary.vectors is None
    # [CLS] a red [SEP], each one higher than in the file.
    assert vocabulary.tokenizer.encode(["a red"])[0, :5].tolist() == [3, 5, 10, 4, 0]
