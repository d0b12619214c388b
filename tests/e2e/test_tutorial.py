"""The commands of docs/search.md, as a new user types them."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_every_command_of_the_tutorial_does_what_it_says(
    tmp_path, shapes, small_recipe_file, cache
):
    archive = tmp_path / "archive"
    shutil.copytree(shapes / "images", archive)
    rows = [json.loads(line) for line in (shapes / "metadata.jsonl").read_text().splitlines()]
    with (archive / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "description", "kind", "count"])
        for row in rows:
            name = Path(row["file_name"]).name
            writer.writerows([name, text, row["kind"], row["count"]] for text in row["captions"])
    shutil.copy(small_recipe_file, tmp_path / "recipe.yaml")
    (tmp_path / "photos").mkdir()
    shutil.copy(shapes / rows[0]["file_name"], tmp_path / "photos" / "query.png")
    text = (DOCS / "search.md").read_text()
    blocks = re.findall(r"<!-- tutorial -->\n```sh\n(.*?)```", text, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 12
    programs = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "DUALPATH_CACHE": str(cache),
    }
    shown = {}
    for command in commands:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        shown[command] = done.stdout
    assert "100 images" in shown[commands[1]]
    assert "100 images new" in shown[commands[5]]
    hits = json.loads(shown[commands[7]])[0]["hits"]
    assert hits
    assert all(h["metadata"]["count"] >= 2 and h["metadata"]["kind"] == "relation" for h in hits)
    assert "100 images, 0 problems" in shown[commands[11]]
