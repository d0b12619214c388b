"""The examples, run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 600  # for one example, on a machine with other work


def run_example(name: str, folder: Path, *arguments: object) -> str:
    """Run an example in a folder and return what it prints."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_train_and_search_prints_the_recall_and_hits_of_every_query(tmp_path: Path) -> None:
    output = run_example("train_and_search.py", tmp_path)
    assert "text to image: R@1" in output
    assert "500 images indexed" in output
    assert output.count("images/scene-") == 6
    assert (tmp_path / "example" / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_folder_without_captions_is_indexed_once_and_searched(
    tmp_path: Path, shapes: Path, bundle: Path
) -> None:
    arguments = (shapes / "images", "--model", bundle, "--where", "kilobytes < 0")
    output = run_example("search_your_images.py", tmp_path, *arguments)
    assert "100 new images, 0 unchanged, 100 in all" in output
    assert output.count("scene-00000.png") >= 2  # the query and its first hit
    assert output.rstrip().endswith("where kilobytes < 0")  # which no image fits
    again = run_example("search_your_images.py", tmp_path, *arguments)
    assert "0 new images, 100 unchanged, 100 in all" in again


@pytest.mark.slow
def test_compare_losses_prints_a_row_for_each_recipe(tmp_path: Path) -> None:
    output = run_example("compare_losses.py", tmp_path)
    assert output.count("stage ranking, epoch 2") == 2
    assert output.count("instance_image") == 4  # an epoch each, in one of the recipes
    assert "rsum" in output


@pytest.mark.slow
def test_the_notebook_runs_and_displays_images(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / "tutorial.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute(env={**os.environ, "IPYTHONDIR": str(tmp_path)})
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4


def test_the_notebook_is_stored_without_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(EXAMPLES / "tutorial.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
