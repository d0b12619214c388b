"""Several processes compute what one process computes (gloo, on this machine)."""

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist
from torch import nn
from torch.distributed.tensor.parallel import loss_parallel

from dualpath.distributed.collectives import (
    all_gather_rows,
    all_reduce_max,
    all_reduce_sum,
    apply_sharded,
    as_dtensor,
    local_slice,
    rank,
    shard_slice,
    world_size,
)
from dualpath.distributed.process_group import all_reduce_any, peer_failure
from dualpath.losses.contrastive import contrastive_loss
from dualpath.losses.instance import InstanceClassifier, instance_loss
from dualpath.models.layers import average_sigma, projection_head
from dualpath.models.text.residual_cnn import ResidualTextCNN


def run_processes(function, count, folder, *arguments):
    """Run a function in several processes; return what each returns."""
    mp.spawn(_process, (count, folder, function, arguments), nprocs=count)
    return [torch.load(folder / f"{number}.pt", weights_only=False) for number in range(count)]


def _process(number, count, folder, function, arguments):
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=number, world_size=count)
    torch.save(function(*arguments), folder / f"{number}.pt")
    dist.destroy_process_group()


def whole(own, total):
    rows = as_dtensor(own.to_dense(), total)
    return rows.full_tensor() if world_size() > 1 else rows


def one_step(options):
    """Compute losses and gradients of a batch of odd size, in double precision."""
    torch.manual_seed(0)
    texts = ResidualTextCNN(50, embedding_dim=12, dim=16, channels=32, layers=2)
    both = nn.ModuleList([projection_head(20, 20, 16), texts]).double().train()
    classifier = InstanceClassifier(16, torch.arange(11), **options).double()
    if classifier.bias is not None:
        average_sigma(both)  # the style of the paper has both
        classifier.bias.data[:, 0] = torch.linspace(-1, 1, 11)[classifier.own]
    lengths = torch.randint(1, 9, (14,))
    token_ids = torch.randint(1, 50, (14, 8)) * (torch.arange(8) < lengths[:, None])
    images, owners, ids = torch.randn(7, 20).double(), torch.arange(7).repeat(2), torch.arange(7)
    image_features = all_gather_rows(both[0](images[local_slice(7)]), 7)
    text_features = all_gather_rows(both[1](token_ids[local_slice(14)]), 14)
    contrast = contrastive_loss(image_features, text_features, owners, ids, temperature=0.05)
    with loss_parallel():
        losses = classifier(image_features, text_features, ids, ids[owners], logit_scale=8.0)
        (sum(losses) + contrast).backward()
    for parameter in both.parameters():  # what DistributedDataParallel does
        if world_size() > 1:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world_size()
    found = {name: parameter.grad for name, parameter in both.named_parameters()}
    found |= dict(both.named_buffers())
    found |= {f"loss {i}": loss.detach() for i, loss in enumerate((*losses, contrast))}
    for name in classifier.row_names():
        found[name] = whole(classifier.get_parameter(name).grad, classifier.classes)
    if classifier.projection is not None:
        found["projection"] = classifier.projection.weight.grad
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "options"),
    [
        (2, {"shared": False}),
        (2, {"projection_dim": 5}),
        (3, {"bias": True}),
        (4, {"num_heads": 2}),
        (4, {"sample_rate": 0.9999, "projection_dim": 5}),
    ],
)
def test_losses_gradients_and_statistics_are_those_of_one_process(tmp_path, count, options):
    alone = one_step(options)
    for found in run_processes(one_step, count, tmp_path, options):
        assert found.keys() == alone.keys()
        for name, expected in alone.items():
            torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-11, msg=name)


IDS = torch.tensor([17, 1, -1, 4, 3, 17])


def sampled_classifier():
    torch.manual_seed(0)
    return InstanceClassifier(8, torch.arange(20), sample_rate=0.5), torch.randn(6, 8)


def draw_sample():
    classifier, x = sampled_classifier()
    torch.manual_seed(rank())  # each process draws from its own classes
    with loss_parallel():
        loss, _ = classifier(x, x, IDS, IDS, logit_scale=4.0)
        loss.backward()
    rows = classifier.weight.grad.coalesce().indices()[0] + classifier.own.start
    return loss.detach(), rows


