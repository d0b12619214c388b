"""The defaults of the base class, and a text encoder that is not in this package."""

import pytest
import torch
from torch import nn

from dualpath.models.text.base import TextEncoder, TextEncoderSpec, TextGraph
from dualpath.recipes.stages import StageRecipe
from tests.conftest import small_resolved_recipe


class BagOfWords(TextEncoder):
    """The smallest text encoder: the mean of the word vectors."""

    def __init__(self, num_embeddings, dim):
        super().__init__()
        self.embedding = nn.Embedding(num_embeddings, dim, padding_idx=0)

    @classmethod
    def from_recipe(cls, spec):
        return cls(spec.num_embeddings, spec.recipe.dim)

    def forward(self, token_ids):
        return self.embedding(token_ids).sum(dim=1)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return BagOfWords.from_recipe(TextEncoderSpec(small_resolved_recipe(), 10))


def test_an_encoder_needs_only_two_methods(encoder):
    token_ids = torch.tensor([[1, 2], [3, 0]])
    torch.testing.assert_close(encoder.embed(token_ids, average=True), encoder(token_ids))
    assert encoder.num_embeddings == 10
    assert encoder.feature_dim is None
    assert encoder.config_files() == {}
    assert encoder.export_module(average=True) == TextGraph(encoder)
    assert encoder.parameter_groups() == {"word_embedding": [encoder.embedding.weight]}
    stage = StageRecipe.model_validate({"name": "one", "epochs": 1, "contrastive": {}})
    encoder.freeze(stage)
    assert encoder.embedding.weight.requires_grad


def test_features_that_an_encoder_does_not_have_cannot_be_cached(encoder):
    with pytest.raises(NotImplementedError, match="BagOfWords has no features to cache"):
        encoder.backbone_features(torch.tensor([[1]]))
    with pytest.raises(NotImplementedError, match="BagOfWords has no features to cache"):
        encoder.feature_key()


def test_word_dropout_replaces_words_by_the_last_row_and_never_padding(encoder):
    torch.manual_seed(0)
    token_ids = torch.tensor([[1, 2, 3, 0]] * 500)
    dropped = encoder.augment_tokens(token_ids, word_dropout=0.3, position_shift=True)
    assert set(dropped[:, :3].unique().tolist()) == {1, 2, 3, 9}
    assert (dropped[:, 3] == 0).all()
    assert (dropped[:, :3] == 9).float().mean().item() == pytest.approx(0.3, abs=0.05)
    same = encoder.augment_tokens(token_ids, word_dropout=0.0, position_shift=True)
    assert same.equal(token_ids)


def test_words_without_a_vector_get_random_numbers_with_the_same_spread(encoder):
    vectors = torch.full((10, 32), torch.nan)
    vectors[2], vectors[5] = 3.0, -3.0
    encoder.set_word_vectors(vectors)
    table = encoder.embedding.weight
    assert (table[0] == 0).all()
    assert (table[2] == 3).all()
    assert (table[5] == -3).all()
    assert table[[1, 3, 4, 6, 7, 8, 9]].std().item() == pytest.approx(3, abs=0.5)
