"""Interrupted at any moment and resumed, a training ends with the weights it would have had."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import yaml
from rich.console import Console
from safetensors.torch import load_file

from dualpath.errors import CheckpointError
from dualpath.recipes.schema import Recipe
from dualpath.training.checkpoints import load_checkpoint
from dualpath.training.train import train
from dualpath.utils.progress import Display
from tests.conftest import SMALL, quiet, run_cli

# A checkpoint after every step, so that a kill falls between two at any place; and a last stage
# that goes on for a while after the moment of the kill, however late a busy machine sends it.
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
    train(recipe_with(), shapes, folder, cache=cache, display=quiet())
    return folder


def start(recipe, shapes, out, cache, *options):
    command = [sys.executable, "-m", "dualpath", "train", recipe, "--data", shapes, "--out", out]
    return subprocess.Popen(
        [*map(str, command), "--cache", str(cache), *options], stderr=subprocess.PIPE, text=True
    )


def wait_for(process, path, stage, epoch, step):
    """Wait until this process has saved a step at or after the one given."""
    earlier = path.stat().st_mtime_ns if path.exists() else 0
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"ended before it could be killed: {process.stderr.read()}")
        if path.exists() and path.stat().st_mtime_ns > earlier:
            _, progress = load_checkpoint(path)
            if (progress.stage, progress.epoch, progress.step) >= (stage, epoch, step):
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
    tmp_path, shapes, cache, uninterrupted, kill
):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    out, options = tmp_path / "out", []
    for stage, epoch, step in ((0, 1, 1), (1, 0, 2)):
        process = start(recipe, shapes, out, cache, *options)
        wait_for(process, out / "training" / "last.pt", stage, epoch, step)
        os.kill(process.pid, kill)
        _, message = process.communicate(timeout=60)
        if kill == signal.SIGINT:
            assert process.returncode == 130
            assert "interrupted; go on with --resume" in message
        options = ["--resume"]
    done = run_cli("train", recipe, "--data", shapes, "--out", out, "--cache", cache, "--resume")
    assert done.returncode == 0, done.stderr
    assert_same_weights(out, uninterrupted)
    assert histories(out) == histories(uninterrupted)


def test_a_polite_kill_before_the_first_step_is_an_interruption_too(tmp_path, shapes, cache):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    process = start(recipe, shapes, tmp_path / "out", cache)
    assert "images to train on" in process.stderr.readline()
    process.terminate()
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert message.splitlines()[-1] == "interrupted; go on with --resume"


class InterruptedDisplay(Display):
    """Ctrl-C comes when the last step of the first epoch is done."""

    @contextmanager
    def epoch(self, title, *, total, done):
        with super().epoch(title, total=total, done=done) as bar:
            yield bar
        signal.raise_signal(signal.SIGINT)


def test_an_interruption_after_the_last_step_of_an_epoch_is_obeyed(
    tmp_path, shapes, cache, uninterrupted
):
    display = InterruptedDisplay(Console(quiet=True))
    with pytest.raises(KeyboardInterrupt):
        train(recipe_with(), shapes, tmp_path, cache=cache, display=display)
    _, progress = load_checkpoint(tmp_path / "training" / "last.pt")
    assert (progress.stage, progress.epoch) == (0, 0)
    train(recipe_with(), shapes, tmp_path, resume=True, cache=cache, display=quiet())
    assert_same_weights(tmp_path, uninterrupted)
    assert histories(tmp_path) == histories(uninterrupted)


def test_a_sampled_classifier_resumes_to_the_same_weights(tmp_path, shapes, cache):
    sampled = {**RECIPE, "classifier": {"fraction": 0.3, "projection": 16}}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(sampled))
    whole, out = tmp_path / "whole", tmp_path / "out"
    train(Recipe.model_validate(sampled), shapes, whole, cache=cache, display=quiet())
    process = start(recipe, shapes, out, cache)
    wait_for(process, out / "training" / "last.pt", 1, 0, 2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    done = run_cli("train", recipe, "--data", shapes, "--out", out, "--cache", cache, "--resume")
    assert done.returncode == 0, done.stderr
    assert_same_weights(out, whole)
    assert histories(out) == histories(whole)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    tmp_path, shapes, cache, uninterrupted
):
    train(recipe_with(), shapes, tmp_path / "again", cache=cache, display=quiet())
    assert_same_weights(tmp_path / "again", uninterrupted)
    train(recipe_with(seed=1), shapes, tmp_path / "other", cache=cache, display=quiet())
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "other", uninterrupted)


def test_a_begun_training_is_not_overwritten(shapes, cache, uninterrupted):
    with pytest.raises(CheckpointError, match="add --resume to go on with it"):
        train(recipe_with(), shapes, uninterrupted, cache=cache, display=quiet())


def test_another_recipe_does_not_resume(shapes, cache, uninterrupted):
    changed = recipe_with(dim=64)
    with pytest.raises(CheckpointError, match=r"another recipe \(dim: 32, now 64\)"):
        train(changed, shapes, uninterrupted, resume=True, cache=cache, display=quiet())


def test_changed_data_does_not_resume(tmp_path, shapes, cache, uninterrupted):
    rows = (shapes / "metadata.jsonl").read_text().splitlines()
    (tmp_path / "images").symlink_to(shapes / "images")
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows[:-40]))
    recipe = recipe_with()
    with pytest.raises(CheckpointError, match="have changed since this training began"):
        train(recipe, tmp_path, uninterrupted, resume=True, cache=cache, display=quiet())


def test_a_damaged_checkpoint_is_one_clear_line(tmp_path, shapes, cache):
    recipe = recipe_with(stages=[{**SMALL["stages"][0], "epochs": 1}])
    train(recipe, shapes, tmp_path, cache=cache, display=quiet())
    checkpoint = tmp_path / "training" / "last.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"last\.pt: the checkpoint is damaged"):
        train(recipe, shapes, tmp_path, resume=True, cache=cache, display=quiet())
