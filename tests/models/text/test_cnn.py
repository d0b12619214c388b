import pytest
import torch

from dualpath.models.text.cnn import Bottleneck, TextCNN


def count(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def tiny(padding, **options):
    torch.manual_seed(0)
    network = TextCNN(50, embedding_dim=12, dim=16, width=0.0625, padding=padding, **options)
    return network.double().eval()


def randomise_running_statistics(network):
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)


@pytest.mark.parametrize(
    ("words", "embedding_millions"), [(20_074, 6.02), (29_972, 8.99), (7_263, 2.18)]
)
def test_the_paper_size_has_the_published_number_of_parameters(words, embedding_millions):
    network = TextCNN(words + 1)
    padding_row = network.embedding.embedding_dim
    embedding = count(network.embedding, network.embedding_norm) - padding_row
    embedding += network.embedding_bias.numel()
    trunk = count(network) - embedding - padding_row
    assert embedding == words * 300 + 300 + 2 * 300
    assert embedding / 1e6 == pytest.approx(embedding_millions, abs=0.005)
    assert trunk / 1e6 == pytest.approx(30.30, abs=0.005)


def test_the_layer_table_has_14_blocks_and_44_convolutions_on_the_main_path():
    network = TextCNN(10)
    linear = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    shortcuts = [b for b in network.blocks if b.shortcut is not None]
    assert len(network.blocks) == 14
    assert len(shortcuts) == 4
    # The embedding counts as one; the shortcuts are off the main path.
    assert 1 + len(linear) - len(shortcuts) == 44
    assert [b.stride for b in network.blocks] == [1] * 3 + [2] + [1] * 3 + [2] + [1] * 6
    inner = [b.reduce.out_features for b in network.blocks]
    out = [b.expand.out_features for b in network.blocks]
    assert inner == [128, 64, 64, 512, 128, 128, 128, 1024, *[256] * 5, 2048]
    assert out == [256] * 3 + [512] * 4 + [1024] * 6 + [2048]


