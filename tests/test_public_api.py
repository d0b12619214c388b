"""The names that a user imports, and what they promise."""

import base64
import importlib
import inspect
import json
import pkgutil
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import dualpath
from dualpath.errors import BundleError
from tests.conftest import ONE_STAGE, small_recipe

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference" / "python.md"
PUBLIC = {
    "CaptionHit",
    "DualPath",
    "EvaluationResult",
    "Gallery",
    "GalleryImage",
    "Hit",
    "ImageRecord",
    "Ranks",
    "Recipe",
    "RetrievalMetrics",
    "classify",
    "convert_pretrained",
    "TrainingEvent",
    "__version__",
    "evaluate",
    "export",
    "load",
    "prepare",
    "rank_relevant",
    "read_recipe",
    "recall_at_k",
    "retrieval_metrics",
    "train",
}


def error_classes() -> set[str]:
    errors = importlib.import_module("dualpath.errors")
    return {name for name, value in vars(errors).items() if inspect.isclass(value)}


def run_python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dir_shows_exactly_the_public_names_in_a_new_process():
    shown = json.loads(run_python("import dualpath, json; print(json.dumps(dir(dualpath)))"))
    assert set(shown) == PUBLIC | error_classes()
    assert len(shown) == len(set(shown))
    assert set(dualpath.__all__) == set(shown)


def test_the_reference_documents_every_public_name():
    documented = set(re.findall(r"^::: dualpath\.(\w+)$", REFERENCE.read_text(), re.MULTILINE))
    assert documented == (PUBLIC - {"__version__"}) | {"errors"}


