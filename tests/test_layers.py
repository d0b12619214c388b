"""Where files are, how long they are, and what they import."""

import ast
import json
import pkgutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

import dualpath

SOURCE = Path(dualpath.__file__).parent
MAX_LINES = 300  # without docstrings
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
TOP_LEVEL = {"__init__", "__main__", "errors", "types"}
# The folders whose modules run without torch, and the modules in them that need it.
LIGHT = ("cli", "data", "datasets", "evaluation", "gallery", "inference", "publishing")
LIGHT += ("recipes", "server", "utils", "errors", "types")
WITH_TORCH = {"dualpath.inference.torch_backend"}

IMPORT_WITHOUT_TORCH = """
import importlib, json, sys

# As if they were not installed.
sys.modules.update(dict.fromkeys(["torch", "torchvision", "timm", "accelerate"]))
failed = {}
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = str(error)
print(json.dumps(failed))
"""


def modules() -> list[str]:
    return [module.name for module in pkgutil.walk_packages([str(SOURCE)], "dualpath.")]


def import_without_torch(names: list[str]) -> dict[str, str]:
    command = [sys.executable, "-c", IMPORT_WITHOUT_TORCH, json.dumps(names)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    failed: dict[str, str] = json.loads(done.stdout)
    return failed


def test_every_module_of_a_light_folder_is_imported_without_torch():
    light = [name for name in modules() if name.split(".")[1] in LIGHT and name not in WITH_TORCH]
    assert len(light) > 60
    assert import_without_torch(light) == {}


def test_the_other_modules_need_torch():
    needed = [*sorted(WITH_TORCH), "dualpath.training.train", "dualpath.models.layers"]
    assert list(import_without_torch(needed)) == needed


def test_modules_do_not_import_each_other_in_a_circle():
    graph = grimp.build_graph("dualpath", exclude_type_checking_imports=True, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(imports) > 100
    TopologicalSorter(imports).prepare()  # raises CycleError, which shows the circle


@pytest.mark.parametrize(
    "file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE))
)
def test_no_file_is_too_long_to_read_in_one_sitting(file):
    text = file.read_text(encoding="utf-8")
    documented = 0
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            first = node.body[0]
            documented += (first.end_lineno or first.lineno) - first.lineno + 1
    assert text.count("\n") - documented <= MAX_LINES


def test_the_top_level_has_only_these_modules():
    assert {file.stem for file in SOURCE.glob("*.py")} == TOP_LEVEL
