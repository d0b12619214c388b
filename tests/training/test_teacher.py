"""A text CNN that learns the embeddings of a trained model with a sentence encoder."""

import numpy as np
import pytest

import dualpath
from dualpath.errors import CaptionFileError, TeacherError
from dualpath.recipes.schema import Recipe
from tests.conftest import STAGE, run_cli, small_recipe, train_quietly

HEADS = {**STAGE, "name": "heads", "backbone": "frozen", "sentence_encoder": "frozen"}
SENTENCES = {**STAGE, "name": "sentences", "backbone": "frozen", "epochs": 1}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, sentence_encoder, shapes, cache):
    folder = tmp_path_factory.mktemp("teacher")
    recipe = small_recipe(
        text_encoder={"transformer": str(sentence_encoder)}, stages=[HEADS, SENTENCES]
    )
    train_quietly(recipe, shapes, folder, cache=cache)
    return folder


def student_of(teacher, changes=None, **distillation) -> Recipe:
    stage = {**STAGE, "name": "distil", "backbone": "frozen", "epochs": 30, "instance": None}
    stage |= {"contrastive": {"weight": 0.1}}
    stage |= {"distillation": {"teacher": str(teacher), **distillation}}
    return small_recipe(stages=[stage], keep="last", **(changes or {}))


def test_a_bundle_with_a_sentence_encoder_needs_no_other_files(teacher, sentence_encoder, tmp_path):
    elsewhere = tmp_path / "moved"
    elsewhere.mkdir()
    for file in teacher.iterdir():
        if file.is_file():
            (elsewhere / file.name).write_bytes(file.read_bytes())
    away = sentence_encoder.rename(sentence_encoder.with_name("away"))
    try:
        model = dualpath.load(elsewhere)
        vectors = model.embed_texts(["a red star", "a blue circle to the left of a red square"])
        alone = model.embed_texts(["a red star"])
        result = run_cli("info", elsewhere)
    finally:
        away.rename(sentence_encoder)
    np.testing.assert_allclose(vectors[:1], alone, atol=1e-6)
    assert "sentence encoder" in result.stdout
    assert result.returncode == 0


def test_a_student_learns_the_embeddings_of_its_teacher(teacher, shapes, cache, tmp_path):
    extra = tmp_path / "more.jsonl"
    extra.write_text('{"captions": ["two red stars", "a huge pink circle"]}\n{"text": "a star"}\n')
    recipe = student_of(teacher, captions=str(extra), captions_per_batch=8)
    student = train_quietly(recipe, shapes, tmp_path / "student", cache=cache)
    history = student.metrics["history"]
    assert history[-1]["losses"]["distillation"] < 0.5 * history[0]["losses"]["distillation"]
    assert "pink" in student.tokenizer.words  # a word of the further captions alone
    sentences = ["a red star", "two red stars"]
    targets = dualpath.load(teacher).embed_texts(sentences)
    assert (student.embed_texts(sentences) * targets).sum(axis=1).min() > 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 16}, "has embeddings of 32 dimensions; set the same dim"),
        (
            {"image_encoder": {**small_recipe().image_encoder.model_dump(), "grid": 2}},
            "another shape",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(teacher, shapes, cache, tmp_path, changes, message):
    with pytest.raises(TeacherError, match=message):
        train_quietly(student_of(teacher, changes), shapes, tmp_path, cache=cache)


def test_a_missing_file_of_captions_is_named(teacher, shapes, cache, tmp_path):
    recipe = student_of(teacher, captions=str(tmp_path / "missing.txt"))
    with pytest.raises(CaptionFileError, match=r"missing\.txt"):
        train_quietly(recipe, shapes, tmp_path / "out", cache=cache)