@pytest.mark.parametrize(("length", "lengths"), [(32, (32, 16, 8)), (56, (56, 28, 14))])
def test_each_block_of_the_paper_halves_the_length_where_the_table_says(length, lengths):
    network = TextCNN(10, width=0.0625, max_words=length)
    rows = []
    for block in network.blocks:
        block.register_forward_hook(lambda _m, _i, out: rows.append(len(out)))
    network.train()(network.place(torch.ones(3, 2, dtype=torch.int64), torch.zeros(3).long()))
    first, second, third = lengths
    assert [n // 3 for n in rows] == [first] * 3 + [second] * 4 + [third] * 7


def test_what_placements_and_sentences_have_in_common_is_computed_once():
    network = tiny("masked")
    randomise_running_statistics(network)
    rows = []
    network.blocks[2].register_forward_hook(lambda _m, _i, out: rows.append(len(out)))
    placed, _ = network.place_everywhere(torch.tensor([[3, 4, 5, 6, 7], [3, 4, 5, 8, 9]]))
    together = network(placed)
    assert rows == [3 + 2 + 2]  # three blocks read four words; the sentences differ from the fourth
    one_at_a_time = torch.cat([network(placement[None]) for placement in placed])
    torch.testing.assert_close(together, one_at_a_time)


def test_the_packed_rows_give_what_padded_one_dimensional_convolutions_give():
    network = tiny("unmasked", max_words=8)
    randomise_running_statistics(network)
    token_ids = network.place(torch.tensor([[3, 4, 5, 0], [7, 0, 0, 0]]), torch.tensor([1, 6]))

    def norm(module, x):
        return module(x.transpose(1, 2)).transpose(1, 2)

    def convolve(linear, x, stride=1, width=1):
        weight = linear.weight.view(linear.out_features, width, -1).transpose(1, 2)
        x = torch.nn.functional.pad(x.transpose(1, 2), (width - 1, 0))
        return torch.nn.functional.conv1d(x, weight, stride=stride).transpose(1, 2)

    x = norm(network.embedding_norm, network.embedding(token_ids) + network.embedding_bias)
    for block in network.blocks:
        assert isinstance(block, Bottleneck)
        inner = norm(block.reduce_norm, convolve(block.reduce, x)).relu()
        inner = convolve(block.convolve, inner, block.stride, width=2)
        inner = norm(block.convolve_norm, inner).relu()
        out = norm(block.expand_norm, convolve(block.expand, inner))
        if block.shortcut is not None:
            x = norm(block.shortcut[1], convolve(block.shortcut[0], x, block.stride))
        x = (x + out).relu()
    expected = network.project_norm(network.project(x.amax(dim=1)))
    torch.testing.assert_close(network(token_ids), expected)


def test_masked_padding_does_not_depend_on_how_far_a_sentence_is_padded():
    network = tiny("masked")
    randomise_running_statistics(network)
    short = torch.tensor([[3, 4, 5, 6, 7]])
    long = torch.nn.functional.pad(short, (0, 11))
    torch.testing.assert_close(network(short), network(long))
    with_others = torch.cat([long, torch.randint(1, 50, (3, 16))])
    torch.testing.assert_close(network(with_others)[:1], network(short))


@pytest.mark.parametrize("length", range(1, 13))
def test_masked_padding_lets_the_last_word_of_any_sentence_through(length):
    network = tiny("masked")
    sentence = torch.randint(1, 40, (1, length))
    other = sentence.clone()
    other[0, -1] = 45
    assert not torch.allclose(network(sentence), network(other))


@pytest.mark.parametrize("padding", ["masked", "unmasked"])
def test_an_empty_sentence_has_a_finite_embedding(padding):
    network = tiny(padding)
    placed, _ = network.place_everywhere(torch.zeros(2, 1, dtype=torch.int64))
    assert torch.isfinite(network(placed)).all()


def test_unmasked_sentences_have_every_place_of_the_paper():
    network = tiny("unmasked", max_words=6)
    placed, owners = network.place_everywhere(torch.tensor([[7, 8, 9, 9], [5, 0, 0, 0]]))
    assert placed[owners == 0].tolist() == [
        [7, 8, 9, 9, 0, 0],
        [0, 7, 8, 9, 9, 0],
        [0, 0, 7, 8, 9, 9],
    ]
    assert placed[owners == 1].tolist() == torch.diag(torch.full((6,), 5)).tolist()


def test_masked_sentences_are_placed_at_each_phase_of_the_strides():
    network = tiny("masked")
    placed, owners = network.place_everywhere(torch.tensor([[7, 8]]))
    assert owners.tolist() == [0, 0, 0, 0]
    assert placed[:, :2].tolist() == [[7, 8], [0, 7], [0, 0], [0, 0]]
    further = network.place(torch.tensor([[7, 8, 0, 0, 0, 0]]), torch.tensor([4]))
    torch.testing.assert_close(network(further), network(placed[:1]))


def test_a_random_placement_is_one_of_all_placements():
    network = tiny("unmasked", max_words=6)
    token_ids = torch.tensor([[7, 8, 9]])
    everywhere = network.place_everywhere(token_ids)[0].tolist()
    seen = {tuple(network.place_at_random(token_ids)[0].tolist()) for _ in range(200)}
    assert seen == {tuple(row) for row in everywhere}


def test_padding_never_gets_a_vector_of_its_own():
    network = tiny("unmasked", max_words=6).train()
    network(network.place(torch.tensor([[1, 2], [3, 4]]), torch.tensor([0, 1]))).sum().backward()
    assert network.embedding.weight.grad[0].abs().max() == 0
    assert network.embedding.weight[0].abs().max() == 0


def test_new_layers_start_with_a_variance_of_one_over_fan_in():
    network = TextCNN(10)
    weight = network.blocks[3].convolve.weight
    assert weight.abs().max() <= (3 / weight.shape[1]) ** 0.5
    assert weight.var().item() == pytest.approx(1 / weight.shape[1], rel=0.02)
    assert network.project_norm.eps == 1e-3
    assert network.project_norm.momentum == 0.05
