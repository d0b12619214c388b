"""Fixtures that many tests share: a small shapes set, a small recipe, and a trained model."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from dualpath.data.manifest import read_manifest
from dualpath.data.tokenizer import count_words
from dualpath.datasets.synthetic.shapes import write_shapes
from dualpath.recipes.schema import Recipe, ResolvedRecipe, SplitRecipe

if TYPE_CHECKING:
    from dualpath.inference.model import DualPath

STAGE = {
    "epochs": 2,
    "batch_size": 16,
    "captions_per_image": 2,
    "flip": False,
    "instance": {"logit_scale": 8},
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
# One epoch with a frozen backbone, for tests in which the training itself does not matter.
ONE_STAGE = [{**STAGE, "name": "instance", "backbone": "frozen", "epochs": 1}]


def small_recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({**SMALL, **changes})


def small_resolved_recipe(**changes: Any) -> ResolvedRecipe:
    from dualpath.models.backbones import resolve_recipe

    return resolve_recipe(small_recipe(**changes))


def train_quietly(recipe: Recipe | Path, data: Path, out: Path, **options: Any) -> "DualPath":
    from dualpath.training.train import train

    return train(recipe, data, out, progress=False, **{"keep_checkpoints": True, **options})


def run_cli(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dualpath", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **options)


@pytest.fixture(scope="session", autouse=True)
def _no_traces_in_the_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["DUALPATH_CACHE"] = str(tmp_path_factory.mktemp("default-cache"))


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 images for training, 10 for validation and 10 for test, with three captions each."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, scenes=100, captions=3, size=40, seed=1, split=SplitRecipe())
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def small_recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, shapes: Path, cache: Path) -> Path:
    """A bundle that the tests read and never write."""
    folder = tmp_path_factory.mktemp("bundle")
    train_quietly(small_recipe(), shapes, folder, cache=cache)
    return folder


@pytest.fixture(scope="session")
def word_vectors(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """A file in GloVe's format with random vectors of the words of the shapes."""
    words = count_words(read_manifest(shapes).images.captions, "paper")
    path = tmp_path_factory.mktemp("words") / "words.txt"
    rows = np.random.default_rng(0).normal(size=(len(words), 12))
    lines = [f"{w} {' '.join(f'{v:.4f}' for v in row)}" for w, row in zip(words, rows, strict=True)]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="session")
def sentence_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a transformer of one layer and random weights."""
    import torch

    from tests.models.sentence_encoder import write_sentence_encoder

    torch.manual_seed(0)
    return write_sentence_encoder(tmp_path_factory.mktemp("encoder"))
