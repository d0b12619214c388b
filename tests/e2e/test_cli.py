"""The command line as a user meets it: real processes, real files."""

import json
import os
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import typer

import dualpath
from dualpath.cli.main import app
from dualpath.recipes.loading import shipped_recipes
from tests.conftest import run_cli


@pytest.fixture(scope="module")
def run(cache):
    def run_with_cache(*arguments):
        return run_cli(*arguments, "--cache", cache)

    return run_with_cache


@pytest.mark.parametrize(
    "command",
    ["train", "evaluate", "embed", "export", "info", "recipes", "search", "serve", "keys", "data"],
)
def test_help_lists_every_command_and_each_has_help_of_its_own(command):
    assert command in run_cli("--help").stdout
    done = run_cli(command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: dualpath" in done.stdout


def test_every_option_of_every_command_has_a_help_text():
    def walk(command, path):
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.help, f"{path} {parameter.name}"
        for name, sub in getattr(command, "commands", {}).items():
            walk(sub, f"{path} {name}")

    walk(typer.main.get_command(app), "dualpath")


def test_the_version_is_printed():
    assert run_cli("--version").stdout.strip() == f"dualpath {dualpath.__version__}"


def test_shell_completion_can_be_installed():
    # Without this, typer takes the shell of the parent process, and there may be none.
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = run_cli("--show-completion", "bash", env=environment)
    assert "dualpath" in done.stdout, done.stderr


def test_the_shipped_recipes_are_listed_with_a_description():
    lines = run_cli("recipes").stdout.splitlines()
    names = [line.split()[0] for line in lines]
    assert names == sorted(shipped_recipes())
    assert all(len(line.split()) > 3 for line in lines)


def test_a_misspelt_recipe_is_reported_without_importing_torch(tmp_path, shapes):
    code = (
        "import sys; from dualpath.cli.main import app\n"
        "try: app()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "train", "defalt", "--data", shapes, "--out", tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: defalt: neither a recipe file (.yaml) nor the name of a shipped recipe; similar "
        "names: default",
        "False",
    ]


def test_from_nothing_to_a_searchable_model(tmp_path, run, small_recipe_file):
    folder, out = tmp_path / "shapes", tmp_path / "bundle"
    done = run_cli("prepare", "shapes", "--out", folder, "--scenes", 60, "--size", 40)
    assert done.returncode == 0, done.stderr
    done = run(
        "train", small_recipe_file, "--data", folder, "--out", out, "--set", "stages.0.epochs=1"
    )
    assert done.returncode == 0, done.stderr
    assert "R@1" in done.stdout
    assert "instance epoch 1" in done.stderr
    assert any((out / "training" / "log").rglob("events.out.tfevents.*"))
    gallery = tmp_path / "gallery"
    done = run_cli("gallery", "add", gallery, folder, "--model", out)
    assert done.returncode == 0, done.stderr
    assert "60 new images" in done.stdout
    done = run_cli("search", gallery, "a big red circle", "two small stars", "--top", 3, "--json")
    found = json.loads(done.stdout)
    assert [answer["query"] for answer in found] == ["a big red circle", "two small stars"]
    for answer in found:
        scores = [hit["score"] for hit in answer["hits"]]
        assert len(scores) == 3
        assert scores == sorted(scores, reverse=True)


def test_the_person_protocol_searches_images_by_text_only(bundle, shapes, run):
    done = run("evaluate", bundle, "--data", shapes, "--protocol", "person")
    assert done.returncode == 0, done.stderr
    assert "protocol person" in done.stdout
    assert "text → image" in done.stdout
    assert "image → text" not in done.stdout
    refused = run("evaluate", bundle, "--data", shapes, "--protocol", "flickr-1k")
    assert refused.returncode == 1
    assert "flickr-1k needs 1,000 images" in refused.stderr


def test_evaluate_writes_the_metrics_and_an_html_report(tmp_path, bundle, shapes, run):
    done = run(
        "evaluate", bundle, "--data", shapes, "--split", "test",
        "--json", tmp_path / "m.json", "--html", tmp_path / "report.html",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "m.json").read_text())
    names = {
        "recall_at_1",
        "recall_at_5",
        "recall_at_10",
        "median_rank",
        "mean_rank",
        "map",
        "minp",
        "map_trapezoidal",
    }
    for direction in ("image_to_text", "text_to_image"):
        assert set(metrics[direction]) == names
    recalls = [
        metrics[d][f"recall_at_{k}"] for d in ("image_to_text", "text_to_image") for k in (1, 5, 10)
    ]
    assert metrics["rsum"] == pytest.approx(sum(recalls))
    assert (metrics["images"], metrics["captions"], metrics["split"]) == (10, 30, "test")
    assert metrics["protocol"] == "all"
    assert "evaluate" in metrics["command"]
    report = (tmp_path / "report.html").read_text()
    assert report.count("<section>") == 10
    assert report.count("data:image/jpeg;base64,") == 50
    assert "right · " in report


