"""Several processes train what one process trains (gloo, on this machine)."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
import yaml

from tests.conftest import SMALL, run_cli
from tests.models.sentence_encoder import write_sentence_encoder

pytestmark = pytest.mark.slow

first_stage, last_stage = SMALL["stages"]
RECIPE = {
    **SMALL,
    # The paper's text CNN, at this size, turns the last bits of a sum into different losses.
    "text_encoder": {
        **SMALL["text_encoder"],
        "trunk": "residual",
        "position_shift": False,
        "width": 0.03,
    },
    "classifier": {"projection_dim": 24},
    "stages": [
        {**first_stage, "contrastive": {}},
        {**last_stage, "backbone": "trained_running_norm", "instance": {"logit_scale": 8}},
    ],
}


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
    history = json.loads((bundle / "metrics.json").read_text())["history"]
    return [entry["losses"] for entry in history]


def saved_stage(path):
    return torch.load(path, weights_only=True)["progress"]["stage"]


def test_two_processes_have_the_losses_of_one(recipe, shapes, cache, tmp_path):
    options = ["--data", shapes, "--cache", cache]
    assert run_cli("train", recipe, *options, "--out", tmp_path / "one").returncode == 0
    together = launch(2, "train", recipe, *options, "--out", tmp_path / "two")
    out, err = together.communicate(timeout=600)
    assert together.returncode == 0, err
    assert out.count("bundle:") == 1
    one, two = losses_of(tmp_path / "one"), losses_of(tmp_path / "two")
    assert len(one) == 4
    assert two[0] == pytest.approx(one[0], rel=1e-5)
    for alone, shared in zip(one, two, strict=True):  # differences of last bits grow
        assert shared == pytest.approx(alone, rel=1e-2)


def test_a_sentence_encoder_is_trained_by_two_processes_as_by_one(shapes, cache, tmp_path):
    encoder = write_sentence_encoder(tmp_path / "encoder")
    config = json.loads((encoder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (encoder / "config.json").write_text(json.dumps(config))
    recipe = tmp_path / "sentences.yaml"
    stage = {**first_stage, "epochs": 1, "contrastive": {}}
    text = {"transformer": str(encoder), "feature_layers": [0, -1]}
    recipe.write_text(yaml.safe_dump({**SMALL, "text_encoder": text, "stages": [stage]}))
    options = ["--data", shapes, "--cache", cache]
    assert run_cli("train", recipe, *options, "--out", tmp_path / "one").returncode == 0
    together = launch(2, "train", recipe, *options, "--out", tmp_path / "two")
    _, err = together.communicate(timeout=600)
    assert together.returncode == 0, err
    assert losses_of(tmp_path / "two")[0] == pytest.approx(losses_of(tmp_path / "one")[0], rel=1e-3)


def test_a_failed_process_ends_the_training_with_a_clear_line_and_fewer_resume_it(
    recipe, shapes, cache, tmp_path
):
    out = tmp_path / "failed"
    arguments = ["train", recipe, "--data", shapes, "--cache", cache, "--out", out]
    longer = ["--set", "checkpoint_minutes=0", "--set", "stages.1.epochs=20"]
    process = launch(2, *arguments, *longer)
    last = out / "training" / "last.pt"
    deadline = time.monotonic() + 300
    while not (last.exists() and saved_stage(last) == 1):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    victim = psutil.Process(process.pid).children()[-1].pid
    os.kill(victim, signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "lost the connection to another one" in err or (
        "interrupted; continue with --resume" in err
    )
    done = run_cli(*arguments, *longer, "--resume")
    assert done.returncode == 0, done.stderr
    assert len(losses_of(out)) == 22
