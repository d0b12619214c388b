import torch
from hypothesis import given
from hypothesis import strategies as st

from dualpath.models.text.residual_cnn import ResidualConvolution, ResidualTextCNN


def small(**changes) -> ResidualTextCNN:
    torch.manual_seed(0)
    kind = {"embedding_dim": 6, "dim": 5, "channels": 8, "layers": 2, **changes}
    return ResidualTextCNN(12, **kind).eval()


@given(
    words=st.lists(st.integers(1, 11), min_size=1, max_size=7),
    others=st.lists(st.integers(1, 11), min_size=1, max_size=7),
    padding=st.integers(0, 5),
)
def test_padding_and_other_sentences_of_the_batch_do_not_change_an_embedding(
    words, others, padding
):
    model = small()
    alone = model(torch.tensor([words]))
    width = max(len(words), len(others)) + padding
    batch = torch.zeros(3, width, dtype=torch.int64)
    batch[0, : len(others)] = torch.tensor(others)
    batch[1, : len(words)] = torch.tensor(words)
    torch.testing.assert_close(model(batch)[1:2], alone)


def test_a_layer_is_a_convolution_of_width_three_with_zeros_around_a_sentence():
    torch.manual_seed(0)
    layer = ResidualConvolution(4).eval()
    x = torch.randn(5, 4)
    numbers = torch.arange(1, 6)
    previous, following = numbers - 1, torch.where(numbers < 5, numbers + 1, 0)
    kernel = layer.convolve.weight.view(4, 3, 4).permute(0, 2, 1)  # (out, in, width)
    seen = torch.nn.functional.conv1d(x.T[None], kernel, padding=1)[0].T
    expected = x + torch.relu(layer.norm(seen))
    torch.testing.assert_close(layer(x, previous, following), expected)


def test_the_order_of_words_matters_only_if_there_are_layers():
    sentence, turned = torch.tensor([[1, 2, 3]]), torch.tensor([[3, 2, 1]])
    assert not torch.allclose(small()(sentence), small()(turned))
    bag = small(layers=0)
    torch.testing.assert_close(bag(sentence), bag(turned))


def test_an_empty_sentence_has_an_embedding():
    assert torch.isfinite(small()(torch.zeros(2, 3, dtype=torch.int64))).all()