@pytest.mark.parametrize(
    ("source", "options", "columns", "rows"),
    [
        ("shapes", [], ["file_name", "vector"], 100),
        ("shapes", ["--captions"], ["file_name", "text", "vector"], 300),
        ("lines.txt", [], ["text", "vector"], 2),
    ],
)
def test_embed_writes_images_captions_and_lines_as_parquet(
    source, options, columns, rows, tmp_path, bundle, shapes, run
):
    (tmp_path / "lines.txt").write_text("a red circle\n犬\n")
    (tmp_path / "shapes").symlink_to(shapes)
    out = tmp_path / "vectors.parquet"
    done = run("embed", bundle, tmp_path / source, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(out)
    assert table.column_names == columns
    assert len(table) == rows
    assert table.schema.field("vector").type.list_size == 32


def test_a_bare_folder_of_images_is_searched_and_broken_ones_are_named(tmp_path, bundle, shapes):
    shutil.copytree(shapes / "images", tmp_path / "images")
    (tmp_path / "images" / "broken.jpg").write_text("x")
    gallery = tmp_path / "gallery"
    done = run_cli("gallery", "add", gallery, tmp_path / "images", "--model", bundle)
    assert done.returncode == 0, done.stderr
    assert "left out: " in done.stderr
    assert "broken.jpg: not an image" in done.stderr
    done = run_cli("search", gallery, "a red star", "--top", 10, "--html", tmp_path / "s.html")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 11
    assert "<h2>a red star</h2>" in (tmp_path / "s.html").read_text()


def test_info_describes_a_bundle(bundle):
    shown = run_cli("info", bundle).stdout
    for part in ("test_efficientnet", "text CNN of width 0.0625", "32 dimensions", "fingerprint"):
        assert part in shown


def test_data_check_counts_warns_and_fails_on_broken_images(tmp_path, shapes, run):
    folder = shutil.copytree(shapes, tmp_path / "shapes")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    train = next(row for row in rows if row["split"] == "train")
    test = next(row for row in rows if row["split"] == "test")
    shutil.copy(folder / train["file_name"], folder / test["file_name"])
    rows[2]["captions"].append("  ")
    rows[3]["captions"] = []
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = run("data", "check", folder)
    assert done.returncode == 0, done.stderr
    assert "100 images (train 80, val 10, test 10)" in done.stdout
    assert "warning: 1 empty captions are ignored" in done.stderr
    assert "warning: 1 images have no caption" in done.stderr
    assert f"the same image in two splits: {train['file_name']} (train)" in done.stderr
    (folder / rows[5]["file_name"]).write_bytes(b"no image")
    done = run("data", "check", folder)
    assert done.returncode == 1
    assert f"{rows[5]['file_name']}: not an image" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train no.yaml --data SHAPES --out out", "no.yaml: cannot be read"),
        ("train RECIPE --data . --out out", "metadata.jsonl:1: "),
        ("train RECIPE --data SHAPES --out out --set sede=1", "unknown key 'sede'"),
        (
            "train RECIPE --data SHAPES --out out --set image_encoder.backbone=resnet999",
            "timm has no model 'resnet999'",
        ),
        (
            "train RECIPE --data SHAPES --out out --set text_encoder.trunk=lstm",
            "text_encoder.trunk: 'lstm' does not exist; choose one of bottleneck, residual",
        ),
        ("train RECIPE --data none --out out", "none: the folder does not exist"),
        ("evaluate none --data SHAPES", "none: the folder does not exist"),
        ("evaluate BUNDLE --data SHAPES --split tset", "split 'tset' has no image"),
        ("embed BUNDLE nothing --out out", "nothing: does not exist"),
    ],
)
def test_a_mistake_is_one_clear_line_and_a_non_zero_exit(
    arguments, message, tmp_path, bundle, shapes, cache, small_recipe_file
):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.jpg"}\n')
    paths = {"SHAPES": shapes, "BUNDLE": bundle, "RECIPE": small_recipe_file}
    words = [str(paths.get(word, word)) for word in arguments.split()]
    done = run_cli(*words, "--cache", cache, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: ")
    assert message in errors[0]


def test_weights_that_cannot_be_downloaded_name_the_option_for_a_local_file(
    tmp_path, shapes, run, small_recipe_file, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = run(
        "train", small_recipe_file, "--data", shapes, "--out", tmp_path / "out",
        "--set", "image_encoder.pretrained=true", "--set", "image_encoder.backbone=resnet18",
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: the weights of resnet18 cannot be downloaded" in done.stderr
    assert "--set image_encoder.weights=FILE" in done.stderr
