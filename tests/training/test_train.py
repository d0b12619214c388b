"""Whole trainings: what they learn, and which weights they save."""

import json
import math

import numpy as np
import pytest
import torch

from dualpath.data.manifest import write_manifest
from dualpath.evaluation.evaluate import evaluate
from dualpath.inference.model import load
from dualpath.recipes.loading import read_recipe, shipped_recipes
from dualpath.recipes.schema import Recipe
from tests.conftest import ONE_STAGE, SMALL, small_recipe, train_quietly


@pytest.mark.slow
def test_training_lowers_the_losses_and_finds_images_better_than_chance(tmp_path, shapes, cache):
    stages = [{**SMALL["stages"][1], "epochs": 40, "contrastive": {"temperature": 0.1}}]
    recipe = small_recipe(stages=stages, keep="last")
    model = train_quietly(recipe, shapes, tmp_path, cache=cache)
    history = model.metrics["history"]
    assert [entry["epoch"] for entry in history] == list(range(1, 41))
    for name in ("instance_image", "instance_text", "ranking", "contrastive"):
        assert history[-1]["losses"][name] < 0.9 * history[0]["losses"][name]
    # Of the eighty training images, chance puts 12.5 % of the right ones among the first ten.
    result = evaluate(model, shapes, split="train", cache=cache)
    assert result.text_to_image.recall_at_10 > 50
    assert result.image_to_text.recall_at_10 > 50


def test_the_best_weights_of_all_epochs_are_saved(bundle, shapes, cache):
    metrics = json.loads((bundle / "metrics.json").read_text())
    best = max(entry["validation"]["rsum"] for entry in metrics["history"])
    assert metrics["validation"]["rsum"] == best
    again = evaluate(load(bundle), shapes, split="val", cache=cache)
    assert again.rsum == pytest.approx(best)


def test_keep_last_saves_the_last_weights(tmp_path, shapes, cache):
    train_quietly(small_recipe(keep="last"), shapes, tmp_path, cache=cache)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["validation"] == metrics["history"][-1]["validation"]


def test_without_a_validation_split_the_last_weights_are_saved(tmp_path, shapes, cache):
    (tmp_path / "images").symlink_to(shapes / "images")
    rows = [json.loads(line) for line in (shapes / "metadata.jsonl").read_text().splitlines()]
    write_manifest(tmp_path, [row for row in rows if row["split"] != "val"])
    model = train_quietly(small_recipe(stages=ONE_STAGE), tmp_path, tmp_path / "o", cache=cache)
    assert model.metrics["validation"] == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "views",
    [
        {"backbone": "frozen", "flip": True, "crops": 2},
        {"backbone": "frozen", "crops": "random"},
        {"backbone": "frozen_batch_norm"},
        {"backbone": "trained", "flip": True, "crops": "random"},
    ],
)
def test_every_kind_of_views_can_be_trained(tmp_path, shapes, cache, views):
    recipe = small_recipe(stages=[{**ONE_STAGE[0], **views}], workers=2)
    model = train_quietly(recipe, shapes, tmp_path, cache=cache)
    assert math.isfinite(model.metrics["history"][0]["losses"]["instance_image"])


@pytest.mark.slow
def test_a_model_with_several_heads_is_trained_and_loaded(tmp_path, shapes, cache):
    mined = {**SMALL["stages"][1], "ranking": {"negatives": "mined", "candidates": 8}}
    recipe = small_recipe(num_heads=4, stages=[SMALL["stages"][0], mined, SMALL["stages"][1]])
    model = train_quietly(recipe, shapes, tmp_path, cache=cache)
    losses = [entry["losses"]["instance_text"] for entry in model.metrics["history"]]
    assert losses[-1] < losses[0]
    loaded = load(tmp_path)
    sentences = ["a red circle", "two small stars"]
    assert loaded.embed_texts(sentences) == pytest.approx(model.embed_texts(sentences), abs=1e-5)
    again = evaluate(loaded, shapes, split="val", cache=cache)
    assert again.rsum == pytest.approx(model.metrics["validation"]["rsum"])


@pytest.mark.parametrize("relu_before_loss", [True, False])
def test_a_training_in_the_style_of_the_paper(tmp_path, shapes, cache, relu_before_loss):
    vectors = tmp_path / "glove.txt"
    words = ["red", "green", "blue", "circle", "square", "star", "small", "big", "of", "two"]
    torch.manual_seed(0)
    vectors.write_text(
        "".join(f"{w} {' '.join(map(str, torch.randn(8).tolist()))}\n" for w in words)
    )
    text = {"vocabulary": "paper", "word_vectors": str(vectors), "padding": "unmasked"}
    stage = {
        **ONE_STAGE[0],
        "instance": {"dropout": 0.75},
        "ranking": {"margin": 1.0, "negatives": "random"},
        "optimizer": {"name": "sgd", "lr": 0.1, "rates": {"classifier": 0.01}},
        "schedule": {"decay": "steps", "milestones": [1]},
    }
    recipe = small_recipe(
        relu_before_loss=relu_before_loss,
        stages=[stage],
        text_encoder={**SMALL["text_encoder"], **text},
    )
    model = train_quietly(recipe, shapes, tmp_path / "out", cache=cache)
    assert model.tokenizer.words == words
    assert model.recipe.text_encoder.embedding_dim == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_recipes())
def test_three_steps_of_every_shipped_recipe_at_a_reduced_size(
    name, shapes, word_vectors, sentence_encoder, cache, tmp_path
):
    recipe = read_recipe(name)
    tree = recipe.model_dump(mode="json")
    tree |= {"dim": 16, "workers": 0, "expected": None, "reference_size": None}
    if recipe.text_encoder.transformer:
        text = {"transformer": str(sentence_encoder), "feature_layers": [0, -1]}
    else:
        text = {"width": 0.0625, "word_vectors": str(word_vectors)}
    tree["text_encoder"] |= text
    reduced = {"backbone": "test_resnet", "pretrained": False, "input_size": 32}
    if recipe.image_encoder.test_size:
        reduced["test_size"] = 40
    tree["image_encoder"] |= reduced
    for stage in tree["stages"]:
        stage |= {"epochs": 1, "batch_size": 28, "validate_every": 1}  # 80 images, 3 steps
        stage["schedule"]["milestones"] = []
        stage["distillation"] = None  # its teacher is the user's; test_teacher.py
    model = train_quietly(Recipe.model_validate(tree), shapes, tmp_path, cache=cache)
    history = model.metrics["history"]
    assert [entry["stage"] for entry in history] == [stage.name for stage in recipe.stages]
    assert all(np.isfinite(list(entry["losses"].values())).all() for entry in history)
    assert ("ranking" in history[-1]["losses"]) == (recipe.stages[-1].ranking is not None)
