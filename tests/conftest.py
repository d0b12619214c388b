"""What the tests share: a small shapes set, a small recipe, and a model trained with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from dualpath.datasets.synthetic.shapes import write_shapes
from dualpath.recipes.schema import Recipe, SplitRecipe
from dualpath.training.train import train
from dualpath.utils.progress import Display

STAGE = {
    "epochs": 2,
    "batch_size": 16,
    "captions_per_image": 2,
    "flip": False,
    "instance": {"scale": 8},
    "optimizer": {"lr": 2e-3},
}
SMALL = {
    "name": "small",
    "dim": 32,
    "workers": 0,
    "image_encoder": {"backbone": "test_efficientnet", "pretrained": False, "input_size": 32},
    "text_encoder": {"width": 0.0625, "embedding_dim": 16, "max_words": 14, "min_count": 1},
    "stages": [
        {**STAGE, "name": "instance", "backbone": "frozen"},
        {**STAGE, "name": "ranking", "ranking": {"margin": 0.2, "negatives": "hardest"}},
    ],
}


def small_recipe(**changes) -> Recipe:
    return Recipe.model_validate({**SMALL, **changes})


def quiet() -> Display:
    return Display(Console(quiet=True))


def run_cli(*arguments, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "dualpath", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **options)


@pytest.fixture(scope="session", autouse=True)
def _no_traces_in_the_home(tmp_path_factory) -> None:
    os.environ["DUALPATH_CACHE"] = str(tmp_path_factory.mktemp("default-cache"))


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, scenes=100, captions=3, size=40, seed=1, split=SplitRecipe())
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def small_recipe_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


@pytest.fixture(scope="session")
def bundle(tmp_path_factory, shapes, cache) -> Path:
    """A bundle that the tests read and never write."""
    folder = tmp_path_factory.mktemp("bundle")
    train(small_recipe(), shapes, folder, cache=cache, display=quiet())
    return folder
