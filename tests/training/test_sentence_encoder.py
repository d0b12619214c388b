"""A sentence encoder as text path, and a text CNN that learns from a model with one."""

import json

import numpy as np
import pytest
import torch

import dualpath
from dualpath.errors import TeacherError, TextEncoderError
from dualpath.losses.distillation import distillation_loss
from dualpath.models.text.transformer import TransformerTextEncoder
from dualpath.recipes.schema import Recipe
from dualpath.training.teacher import read_captions
from dualpath.training.train import train
from tests.conftest import STAGE, quiet, run_cli, small_recipe
from tests.models.sentence_encoder import write_sentence_encoder

HEADS = {**STAGE, "name": "heads", "backbone": "frozen", "sentence_encoder": "frozen"}
SENTENCES = {**STAGE, "name": "sentences", "backbone": "frozen", "epochs": 1}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    return write_sentence_encoder(tmp_path_factory.mktemp("encoder"))


def recipe_of(encoder, *stages) -> Recipe:
    return small_recipe(text_encoder={"transformer": str(encoder)}, stages=list(stages))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, encoder, shapes, cache):
    folder = tmp_path_factory.mktemp("teacher")
    train(recipe_of(encoder, HEADS, SENTENCES), shapes, folder, cache=cache, display=quiet())
    return folder


def test_a_bundle_with_a_sentence_encoder_needs_nothing_beside_it(teacher, encoder, tmp_path):
    elsewhere = tmp_path / "moved"
    elsewhere.mkdir()
    for file in teacher.iterdir():
        if file.is_file():
            (elsewhere / file.name).write_bytes(file.read_bytes())
    away = encoder.rename(encoder.with_name("away"))
    try:
        model = dualpath.load(elsewhere)
        vectors = model.embed_texts(["a red star", "a blue circle to the left of a red square"])
        alone = model.embed_texts(["a red star"])
    finally:
        away.rename(encoder)
    np.testing.assert_allclose(vectors[:1], alone, atol=1e-6)
    result = run_cli("info", elsewhere)
    assert "sentence encoder" in result.stdout
    assert result.returncode == 0


def test_a_frozen_encoder_stays_as_it_was_and_a_trained_one_changes(
    encoder, shapes, cache, tmp_path, teacher
):
    from transformers import AutoModel

    fresh = AutoModel.from_pretrained(encoder).state_dict()
    frozen = train(recipe_of(encoder, HEADS), shapes, tmp_path, cache=cache, display=quiet())
    kept = frozen.network.text_encoder.backbone.state_dict()
    assert all(torch.equal(fresh[name], kept[name].cpu()) for name in fresh)
    history = json.loads((teacher / "metrics.json").read_text())["history"]
    assert [entry["stage"] for entry in history] == ["heads", "heads", "sentences"]
    last = recipe_of(encoder, SENTENCES).model_copy(update={"keep": "last"})
    trained = train(last, shapes, tmp_path / "trained", cache=cache, display=quiet())
    changed = trained.network.text_encoder.backbone.state_dict()
    assert not all(torch.equal(fresh[name], changed[name].cpu()) for name in fresh)


def test_kept_sentences_are_what_the_encoder_gives_and_are_computed_once(
    encoder, shapes, tmp_path, monkeypatch
):
    seen = []
    forward = TransformerTextEncoder.backbone_features

    def counted(self, token_ids):
        seen.append(len(token_ids))
        return forward(self, token_ids)

    monkeypatch.setattr(TransformerTextEncoder, "backbone_features", counted)
    cache = tmp_path / "cache"
    recipe = recipe_of(encoder, HEADS)
    model = train(recipe, shapes, tmp_path / "first", cache=cache, display=quiet())
    assert 0 < sum(seen) <= 270  # each different caption of train and val once
    seen.clear()
    train(recipe, shapes, tmp_path / "second", cache=cache, display=quiet())
    assert sum(seen) == 0
    measured = dualpath.evaluate(model, shapes, split="val", cache=cache)
    assert measured["rsum"] == pytest.approx(model.metrics["validation"]["rsum"])