@pytest.mark.slow
def test_each_process_samples_its_own_classes_for_one_softmax(tmp_path):
    losses, rows = zip(*run_processes(draw_sample, 3, tmp_path), strict=True)
    assert [len(drawn) for drawn in rows] == [4, 4, 4]  # of 7, 7 and 6
    assert {1, 3, 4} <= set(rows[0].tolist())
    assert 17 in rows[2]
    classifier, x = sampled_classifier()
    sample = torch.cat(rows)
    columns = torch.tensor([sample.tolist().index(i) if i >= 0 else -1 for i in IDS.tolist()])
    expected = instance_loss(x, classifier.weight[sample], columns, logit_scale=4.0)
    for loss in losses:
        torch.testing.assert_close(loss, expected)


def exchange():
    """Call every collective on tensors that differ between the processes."""
    own = torch.arange(7.0)[local_slice(7), None].requires_grad_()
    gathered = all_gather_rows(own, 7)
    (gathered.squeeze(1) * torch.arange(7.0)).sum().backward()
    weight = torch.arange(15.0).view(5, 3)
    sharded = as_dtensor(weight[shard_slice(5)], 5)
    return {
        "gathered": gathered.detach(),
        "gradient": own.grad,
        "sum": all_reduce_sum(torch.tensor([1.0 + rank()])),
        "max": all_reduce_max(torch.tensor([1.0 + rank(), -rank()])),
        "any": all_reduce_any(rank() == 1, False),
        "product": apply_sharded(lambda x, w: x @ w.T, torch.ones(2, 3), sharded),
        "lost": peer_failure(RuntimeError("Connection closed by peer")) is not None,
        "other": peer_failure(RuntimeError("shapes differ")) is not None,
    }


@pytest.mark.slow
def test_every_process_gets_the_values_of_all(tmp_path):
    for number, found in enumerate(run_processes(exchange, 2, tmp_path)):
        assert found["gathered"].squeeze(1).tolist() == list(range(7))
        # The gradient of the sum of both processes' equal losses.
        own = torch.arange(7.0).tensor_split(2)[number]
        assert found["gradient"].squeeze(1).tolist() == (2 * own).tolist()
        assert found["sum"].tolist() == [3]
        assert found["max"].tolist() == [2, 0]
        assert found["any"] == [True, False]
        assert found["product"].tolist() == [[3, 12, 21, 30, 39]] * 2
        assert (found["lost"], found["other"]) == (True, False)


def test_one_process_exchanges_nothing():
    x = torch.randn(5, 3)
    assert (world_size(), rank()) == (1, 0)
    assert local_slice(5) == shard_slice(5) == slice(0, 5)
    assert all_gather_rows(x, 5) is x
    assert all_reduce_sum(x) is x
    assert all_reduce_max(x).equal(x)
    assert as_dtensor(x, 5) is x
    assert apply_sharded(torch.add, x, x).equal(2 * x)
    assert all_reduce_any(True, False) == [True, False]
    assert peer_failure(RuntimeError("Connection closed by peer")) is None


@pytest.mark.parametrize("total", [4, 5, 7, 23])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_slices_are_those_of_torch(monkeypatch, total, processes):
    rows = torch.arange(total)
    shares, shards = rows.tensor_split(processes), rows.chunk(processes)
    for number in range(processes):
        monkeypatch.setattr("dualpath.distributed.collectives.world_size", lambda: processes)
        monkeypatch.setattr("dualpath.distributed.collectives.rank", lambda n=number: n)
        assert rows[local_slice(total)].equal(shares[number])
        if len(shards) == processes:
            assert rows[shard_slice(total)].equal(shards[number])


def test_fewer_rows_than_processes_cannot_be_sharded(monkeypatch):
    monkeypatch.setattr("dualpath.distributed.collectives.world_size", lambda: 4)
    with pytest.raises(ValueError, match="3 classes cannot be shared by 4 processes"):
        shard_slice(3)
