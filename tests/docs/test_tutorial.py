"""The commands of docs/guides/searching.md, as a new user types them."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/guides/searching.md"


@pytest.mark.slow
def test_every_command_of_the_tutorial_does_what_it_says(
    tmp_path: Path, shapes: Path, small_recipe_file: Path, cache: Path
) -> None:
    _write_archive(tmp_path, shapes)
    shutil.copy(small_recipe_file, tmp_path / "recipe.yaml")
    blocks = re.findall(r"<!-- tutorial -->\n```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 12
    shown = [_run(command, tmp_path, cache) for command in commands]
    assert "100 images" in shown[1]
    assert "100 new images" in shown[5]
    hits = json.loads(shown[7])[0]["hits"]
    assert hits
    assert all(h["metadata"]["count"] >= 2 and h["metadata"]["kind"] == "relation" for h in hits)
    assert "100 images, 0 problems" in shown[11]


def _write_archive(folder: Path, shapes: Path) -> None:
    """Write images with a spreadsheet, one row per caption, and an image to search with."""
    archive = folder / "archive"
    shutil.copytree(shapes / "images", archive)
    rows = [json.loads(line) for line in (shapes / "metadata.jsonl").read_text().splitlines()]
    with (archive / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "description", "kind", "count"])
        for row in rows:
            name = Path(row["file_name"]).name
            writer.writerows([name, text, row["kind"], row["count"]] for text in row["captions"])
    (folder / "photos").mkdir()
    shutil.copy(shapes / rows[0]["file_name"], folder / "photos" / "query.png")


def _run(command: str, folder: Path, cache: Path) -> str:
    programs = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "DUALPATH_CACHE": str(cache),
    }
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout
