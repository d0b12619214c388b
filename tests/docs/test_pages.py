"""The documentation: it builds, its references are complete, and the files that it names exist."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import dualpath
from dualpath.recipes.schema import Recipe
from dualpath.recipes.stages import StageRecipe

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md"])


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_line_page_has_every_command_and_its_options(hooks: ModuleType) -> None:
    page = hooks.cli_reference()
    for command in ("train", "evaluate", "search", "gallery add", "prepare folder", "keys add"):
        assert re.search(rf"^##+ dualpath {command}$", page, re.MULTILINE)
    for option in ("--resume", "--query-bank", "--min-probability", "--uploads"):
        assert option in page


def test_the_http_page_has_every_route(hooks: ModuleType) -> None:
    page = hooks.http_reference()
    for route in ("GET /v1/search", "POST /v1/items", "GET /v1/items/{id}/image", "GET /v1/readyz"):
        assert f"## {route}\n" in page
    for name in re.findall(r"\(#([a-z]+)\)", page):
        assert f"{{ #{name} }}" in page


def test_the_recipe_page_describes_every_key(hooks: ModuleType) -> None:
    for model in (Recipe, StageRecipe):
        described = set(hooks.attribute_docs(model))
        assert described == set(model.model_fields)
    page = hooks.recipe_keys()
    for key in ("reference_size", "feature_layers", "captions_of", "temperature", "milestones"):
        assert f"| `{key}` |" in page


def test_the_python_page_has_every_public_name() -> None:
    page = (DOCS / "reference/python.md").read_text("utf-8")
    listed = set(re.findall(r"^::: dualpath\.(\w+)$", page, re.MULTILINE))
    errors = {name for name in dualpath.__all__ if name.endswith("Error")}
    assert listed == set(dualpath.__all__) - errors - {"__version__"} | {"errors"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for path in re.findall(r"`((?:tests|benchmarks|deploy|src)/[\w/.-]+)`", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (page.parent / link).exists(), link


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_other_servers(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(r"<(?:script|img|link)\b[^>]*https?://[^>]*>", page.read_text("utf-8"))
        assert not loaded, f"{page.name}: {loaded}"