@pytest.mark.parametrize("name", sorted(PUBLIC | error_classes()))
def test_every_public_name_is_importable_and_documented(name):
    value = getattr(dualpath, name)
    if name != "__version__":
        assert inspect.getdoc(value)
    assert value is getattr(dualpath, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'dualpath' has no attribute 'embed'"):
        _ = dualpath.embed


def test_the_version_is_that_of_the_installed_package():
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", dualpath.__version__)


@pytest.mark.parametrize("name", sorted(error_classes()))
def test_every_error_is_exported_and_derives_from_the_base_class(name):
    error = getattr(dualpath, name)
    assert issubclass(error, dualpath.DualPathError)
    assert error.__module__ == "dualpath.errors"
    assert str(error("one line")) == "one line"


def submodules() -> list[str]:
    return [module.name for module in pkgutil.walk_packages(dualpath.__path__, "dualpath.")]


# The server answers this one with a status code; no Python code can catch it.
INTERNAL = {"OverloadedError"}


def test_errors_are_defined_in_one_module():
    for name in submodules():
        if name == "dualpath.__main__":
            continue
        for value in vars(importlib.import_module(name)).values():
            if inspect.isclass(value) and issubclass(value, Exception):
                ours = value.__module__.startswith("dualpath.") and value.__name__ not in INTERNAL
                assert not ours or value.__module__ == "dualpath.errors", (name, value)


IMPORT_ALL = """
import importlib, json, sys
import dualpath
first = {name: getattr(dualpath, name) for name in dualpath.__all__}
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
for name, value in first.items():
    assert getattr(dualpath, name) is value, name
assert all(callable(getattr(dualpath, name)) for name in dualpath.__all__ if name[0] != "_")
"""
# The same without using any name before the modules are imported.
IMPORT_MODULES_FIRST = IMPORT_ALL.replace(
    "first = {name: getattr(dualpath, name) for name in dualpath.__all__}", "first = {}"
)


@pytest.mark.slow
@pytest.mark.parametrize("code", [IMPORT_ALL, IMPORT_MODULES_FIRST], ids=["names", "modules"])
def test_functions_stay_functions_after_all_modules_are_imported(code):
    modules = [name for name in submodules() if name != "dualpath.__main__"]
    run_python(code, json.dumps(modules))


def test_the_package_is_imported_without_heavy_libraries():
    code = "import dualpath, sys; print(*sys.modules)"
    loaded = {name.partition(".")[0] for name in run_python(code).split()}
    assert not loaded & {"torch", "torchvision", "timm", "accelerate", "numpy", "pyarrow", "PIL"}


@pytest.mark.slow
@pytest.mark.parametrize("progress", [True, False])
def test_a_training_is_silent_only_if_it_is_asked_to_be(tmp_path, shapes, cache, capfd, progress):
    recipe = small_recipe(stages=ONE_STAGE)
    dualpath.train(recipe, shapes, tmp_path, cache=cache, progress=progress)
    out, err = capfd.readouterr()
    assert out == ""
    if progress:
        assert "80 training images, 10 validation images" in err
        assert "instance epoch 1: instance_image" in err
    else:
        assert err == ""


def test_a_progress_function_is_called_with_every_step_and_epoch(tmp_path, shapes, cache, capfd):
    events = []
    recipe = small_recipe(stages=[{**ONE_STAGE[0], "epochs": 2}])
    model = dualpath.train(recipe, shapes, tmp_path, cache=cache, progress=events.append)
    assert capfd.readouterr() == ("", "")
    assert all(isinstance(event, dualpath.TrainingEvent) for event in events)
    steps = [(e.stage, e.epoch, e.step, e.steps) for e in events if e.step]
    assert steps == [("instance", epoch, step, 5) for epoch in (1, 2) for step in range(1, 6)]
    epochs = [event for event in events if event.validation is not None]
    assert [event.epoch for event in epochs] == [1, 2]
    for event, entry in zip(epochs, model.metrics["history"], strict=True):
        assert dict(event.losses) == entry["losses"]
        assert event.validation["rsum"] == entry["validation"]["rsum"]
    assert any("training images" in event.message for event in events)


def test_an_error_of_a_progress_function_stops_the_training(tmp_path, shapes, cache):
    def fail(event):
        if event.step:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        dualpath.train(small_recipe(stages=ONE_STAGE), shapes, tmp_path, cache=cache, progress=fail)


def test_an_evaluation_returns_a_typed_result(bundle, shapes, cache):
    model = dualpath.load(bundle)
    result = dualpath.evaluate(model, shapes, split="test", cache=cache)
    assert isinstance(result, dualpath.EvaluationResult)
    for direction in (result.image_to_text, result.text_to_image):
        assert isinstance(direction, dualpath.RetrievalMetrics)
    assert json.loads(json.dumps(result.to_dict()))["text_to_image"]["recall_at_1"] == (
        result.text_to_image.recall_at_1
    )


def test_a_model_is_saved_and_loaded(bundle, tmp_path):
    model = dualpath.load(bundle)
    model.save_pretrained(tmp_path / "copy")
    for again in (
        dualpath.load(tmp_path / "copy"),
        dualpath.DualPath.from_pretrained(str(tmp_path / "copy")),
    ):
        assert again.fingerprint == model.fingerprint
        assert again.embed_texts(["a red star"]).tolist() == (
            model.embed_texts(["a red star"]).tolist()
        )


def push(model):
    return model.push_to_hub("someone/shapes", token="hf_secret", commit_message="Second try")


def test_an_upload_without_a_connection_is_one_clear_line(bundle, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(BundleError, match=r"^someone/shapes: cannot be uploaded \(.+\)$") as raised:
        push(dualpath.load(bundle))
    assert len(str(raised.value).splitlines()) == 1
    assert "hf_secret" not in str(raised.value)


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as an upload of small files needs."""

    calls: list[tuple[str, str, bytes]]
    status: int

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.calls.append((self.path, self.headers.get("Authorization", ""), body))
        if self.status != 200:
            self._reply({"error": "You cannot write to this repository."}, self.status)
        elif self.path.endswith("/repos/create"):
            self._reply({"url": f"http://{self.headers['Host']}/someone/shapes"})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._reply({"files": files})
        else:
            url = f"http://{self.headers['Host']}/someone/shapes/commit/abc"
            self._reply({"commitUrl": url, "commitOid": "abc", "success": True})

    def do_GET(self):
        self._reply({"sha": "abc", "id": "someone/shapes", "siblings": []})

    def _reply(self, content, status=200):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Print nothing."""


@pytest.fixture
def hub(monkeypatch):
    """A local server that records what is uploaded."""
    handler = type("RecordingHub", (Hub,), {"calls": [], "status": 200})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    handler.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", handler.endpoint)
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("source", ["loaded", "trained"])
def test_an_upload_creates_a_repository_and_commits_the_files_of_the_bundle(bundle, hub, source):
    model = dualpath.load(bundle)
    if source == "trained":
        model.source = None  # as a model that was trained in this process
    assert push(model) == f"{hub.endpoint}/someone/shapes/commit/abc"
    assert {authorization for _, authorization, _ in hub.calls} == {"Bearer hf_secret"}
    create = json.loads(hub.calls[0][2])
    assert (create["organization"], create["name"]) == ("someone", "shapes")
    assert create.get("private") is True or create.get("visibility") == "private", create
    path, _, commit = hub.calls[-1]
    assert path.startswith("/api/models/someone/shapes/commit/")
    lines = [json.loads(line) for line in commit.splitlines()]
    assert lines[0]["value"]["summary"] == "Second try"
    files = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"])
        for line in lines
        if line["key"] == "file"
    }
    assert files.keys() == {
        "model.safetensors",
        "recipe.yaml",
        "tokenizer.json",
        "metrics.json",
        "README.md",
        "runtimes.json",
        "image_encoder.fp32.onnx",
        "text_encoder.fp32.onnx",
    }
    assert all(content == (bundle / name).read_bytes() for name, content in files.items())


def test_an_upload_that_the_hub_refuses_is_one_clear_line(bundle, hub):
    hub.status = 403
    with pytest.raises(BundleError, match=r"^someone/shapes: cannot be uploaded .*403") as raised:
        push(dualpath.load(bundle))
    assert len(str(raised.value).splitlines()) == 1


def test_saving_where_nothing_can_be_written_is_a_bundle_error(bundle, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="the bundle cannot be written"):
        dualpath.load(bundle).save_pretrained(tmp_path / "file")


def test_the_package_says_that_it_is_typed():
    assert (Path(dualpath.__file__).parent / "py.typed").is_file()


@pytest.mark.slow
def test_a_user_program_passes_strict_type_checks(tmp_path):
    program = Path(__file__).parent / "typing" / "user_program.py"
    (tmp_path / "mypy.ini").write_text("[mypy]\n")  # without the settings of this project
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "mypy.ini"]
    command += ["--follow-imports", "silent", "--cache-dir", "cache", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import dualpath\n"
        "result = dualpath.evaluate(dualpath.load('bundle'), 'data')\n"
        "result['rsum']\n"
        "dualpath.train('default', 'data', 'out', display=None)\n"
    )
    command[-1] = str(wrong)
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "wrong.py:3: error" in done.stdout
    assert "wrong.py:4: error" in done.stdout
