"""Several processes train what one would have trained (gloo, on this machine)."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
import torch.multiprocessing as mp
import yaml
from torch import distributed as dist
from torch import nn
from torch.distributed.tensor.parallel import loss_parallel

from dualpath.distributed.collectives import all_gather_rows, as_dtensor, share, world_size
from dualpath.losses.instance import InstanceClassifier, instance_loss
from dualpath.losses.ranking import contrastive_loss
from dualpath.models.layers import head
from dualpath.models.text.residual_cnn import ResidualTextCNN
from dualpath.training.checkpoints import load_checkpoint, load_rows
from tests.conftest import SMALL, run_cli
from tests.models.sentence_encoder import write_sentence_encoder

first_stage, last_stage = SMALL["stages"]
RECIPE = {
    **SMALL,
    # The paper's trunk, this small, turns the last bits of a sum into other losses.
    "text_encoder": {
        **SMALL["text_encoder"],
        "trunk": "residual",
        "position_shift": False,
        "width": 0.03,
    },
    "classifier": {"projection": 24},
    "stages": [
        {**first_stage, "contrastive": {}},
        {**last_stage, "backbone": "trained_running_norm", "instance": {"scale": 8}},
    ],
}


def whole(own, total):
    rows = as_dtensor(own.to_dense(), total)
    return rows.full_tensor() if world_size() > 1 else rows


def one_step(options):
    """Compute losses and gradients of a batch of odd size, in double precision."""
    torch.manual_seed(0)
    texts = ResidualTextCNN(50, embedding_dim=12, dim=16, channels=32, layers=2)
    both = nn.ModuleList([head(20, 20, 16), texts]).double().train()
    classifier = InstanceClassifier(16, torch.arange(11), **options).double()
    lengths = torch.randint(1, 9, (14,))
    token_ids = torch.randint(1, 50, (14, 8)) * (torch.arange(8) < lengths[:, None])
    images, owners, ids = torch.randn(7, 20).double(), torch.arange(7).repeat(2), torch.arange(7)
    image_features = all_gather_rows(both[0](images[share(7)]), 7)
    text_features = all_gather_rows(both[1](token_ids[share(14)]), 14)
    contrast = contrastive_loss(image_features, text_features, owners, ids, temperature=0.05)
    with loss_parallel():
        losses = classifier(image_features, text_features, ids, ids[owners], scale=8.0)
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


def step_of_a_process(number, count, folder, options):
    torch.set_num_threads(1)
    place = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=place, rank=number, world_size=count)
    torch.save(one_step(options), folder / f"{number}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (2, {"shared": False}),
        (2, {"projection": 5}),
        (4, {"parts": 2}),
        (4, {"fraction": 0.9999, "projection": 5}),
    ],
)
def test_losses_gradients_and_statistics_are_those_of_one_process(tmp_path, count, options):
    mp.spawn(step_of_a_process, (count, tmp_path, options), nprocs=count)
    alone = one_step(options)
    for number in range(count):
        found = torch.load(tmp_path / f"{number}.pt")
        assert found.keys() == alone.keys()
        for name, expected in alone.items():
            torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-11, msg=name)


def sampling():
    torch.manual_seed(0)
    return InstanceClassifier(8, torch.arange(20), fraction=0.5), torch.randn(6, 8)


IDS = torch.tensor([17, 1, -1, 4, 3, 17])


def sample_of_a_process(number, count, folder):
    place = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=place, rank=number, world_size=count)
    classifier, x = sampling()
    torch.manual_seed(number)  # each draws of its own classes
    with loss_parallel():
        loss, _ = classifier(x, x, IDS, IDS, scale=4.0)
        loss.backward()
    rows = classifier.weight.grad.coalesce().indices()[0] + classifier.own.start
    torch.save((loss.detach(), rows), folder / f"{number}.pt")
    dist.destroy_process_group()


def test_each_process_samples_its_own_classes_for_one_softmax(tmp_path):
    mp.spawn(sample_of_a_process, (3, tmp_path), nprocs=3)
    losses, rows = zip(*(torch.load(tmp_path / f"{number}.pt") for number in range(3)), strict=True)
    assert [len(drawn) for drawn in rows] == [4, 4, 4]  # of 7, 7 and 6
    assert {1, 3, 4} <= set(rows[0].tolist())
    assert 17 in rows[2]
    classifier, x = sampling()
    sample = torch.cat(rows)
    columns = torch.tensor([sample.tolist().index(i) if i >= 0 else -1 for i in IDS.tolist()])
    expected = instance_loss(x, classifier.weight[sample], columns, scale=4.0)
    for loss in losses:
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (4, 3), (2, 5)])
def test_rows_that_some_processes_wrote_are_read_by_fewer_and_by_more(tmp_path, before, after):
    whole = torch.randn(23, 3)
    files = [tmp_path / f"{number}.pt" for number in range(before)]
    for file, piece in zip(files, whole.chunk(before), strict=True):
        torch.save({"weights": {"weight": piece.clone()}, "step": 7}, file)
    start = 0
    for piece in whole.chunk(after):
        found = load_rows(files, slice(start, start + len(piece)))
        assert found["weights"]["weight"].equal(piece)
        assert found["step"] == 7
        start += len(piece)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "together.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def launch(count, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(count), "-m", "dualpath", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def losses_of(bundle):
    return [
        entry["losses"] for entry in json.loads((bundle / "metrics.json").read_text())["history"]
    ]


def test_two_processes_go_through_the_losses_of_one(recipe, shapes, cache, tmp_path):
    options = ["--data", shapes, "--cache", cache]
    assert run_cli("train", recipe, *options, "--out", tmp_path / "one").returncode == 0
    together = launch(2, "train", recipe, *options, "--out", tmp_path / "two")
    out, err = together.communicate(timeout=600)
    assert together.returncode == 0, err
    assert out.count("bundle:") == 1
    one, two = losses_of(tmp_path / "one"), losses_of(tmp_path / "two")
    assert len(one) == 4
    assert two[0] == pytest.approx(one[0], rel=1e-5)
    for alone, shared in zip(one, two, strict=True):  # last bits grow with the steps
        assert shared == pytest.approx(alone, rel=1e-2)


def test_a_sentence_encoder_learns_in_two_processes_as_in_one(shapes, cache, tmp_path):
    encoder = write_sentence_encoder(tmp_path / "encoder")
    config = json.loads((encoder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (encoder / "config.json").write_text(json.dumps(config))
    recipe = tmp_path / "sentences.yaml"
    stage = {**first_stage, "epochs": 1, "contrastive": {}}
    text = {"transformer": str(encoder), "states": [0, -1]}
    recipe.write_text(yaml.safe_dump({**SMALL, "text_encoder": text, "stages": [stage]}))
    options = ["--data", shapes, "--cache", cache]
    assert run_cli("train", recipe, *options, "--out", tmp_path / "one").returncode == 0
    together = launch(2, "train", recipe, *options, "--out", tmp_path / "two")
    _, err = together.communicate(timeout=600)
    assert together.returncode == 0, err
    assert losses_of(tmp_path / "two")[0] == pytest.approx(losses_of(tmp_path / "one")[0], rel=1e-3)


def test_a_lost_process_ends_the_training_with_a_clear_line_and_fewer_go_on(
    recipe, shapes, cache, tmp_path
):
    out = tmp_path / "lost"
    arguments = ["train", recipe, "--data", shapes, "--cache", cache, "--out", out]
    longer = ["--set", "checkpoint_minutes=0", "--set", "stages.1.epochs=20"]
    process = launch(2, *arguments, *longer)
    last = out / "training" / "last.pt"
    deadline = time.monotonic() + 300
    while not (last.exists() and load_checkpoint(last)[1].stage == 1):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    victim = psutil.Process(process.pid).children()[-1].pid
    os.kill(victim, signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "lost another one" in err or "interrupted; go on with --resume" in err
    done = run_cli(*arguments, *longer, "--resume")
    assert done.returncode == 0, done.stderr
    assert len(losses_of(out)) == 22
