"""What a stage freezes stays unchanged, and its features are computed once."""

import json

import numpy as np
import pytest
import torch

from dualpath.data.captions import tabulate_captions
from dualpath.data.manifest import read_manifest
from dualpath.data.tokenizer import Tokenizer
from dualpath.evaluation.evaluate import evaluate
from dualpath.inference.model import load
from dualpath.models.dual_encoder import build_network
from dualpath.models.text.transformer import TransformerTextEncoder
from dualpath.training.feature_cache import cached_text_features
from dualpath.training.train import seed_weights
from tests.conftest import ONE_STAGE, STAGE, small_recipe, small_resolved_recipe, train_quietly

FROZEN = {**STAGE, "name": "heads", "backbone": "frozen", "sentence_encoder": "frozen"}
TRAINED = {**STAGE, "name": "sentences", "backbone": "frozen", "epochs": 1}


def recipe_with(sentence_encoder, *stages, **changes):
    text = {"transformer": str(sentence_encoder)}
    return small_recipe(text_encoder=text, stages=list(stages), **changes)


@pytest.fixture
def passed_sentences(monkeypatch):
    """The numbers of captions that went through the sentence encoder, one for each call."""
    numbers = []
    forward = TransformerTextEncoder.backbone_features

    def counted(self, token_ids):
        numbers.append(len(token_ids))
        return forward(self, token_ids)

    monkeypatch.setattr(TransformerTextEncoder, "backbone_features", counted)
    # Saving compares the ONNX encoders with the network, which passes examples through it.
    monkeypatch.setattr("dualpath.inference.torch_backend.save_onnx_encoders", lambda *_: [])
    return numbers


def test_a_frozen_backbone_is_unchanged(tmp_path, shapes, cache):
    recipe = small_resolved_recipe(stages=ONE_STAGE)
    model = train_quietly(recipe, shapes, tmp_path, cache=cache)
    seed_weights(recipe)
    network = build_network(recipe, model.tokenizer.num_embeddings)
    fresh = network.image_encoder.backbone.state_dict()
    trained = model.network.image_encoder.backbone.state_dict()
    assert all(fresh[name].equal(trained[name].cpu()) for name in fresh)


def test_a_stage_that_trains_the_backbone_changes_it(tmp_path, shapes, cache):
    recipe = small_resolved_recipe(stages=[{**ONE_STAGE[0], "backbone": "trained"}])
    model = train_quietly(recipe, shapes, tmp_path, cache=cache)
    seed_weights(recipe)
    network = build_network(recipe, model.tokenizer.num_embeddings)
    trained = dict(model.network.image_encoder.backbone.named_parameters())
    for name, parameter in network.image_encoder.backbone.named_parameters():
        if parameter.ndim > 1:
            assert not parameter.equal(trained[name].cpu()), name


@pytest.mark.slow
def test_a_frozen_sentence_encoder_is_unchanged_and_a_trained_one_changes(
    sentence_encoder, shapes, cache, tmp_path
):
    from transformers import AutoModel

    fresh = AutoModel.from_pretrained(sentence_encoder).state_dict()
    frozen = train_quietly(
        recipe_with(sentence_encoder, FROZEN), shapes, tmp_path / "frozen", cache=cache
    )
    state = frozen.network.text_encoder.backbone.state_dict()
    assert all(fresh[name].equal(state[name].cpu()) for name in fresh)
    last = recipe_with(sentence_encoder, FROZEN, TRAINED, keep="last")
    trained = train_quietly(last, shapes, tmp_path / "trained", cache=cache)
    history = json.loads((tmp_path / "trained" / "metrics.json").read_text())["history"]
    assert [entry["stage"] for entry in history] == ["heads", "heads", "sentences"]
    state = trained.network.text_encoder.backbone.state_dict()
    assert not all(fresh[name].equal(state[name].cpu()) for name in fresh)


@pytest.mark.slow
def test_features_of_a_frozen_sentence_encoder_are_computed_once(
    sentence_encoder, shapes, tmp_path, passed_sentences
):
    cache = tmp_path / "cache"
    recipe = recipe_with(sentence_encoder, FROZEN)
    model = train_quietly(recipe, shapes, tmp_path / "first", cache=cache)
    assert 0 < sum(passed_sentences) <= 270  # each different caption of train and val once
    passed_sentences.clear()
    train_quietly(recipe, shapes, tmp_path / "second", cache=cache)
    assert sum(passed_sentences) == 0
    measured = evaluate(model, shapes, split="val", cache=cache)
    assert measured.rsum == pytest.approx(model.metrics["validation"]["rsum"])


def test_cached_sentence_features_are_those_of_the_encoder(sentence_encoder, shapes, tmp_path):
    recipe = small_resolved_recipe(text_encoder={"transformer": str(sentence_encoder)})
    images = read_manifest(shapes).split("val").images
    tokenizer = Tokenizer.load(sentence_encoder / "tokenizer.json", "subword", 64)
    table = tabulate_captions(images, tokenizer, tmp_path)
    encoder = build_network(recipe, tokenizer.num_embeddings).text_encoder.eval()
    for _ in range(2):  # computed, then read
        cached = cached_text_features(encoder, table.token_ids, tmp_path)
        for row, token_ids in zip(cached, table.token_ids, strict=True):
            words = torch.from_numpy(np.asarray(token_ids[token_ids > 0], np.int64))
            with torch.no_grad():
                live = encoder.backbone_features(words[None])[0].numpy()
            np.testing.assert_allclose(row, live, atol=1e-5)


@pytest.mark.slow
def test_both_encoders_are_trained_with_earlier_layers(sentence_encoder, shapes, cache, tmp_path):
    image = {**small_recipe().image_encoder.model_dump(), "grid": 2, "feature_layers": (-2, -1)}
    text = {"transformer": str(sentence_encoder), "feature_layers": (0, -1)}
    recipe = small_recipe(image_encoder=image, text_encoder=text, stages=[FROZEN, TRAINED])
    model = train_quietly(recipe, shapes, tmp_path, cache=cache)
    loaded = load(tmp_path)
    sentences = ["a red star", "two circles"]
    np.testing.assert_allclose(
        loaded.embed_texts(sentences), model.embed_texts(sentences), atol=1e-6
    )
    measured = evaluate(loaded, shapes, split="val", cache=cache)
    assert measured.rsum == pytest.approx(model.metrics["validation"]["rsum"])
