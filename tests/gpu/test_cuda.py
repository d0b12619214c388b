"""Training and embedding on a GPU give what they give on a CPU."""

import copy
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dualpath.data.manifest import read_manifest
from dualpath.errors import TrainingError
from dualpath.inference.model import DualPath, load
from dualpath.losses.instance import InstanceClassifier
from dualpath.recipes.schema import Recipe
from dualpath.training import optim
from dualpath.training.batches import DeviceFeatureSource, FeatureSource
from dualpath.types import Vectors
from tests.conftest import ONE_STAGE, SMALL, STAGE, run_cli, small_recipe, train_quietly

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
STAGES: Any = SMALL["stages"]
TEXT_ENCODER: Any = SMALL["text_encoder"]
# Nothing is drawn on the device: two devices draw different numbers from one seed.
DETERMINISTIC_STAGES: list[dict[str, Any]] = [
    {**STAGE, "name": "instance", "backbone": "frozen", "contrastive": {}},
    {
        **STAGE,
        "name": "ranking",
        "backbone": "trained_running_norm",
        "ranking": {"margin": 0.2, "negatives": "hardest"},
    },
]
DETERMINISTIC: dict[str, Any] = {
    **SMALL,
    "text_encoder": {**TEXT_ENCODER, "trunk": "residual", "position_shift": False, "width": 0.03},
    "stages": DETERMINISTIC_STAGES,
}


def losses_of(model: DualPath) -> list[float]:
    return [loss for epoch in model.metrics["history"] for loss in epoch["losses"].values()]


