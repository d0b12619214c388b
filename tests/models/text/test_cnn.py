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
def test_the_blocks_halve_the_length_where_the_layer_table_says(length, lengths):
    network = TextCNN(10, width=0.0625, max_words=length)
    rows = []
    for block in network.blocks:
        block.register_forward_hook(lambda _m, _i, out: rows.append(len(out)))
    network.train()(network.place(torch.ones(3, 2, dtype=torch.int64), torch.zeros(3).long()))
    first, second, third = lengths
    assert [n // 3 for n in rows] == [first] * 3 + [second] * 4 + [third] * 7


def test_positions_that_placements_and_sentences_share_are_computed_once():
    network = tiny("masked")
    randomise_running_statistics(network)
    rows = []
    network.blocks[2].register_forward_hook(lambda _m, _i, out: rows.append(len(out)))
    placed, _ = network.place_everywhere(torch.tensor([[3, 4, 5, 6, 7], [3, 4, 5, 8, 9]]))
    together = network(placed)
    assert rows == [3 + 2 + 2]  # three blocks read four words; the sentences differ from the fourth
    one_at_a_time = torch.cat([network(placement[None]) for placement in placed])
    torch.testing.assert_close(together, one_at_a_time)


def test_packed_rows_give_the_results_of_padded_one_dimensional_convolutions():
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


def test_the_amount_of_masked_padding_does_not_change_an_embedding():
    network = tiny("masked")
    randomise_running_statistics(network)
    short = torch.tensor([[3, 4, 5, 6, 7]])
    long = torch.nn.functional.pad(short, (0, 11))
    torch.testing.assert_close(network(short), network(long))
    with_others = torch.cat([long, torch.randint(1, 50, (3, 16))])
    torch.testing.assert_close(network(with_others)[:1], network(short))


@pytest.mark.parametrize("length", range(1, 13))
def test_the_last_word_of_a_sentence_changes_its_embedding(length):
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


def test_unmasked_sentences_are_placed_at_every_position():
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


def test_the_vector_of_padding_stays_zero():
    network = tiny("unmasked", max_words=6).train()
    network(network.place(torch.tensor([[1, 2], [3, 4]]), torch.tensor([0, 1]))).sum().backward()
    assert network.embedding.weight.grad[0].abs().max() == 0
    assert network.embedding.weight[0].abs().max() == 0


def test_new_layers_have_a_variance_of_one_over_fan_in():
    network = TextCNN(10)
    weight = network.blocks[3].convolve.weight
    assert weight.abs().max() <= (3 / weight.shape[1]) ** 0.5
    assert weight.var().item() == pytest.approx(1 / weight.shape[1], rel=0.02)
    assert network.project_norm.eps == 1e-3
    assert network.project_norm.momentum == 0.05


def test_mean_pooling_by_hand():
    torch.manual_seed(0)
    encoder = TextCNN(9, embedding_dim=8, dim=4, width=0.0625, depths=(1, 1, 1, 1), pooling="mean")
    seen = {}
    encoder.project.register_forward_pre_hook(lambda _, x: seen.update(pooled=x[0]))
    encoder.blocks[-1].register_forward_hook(lambda *call: seen.update(rows=call[2]))
    encoder.train()(encoder.place(torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([0, 5])))
    torch.testing.assert_close(seen["pooled"], seen["rows"].view(2, 8, -1).mean(dim=1))


@pytest.mark.parametrize("padding", ["masked", "unmasked"])
def test_a_test_embedding_is_the_sum_over_all_placements(padding):
    network = tiny(padding, max_words=6)
    randomise_running_statistics(network)
    token_ids = torch.tensor([[7, 8, 9], [5, 0, 0]])
    placed, owners = network.place_everywhere(token_ids)
    features = network(placed)
    expected = torch.stack([features[owners == sentence].sum(dim=0) for sentence in (0, 1)])
    torch.testing.assert_close(network.embed(token_ids, average=True), expected)
    left = network(network.place(token_ids, torch.tensor([0, 0])))
    torch.testing.assert_close(network.embed(token_ids, average=False), left)


@pytest.mark.parametrize("padding", ["masked", "unmasked"])
def test_augmentation_places_captions_at_random_only_if_it_is_switched_on(padding):
    network = tiny(padding, max_words=6)
    token_ids = torch.tensor([[7, 8, 9]])
    left = network.place(token_ids, torch.tensor([0])).tolist()
    placements = {
        shift: {
            str(network.augment_tokens(token_ids, word_dropout=0.0, position_shift=shift).tolist())
            for _ in range(100)
        }
        for shift in (False, True)
    }
    assert placements[False] == {str(left)}
    assert len(placements[True]) == 4
