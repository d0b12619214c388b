"""The examples of docs/guides/extending.md, applied to a copy of the package and run."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.conftest import ONE_STAGE, SMALL

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/guides/extending.md"
Run = Callable[..., str]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of ``src`` to which all examples have been applied."""
    checkout = tmp_path_factory.mktemp("checkout")
    shutil.copytree(
        ROOT / "src/dualpath",
        checkout / "src/dualpath",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    blocks = re.findall(r"^```python\n# (file|edit): (\S+)\n(.*?)^```", _page(), re.M | re.S)
    assert [kind for kind, _, _ in blocks].count("file") == 5
    for kind, path, text in blocks:
        if kind == "file":
            assert not (checkout / path).exists()
            (checkout / path).write_text(text)
        else:
            _insert(checkout / path, text)
    return checkout / "src"


@pytest.fixture(scope="module")
def run(source: Path, cache: Path) -> Run:
    def run_python(*arguments: object) -> str:
        environment = {**os.environ, "PYTHONPATH": str(source), "DUALPATH_CACHE": str(cache)}
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_python


@pytest.fixture(scope="module")
def model(run: Run, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that was trained with the new loss and the new text encoder."""
    folder = tmp_path_factory.mktemp("model")
    recipe = {**SMALL, "stages": [{**ONE_STAGE[0], "sigmoid": {"weight": 0.5}}]}
    recipe["text_encoder"] = {**SMALL["text_encoder"], "trunk": "bag_of_words"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    bundle = folder / "bundle"
    run("-m", "dualpath", "train", folder / "recipe.yaml", "--data", shapes, "--out", bundle)
    return bundle


def test_the_copy_is_what_runs(run: Run, source: Path) -> None:
    assert run("-c", "import dualpath; print(dualpath.__file__)").startswith(str(source))


def test_a_training_uses_the_new_loss_and_the_new_text_encoder(run: Run, model: Path) -> None:
    program = (
        "import sys, dualpath; model = dualpath.load(sys.argv[1])\n"
        "print(type(model.network.text_encoder).__name__)\n"
        "print(model.metrics['history'][0]['losses']['sigmoid'])"
    )
    encoder, loss = run("-c", program, model).split()
    assert encoder == "BagOfWords"
    assert float(loss) > 0


def test_the_new_modules_pass_their_doctests(run: Run) -> None:
    run("-c", "import doctest, dualpath.losses.sigmoid as m; assert not doctest.testmod(m).failed")


def test_the_new_data_set_is_prepared_and_checked(run: Run, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    lines = []
    for name, split, colour in (
        ("beach", "train", "gold"),
        ("harbour", "val", "navy"),
        ("castle", "test", "grey"),
    ):
        Image.new("RGB", (8, 8), colour).save(raw / f"{name}.png")
        lines.append(f"{name}.png\t{split}\tA postcard of a {name}.")
    (raw / "captions.tsv").write_text("\n".join(lines))
    out = tmp_path / "postcards"
    shown = run("-m", "dualpath", "prepare", "postcards", "--raw", raw, "--out", out)
    assert "1 train, 1 val, 1 test" in shown
    assert "3 images" in run("-m", "dualpath", "data", "check", out)


def test_a_gallery_in_the_new_store_is_filled_searched_and_changed(
    run: Run, model: Path, shapes: Path
) -> None:
    program = """
import sys, dualpath
with dualpath.Gallery.open("memory://shapes", model=sys.argv[1]) as gallery:
    assert gallery.add(sys.argv[2]).new == 100
with dualpath.Gallery.open("memory://shapes") as gallery:
    assert gallery.add(sys.argv[2]).unchanged == 100
    hits = gallery.search("a red circle", top=7)
    assert len(hits) == 7
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    filtered = gallery.search("a circle", top=100, where="count >= 2 and not kind = 'relation'")
    assert filtered
    assert all(hit.image.metadata["count"] >= 2 for hit in filtered)
    assert all(hit.image.metadata["kind"] != "relation" for hit in filtered)
    assert gallery.similar(hits[0].image.id, top=3)
    assert gallery.search_captions("a red circle", top=5)[0].caption
    assert gallery.verify() == []
    assert gallery.facets()["kind"]
    assert gallery.remove(hits[0].image.id) == 1
    assert len(gallery) == 99
"""
    run("-c", program, model, shapes)


def test_the_new_command_runs(run: Run, model: Path) -> None:
    assert "words" in run("-m", "dualpath", "--help")
    shown = run("-m", "dualpath", "words", model, "A red submarine")
    assert shown.splitlines() == ["a", "red", "submarine (unknown)"]


def _page() -> str:
    return PAGE.read_text("utf-8")


def _insert(path: Path, text: str) -> None:
    """Insert lines below the line that ``# after:`` names."""
    after, *new = text.removeprefix("# after: ").rstrip("\n").split("\n")
    lines = path.read_text("utf-8").splitlines()
    assert lines.count(after) == 1, f"{path}: {after!r} must occur once"
    place = lines.index(after) + 1
    lines[place:place] = new
    path.write_text("\n".join(lines) + "\n", "utf-8")