def test_the_head_reads_the_states_it_is_told_to(encoder):
    from transformers import AutoModel

    backbone = AutoModel.from_pretrained(encoder)
    last = TransformerTextEncoder(backbone, 8, hidden=8).eval()
    both = TransformerTextEncoder(backbone, 8, hidden=8, feature_layers=(0, -1)).eval()
    token_ids = torch.tensor([[3, 6, 7, 4], [3, 8, 4, 0]])
    with torch.no_grad():
        features = both.backbone_features(token_ids)
        embedded = backbone.embeddings(input_ids=token_ids[1:, :3] - 1).mean(dim=1)
        torch.testing.assert_close(features[:, 16:], last.backbone_features(token_ids))
    torch.testing.assert_close(features[1:, :16], torch.nn.functional.normalize(embedded))
    assert both(token_ids).shape == (2, 8)
    with pytest.raises(TextEncoderError, match=r"2 is no layer .* which has 1"):
        TransformerTextEncoder(backbone, 8, hidden=8, feature_layers=(2,))


def test_both_paths_train_with_further_states(encoder, shapes, cache, tmp_path):
    image = small_recipe().image_encoder.model_copy(update={"grid": 2, "states": (-2, -1)})
    recipe = recipe_of(encoder, HEADS, SENTENCES).model_copy(update={"image_encoder": image})
    text = recipe.text_encoder.model_copy(update={"states": (0, -1)})
    recipe = recipe.model_copy(update={"text_encoder": text})
    model = train(recipe, shapes, tmp_path, cache=cache, display=quiet())
    loaded = dualpath.load(tmp_path)
    sentences = ["a red star", "two circles"]
    np.testing.assert_allclose(
        loaded.embed_texts(sentences), model.embed_texts(sentences), atol=1e-6
    )
    measured = dualpath.evaluate(loaded, shapes, split="val", cache=cache)
    assert measured["rsum"] == pytest.approx(model.metrics["validation"]["rsum"])


def student_of(teacher, **distillation) -> Recipe:
    stage = {**STAGE, "name": "distil", "backbone": "frozen", "epochs": 30, "instance": None}
    stage |= {"contrastive": {"weight": 0.1}, "distillation": {"teacher": teacher, **distillation}}
    return small_recipe(stages=[stage], keep="last")


def test_a_student_comes_to_lie_where_its_teacher_does(teacher, shapes, cache, tmp_path):
    extra = tmp_path / "more.jsonl"
    extra.write_text('{"captions": ["two red stars", "a huge pink circle"]}\n{"text": "a star"}\n')
    student = train(
        student_of(str(teacher), captions=str(extra), captions_per_batch=8),
        shapes,
        tmp_path / "student",
        cache=cache,
        display=quiet(),
    )
    told = student.metrics["history"]
    assert told[-1]["losses"]["distillation"] < 0.5 * told[0]["losses"]["distillation"]
    assert "pink" in student.tokenizer.words  # a word of the further captions alone
    sentences = ["a red star", "two red stars"]
    cosines = (student.embed_texts(sentences) * dualpath.load(teacher).embed_texts(sentences)).sum(
        1
    )
    assert cosines.min() > 0.5


def test_a_teacher_that_does_not_fit_is_named(teacher, shapes, cache, tmp_path):
    fitting = student_of(str(teacher))
    narrow = fitting.model_copy(update={"dim": 16})
    with pytest.raises(TeacherError, match="32 dimensions"):
        train(narrow, shapes, tmp_path / "a", cache=cache, display=quiet())
    image = fitting.image_encoder.model_copy(update={"grid": 2})
    gridded = fitting.model_copy(update={"image_encoder": image})
    with pytest.raises(TeacherError, match="another shape"):
        train(gridded, shapes, tmp_path / "b", cache=cache, display=quiet())
    with pytest.raises(TeacherError, match=r"missing\.txt"):
        read_captions(tmp_path / "missing.txt")


def test_an_encoder_that_is_not_there_is_named_in_one_line(shapes, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    folder = tmp_path / "nothing"
    folder.mkdir()
    recipe.write_text(
        "name: a\ntext_encoder: {transformer: " + str(folder) + "}\n"
        "image_encoder: {backbone: test_efficientnet, pretrained: false, input_size: 32}\n"
        "stages: [{name: s, epochs: 1, contrastive: {}}]\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    result = run_cli("train", recipe, "--data", shapes, "--out", tmp_path / "o", env=environment)
    assert result.returncode == 1
    assert str(folder) in result.stderr
    assert "Traceback" not in result.stderr


def test_distillation_loss_by_hand():
    features, targets = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0]] * 2)
    assert distillation_loss(features, targets).item() == pytest.approx(0.5)