def cosines(first: Vectors, second: Vectors) -> Vectors:
    products: Vectors = np.einsum("nd,nd->n", first, second)
    return products


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that lets Ctrl-C arrive in a given step, counted from the start of training."""

    def arrange(step: int) -> None:
        started = 0

        def set_learning_rate(optimizers: optim.Optimizers, multiplier: float) -> None:
            nonlocal started
            started += 1
            if started == step:
                os.kill(os.getpid(), signal.SIGINT)
            optim.set_learning_rate(optimizers, multiplier)

        monkeypatch.setattr("dualpath.training.trainer.set_learning_rate", set_learning_rate)

    return arrange


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, shapes: Path, cache: Path
) -> tuple[DualPath, Path]:
    folder = tmp_path_factory.mktemp("trained")
    return train_quietly(small_recipe(), shapes, folder, cache=cache), folder


def test_both_stages_are_trained_on_the_gpu_with_finite_losses(
    trained: tuple[DualPath, Path],
) -> None:
    model, _ = trained
    assert model.device.type == "cuda"
    assert all(p.device.type == "cuda" for p in model.network.parameters())
    assert {epoch["stage"] for epoch in model.metrics["history"]} == {"instance", "ranking"}
    assert all(map(math.isfinite, losses_of(model)))


def test_a_model_trained_on_the_gpu_gives_the_same_vectors_on_a_cpu(
    trained: tuple[DualPath, Path], shapes: Path
) -> None:
    _, folder = trained
    on_gpu, on_cpu = load(folder, device="cuda"), load(folder, device="cpu", runtime="torch")
    files = sorted((shapes / "images").iterdir())[:40]
    sentences = ["a small red circle above a big blue square", "three little stars", "", "a"]
    for first, second in (
        (on_gpu.embed_images(files, workers=2), on_cpu.embed_images(files)),
        (on_gpu.embed_texts(sentences), on_cpu.embed_texts(sentences)),
    ):
        assert cosines(first, second).min() >= 0.9999


def test_the_losses_of_a_training_are_those_of_a_cpu(tmp_path: Path, shapes: Path) -> None:
    """The training on the CPU runs in a process that sees no GPU, from the same weights."""
    stages = [{**stage, "epochs": 1} for stage in DETERMINISTIC_STAGES]
    recipe = {**DETERMINISTIC, "stages": stages}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    options = ["--data", shapes, "--out", tmp_path / "cpu", "--cache", tmp_path / "cpu-cache"]
    done = run_cli("train", file, *options, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr
    on_cpu = json.loads((tmp_path / "cpu" / "metrics.json").read_text())["history"]
    out, cache = tmp_path / "gpu", tmp_path / "gpu-cache"
    model = train_quietly(Recipe.model_validate(recipe), shapes, out, cache=cache)
    expected = [loss for epoch in on_cpu for loss in epoch["losses"].values()]
    assert losses_of(model) == pytest.approx(expected, rel=0.05)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, shapes: Path, cache: Path) -> DualPath:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return train_quietly(Recipe.model_validate(DETERMINISTIC), shapes, folder, cache=cache)


@pytest.mark.parametrize("step", [8, 13], ids=["first stage", "second stage"])
def test_an_interrupted_training_continues_from_its_checkpoint(
    tmp_path: Path,
    shapes: Path,
    cache: Path,
    uninterrupted: DualPath,
    interrupt_at: Callable[[int], None],
    step: int,
) -> None:
    recipe = Recipe.model_validate(DETERMINISTIC)
    interrupt_at(step)
    with pytest.raises(KeyboardInterrupt):
        train_quietly(recipe, shapes, tmp_path, cache=cache)
    saved = torch.load(tmp_path / "training" / "last.pt", weights_only=True)["progress"]
    assert (saved["stage"], saved["epoch"], saved["step"]) == (step // 10, step // 5 % 2, step % 5)
    model = train_quietly(recipe, shapes, tmp_path, cache=cache, resume=True)
    # Sums on a GPU are taken in any order, so the last bits differ from run to run.
    assert losses_of(model) == pytest.approx(losses_of(uninterrupted), rel=0.05)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_with_finite_losses(
    tmp_path: Path, shapes: Path, cache: Path, precision: str
) -> None:
    if precision == "bf16" and not torch.cuda.is_bf16_supported():
        pytest.skip("this GPU has no bfloat16")
    recipe = small_recipe(mixed_precision=precision)
    model = train_quietly(recipe, shapes, tmp_path, cache=cache)
    assert all(map(math.isfinite, losses_of(model)))
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}


def test_mined_captions_and_dropped_features_train_with_finite_losses(
    tmp_path: Path, shapes: Path, cache: Path
) -> None:
    stages = copy.deepcopy(STAGES)
    for stage in stages:
        stage |= {"instance": {"dropout": 0.75}, "crops": "random", "epochs": 1}
        stage["optimizer"] = {"name": "sgd", "lr": 0.01}
    stages[1]["ranking"] = {"negatives": "mined", "candidates": 32}
    text = {**TEXT_ENCODER, "padding": "unmasked"}
    recipe = small_recipe(stages=stages, text_encoder=text, relu_before_loss=True)
    model = train_quietly(recipe, shapes, tmp_path, cache=cache)
    assert all(map(math.isfinite, losses_of(model)))


def test_a_classifier_with_sampled_classes_trains_and_resumes(
    tmp_path: Path, shapes: Path, cache: Path, interrupt_at: Callable[[int], None]
) -> None:
    recipe = small_recipe(classifier={"sample_rate": 0.5, "projection_dim": 16})
    interrupt_at(3)
    with pytest.raises(KeyboardInterrupt):
        train_quietly(recipe, shapes, tmp_path, cache=cache)
    model = train_quietly(recipe, shapes, tmp_path, cache=cache, resume=True)
    assert all(map(math.isfinite, losses_of(model)))


def test_the_sampled_classes_contain_those_of_the_batch() -> None:
    with CUDA:
        classifier = InstanceClassifier(8, torch.arange(1000), sample_rate=0.1).train()
        features, ids = torch.randn(16, 8), torch.arange(0, 1000, 63)
    losses = classifier(features, features, ids, ids)
    torch.autograd.backward(torch.stack(losses).sum())
    gradient = classifier.get_parameter("weight").grad
    assert gradient is not None
    classes = gradient.coalesce().indices()[0]
    assert len(classes) == 100
    assert torch.isin(ids, classes).all()


@pytest.mark.parametrize("own", [slice(0, 24), slice(8, 16)], ids=["whole batch", "share"])
def test_features_in_device_memory_are_drawn_bit_for_bit_as_on_the_host(own: slice) -> None:
    generator = np.random.default_rng(0)
    features = [generator.standard_normal((60, 33), np.float32) for _ in range(4)]
    rows = [generator.permutation(60)[:50] for _ in features]
    on_host = FeatureSource(features, rows)
    on_device = on_host.to(CUDA)
    assert isinstance(on_device, DeviceFeatureSource)
    for seed in range(20):
        images = generator.permutation(50)[:24]
        drawn = on_device.draw(images, seed, own)
        assert drawn.device.type == "cuda"
        assert torch.equal(drawn.cpu(), on_host.draw(images, seed, own))


def test_a_loss_that_is_not_finite_names_its_stage_epoch_step_and_images(
    tmp_path: Path, shapes: Path, cache: Path
) -> None:
    """The losses of several steps are read together; the first that is not finite is reported."""
    optimizer = {"name": "sgd", "lr": 1e30}
    stages = [{**ONE_STAGE[0], "instance": {}, "optimizer": optimizer}]
    with pytest.raises(TrainingError, match=r"optimizer\.lr") as raised:
        train_quietly(small_recipe(stages=stages), shapes, tmp_path, cache=cache)
    message = str(raised.value)
    found = re.match(r"stage instance, epoch 1, step ([2-5]): the loss is not finite \(", message)
    assert found, message
    images = read_manifest(shapes).split("train").images
    end = 16 * int(found[1])
    batch = np.random.default_rng((0, 0, 0)).permutation(len(images))[end - 16 : end]
    assert ", ".join(images[int(row)].file_name for row in batch[:4]) in message
    assert "\n" not in message
    assert not list((tmp_path / "training").glob("*.pt"))


def test_one_process_of_torchrun_trains_over_nccl(
    tmp_path: Path, shapes: Path, cache: Path
) -> None:
    file = tmp_path / "recipe.yaml"
    stages = [{**stage, "epochs": 1} for stage in STAGES]
    file.write_text(yaml.safe_dump({**SMALL, "stages": stages}))
    command: list[object] = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
    ]
    command += ["1", "-m", "dualpath", "train", file, "--data", shapes, "--out", tmp_path / "out"]
    command += ["--cache", cache]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    history = json.loads((tmp_path / "out" / "metrics.json").read_text())["history"]
    assert all(math.isfinite(loss) for epoch in history for loss in epoch["losses"].values())
