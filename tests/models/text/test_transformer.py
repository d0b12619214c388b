import numpy as np
import pytest
import torch

from dualpath.errors import TextEncoderError
from dualpath.models.text.transformer import (
    TransformerTextEncoder,
    create_sentence_encoder,
    sentence_tokenizer_file,
)
from dualpath.recipes.stages import StageRecipe

TOKEN_IDS = torch.tensor([[3, 6, 7, 4], [3, 8, 4, 0]])


@pytest.fixture
def backbone(sentence_encoder):
    return create_sentence_encoder(str(sentence_encoder), load=True)


def test_the_head_reads_the_layers_of_the_recipe(backbone):
    last = TransformerTextEncoder(backbone, 8, hidden=8).eval()
    both = TransformerTextEncoder(backbone, 8, hidden=8, feature_layers=(0, -1)).eval()
    with torch.no_grad():
        features = both.backbone_features(TOKEN_IDS)
        embedded = backbone.embeddings(input_ids=TOKEN_IDS[1:, :3] - 1).mean(dim=1)
        torch.testing.assert_close(features[:, 16:], last.backbone_features(TOKEN_IDS))
    torch.testing.assert_close(features[1:, :16], torch.nn.functional.normalize(embedded))
    assert both.feature_dim == 32
    assert both(TOKEN_IDS).shape == (2, 8)


@pytest.mark.parametrize("layer", [2, -3])
def test_a_layer_that_does_not_exist_is_named(backbone, layer):
    with pytest.raises(TextEncoderError, match=rf"{layer} does not exist; .* has 1 layers"):
        TransformerTextEncoder(backbone, 8, hidden=8, feature_layers=(layer,))


def test_cached_features_give_the_same_embedding(backbone):
    encoder = TransformerTextEncoder(backbone, 8, hidden=8).eval()
    with torch.no_grad():
        features = encoder.backbone_features(TOKEN_IDS)
        torch.testing.assert_close(encoder(features), encoder(TOKEN_IDS))


def test_a_frozen_encoder_has_no_gradient_and_no_dropout(backbone):
    encoder = TransformerTextEncoder(backbone, 8, hidden=8)
    stage = {"name": "one", "epochs": 1, "contrastive": {}}
    encoder.freeze(StageRecipe.model_validate({**stage, "sentence_encoder": "frozen"}))
    encoder.train()
    encoder(TOKEN_IDS).sum().backward()
    assert all(p.grad is None for p in encoder.backbone.parameters())
    assert all(p.grad is not None for p in encoder.head.parameters())
    first, second = (encoder.backbone_features(TOKEN_IDS) for _ in range(2))
    assert first.equal(second)
    encoder.freeze(StageRecipe.model_validate(stage))
    first, second = (encoder.backbone_features(TOKEN_IDS) for _ in range(2))
    assert not first.equal(second)


def test_the_key_of_cached_features_changes_with_weights_and_layers(backbone):
    key = TransformerTextEncoder(backbone, 8, hidden=8).feature_key()
    assert TransformerTextEncoder(backbone, 8, hidden=4).feature_key() == key
    assert TransformerTextEncoder(backbone, 8, hidden=8, feature_layers=(0,)).feature_key() != key
    with torch.no_grad():
        next(backbone.parameters()).add_(1)
    assert TransformerTextEncoder(backbone, 8, hidden=8).feature_key() != key


def test_padding_does_not_change_an_embedding(backbone):
    encoder = TransformerTextEncoder(backbone, 8, hidden=8).eval()
    padded = torch.nn.functional.pad(TOKEN_IDS, (0, 5))
    with torch.no_grad():
        np.testing.assert_allclose(encoder(padded), encoder(TOKEN_IDS), atol=1e-6)


def test_a_folder_without_a_sentence_encoder_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TextEncoderError, match=rf"{tmp_path}: .* cannot be loaded"):
        create_sentence_encoder(str(tmp_path), load=True)
    with pytest.raises(TextEncoderError, match=rf"{tmp_path}: tokenizer\.json cannot be"):
        sentence_tokenizer_file(str(tmp_path))
