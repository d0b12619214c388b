"""A training that is interrupted at any moment and resumed ends with the same weights."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch
import yaml
from safetensors.torch import load_file

from dualpath.errors import CheckpointError
from dualpath.recipes.schema import Recipe
from dualpath.training.train import train
from dualpath.utils.progress import Display
from tests.conftest import SMALL, run_cli, train_quietly

pytestmark = pytest.mark.slow

# A checkpoint after every step, so that a kill falls between any two of them; and a last stage
# that is still running when a busy machine sends the signal late.
first_stage, last_stage = SMALL["stages"]
RECIPE = {
    **SMALL,
    "checkpoint_minutes": 0.0,
    "stages": [first_stage, {**last_stage, "epochs": 20, "validate_every": 10}],
}


def recipe_with(**changes) -> Recipe:
    return Recipe.model_validate({**RECIPE, **changes})


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, shapes, cache):
    folder = tmp_path_factory.mktemp("uninterrupted")
    train_quietly(recipe_with(), shapes, folder, cache=cache)
    return folder


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def start(recipe, shapes, out, cache, *options):
    command = [sys.executable, "-m", "dualpath", "train", recipe, "--data", shapes, "--out", out]
    return subprocess.Popen(
        [*map(str, command), "--cache", str(cache), *options], stderr=subprocess.PIPE, text=True
    )


def saved_step(folder):
    progress = torch.load(folder / "training" / "last.pt", weights_only=True)["progress"]
    return progress["stage"], progress["epoch"], progress["step"]


def wait_for(process, folder, step):
    """Wait until this process has saved a step (stage, epoch, step) at or after the given one."""
    path = folder / "training" / "last.pt"
    earlier = path.stat().st_mtime_ns if path.exists() else 0
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"ended before it could be killed: {process.stderr.read()}")
        if path.exists() and path.stat().st_mtime_ns > earlier and saved_step(folder) >= step:
            return
        time.sleep(0.02)
    raise AssertionError("the training made no progress")


def assert_same_weights(first, second):
    one, other = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.equal(other[name]), name


def histories(folder):
    return json.loads((folder / "metrics.json").read_text())["history"]


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle_of_each_stage_and_resumed_it_ends_with_the_same_weights(
    tmp_path, shapes, cache, uninterrupted, recipe_file, kill
):
    out, options = tmp_path / "out", []
    for step in ((0, 1, 1), (1, 0, 2)):
        process = start(recipe_file, shapes, out, cache, *options)
        wait_for(process, out, step)
        os.kill(process.pid, kill)
        _, message = process.communicate(timeout=60)
        if kill == signal.SIGINT:
            assert process.returncode == 130
            assert "interrupted; continue with --resume" in message
        options = ["--resume"]
    done = run_cli(
        "train", recipe_file, "--data", shapes, "--out", out, "--cache", cache, "--resume"
    )
    assert done.returncode == 0, done.stderr
    assert_same_weights(out, uninterrupted)
    assert histories(out) == histories(uninterrupted)


def test_sigterm_before_the_first_step_is_an_interruption_too(tmp_path, shapes, cache, recipe_file):
    process = start(recipe_file, shapes, tmp_path / "out", cache)
    assert "training images" in process.stderr.readline()
    process.terminate()
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert message.splitlines()[-1] == "interrupted; continue with --resume"


class InterruptedDisplay(Display):
    """Sends Ctrl-C when the last step of an epoch is finished and saved."""

    @contextmanager
    def epoch(self, *arguments, **options):
        with super().epoch(*arguments, **options) as bar:
            yield bar
        signal.raise_signal(signal.SIGINT)


def interrupt_in_the_last_step(event):
    if event.steps and event.step == event.steps:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("when", ["in the last step", "after the last step"])
def test_an_interruption_at_the_end_of_an_epoch_is_obeyed(
    tmp_path, shapes, cache, uninterrupted, monkeypatch, when
):
    progress = interrupt_in_the_last_step if when == "in the last step" else False
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if when == "after the last step":
            patch.setattr("dualpath.training.train.Display", InterruptedDisplay)
        train(recipe_with(), shapes, tmp_path, cache=cache, progress=progress)
    stage, epoch, _ = saved_step(tmp_path)
    assert (stage, epoch) == (0, 0)
    train_quietly(recipe_with(), shapes, tmp_path, resume=True, cache=cache)
    assert_same_weights(tmp_path, uninterrupted)
    assert histories(tmp_path) == histories(uninterrupted)


def test_a_sampled_classifier_resumes_to_the_same_weights(tmp_path, shapes, cache):
    sampled = {**RECIPE, "classifier": {"sample_rate": 0.3, "projection_dim": 16}}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(sampled))
    whole, out = tmp_path / "whole", tmp_path / "out"
    train_quietly(Recipe.model_validate(sampled), shapes, whole, cache=cache)
    process = start(recipe, shapes, out, cache)
    wait_for(process, out, (1, 0, 2))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    done = run_cli("train", recipe, "--data", shapes, "--out", out, "--cache", cache, "--resume")
    assert done.returncode == 0, done.stderr
    assert_same_weights(out, whole)
    assert histories(out) == histories(whole)


def test_the_same_seed_gives_the_same_weights_and_another_seed_different_ones(
    tmp_path, shapes, cache, uninterrupted
):
    train_quietly(recipe_with(), shapes, tmp_path / "again", cache=cache)
    assert_same_weights(tmp_path / "again", uninterrupted)
    train_quietly(recipe_with(seed=1), shapes, tmp_path / "other", cache=cache)
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "other", uninterrupted)


def test_a_training_is_not_overwritten_by_another(shapes, cache, uninterrupted):
    with pytest.raises(CheckpointError, match="contains a training already; add --resume"):
        train_quietly(recipe_with(), shapes, uninterrupted, cache=cache)


def test_another_recipe_does_not_resume(shapes, cache, uninterrupted):
    changed = recipe_with(dim=64)
    with pytest.raises(CheckpointError, match=r"another recipe \(dim: 32, now 64\)"):
        train_quietly(changed, shapes, uninterrupted, resume=True, cache=cache)


def test_other_numbers_of_workers_and_checkpoints_resume(shapes, cache, uninterrupted):
    changed = recipe_with(workers=1, checkpoint_minutes=3)
    train_quietly(changed, shapes, uninterrupted, resume=True, cache=cache)


def test_changed_data_does_not_resume(tmp_path, shapes, cache, uninterrupted):
    rows = (shapes / "metadata.jsonl").read_text().splitlines()
    (tmp_path / "images").symlink_to(shapes / "images")
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows[:-40]))
    with pytest.raises(CheckpointError, match="have changed since this training was started"):
        train_quietly(recipe_with(), tmp_path, uninterrupted, resume=True, cache=cache)


def test_a_complete_training_deletes_its_checkpoints_and_is_loaded_when_resumed(
    shapes, cache, tmp_path
):
    recipe = recipe_with()
    model = train_quietly(recipe, shapes, tmp_path, cache=cache, keep_checkpoints=False)
    assert not list(tmp_path.rglob("*.pt"))
    with pytest.raises(CheckpointError, match="contains a training already; add --resume"):
        train_quietly(recipe, shapes, tmp_path, cache=cache)
    again = train_quietly(recipe, shapes, tmp_path, cache=cache, resume=True)
    assert again.fingerprint == model.fingerprint
    assert again.metrics == model.metrics
    other = recipe.model_copy(update={"seed": 5})
    with pytest.raises(CheckpointError, match="was started with another recipe"):
        train_quietly(other, shapes, tmp_path, cache=cache, resume=True)
