"""Building the wheel and the source distribution of the repository."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGED = ("src", "docs", "tests", "benchmarks", "examples", "pyproject.toml", "README.md",
            "LICENSE", "MANIFEST.in", "CHANGELOG.md", "Makefile")  # fmt: skip


def build_distributions(folder: Path) -> Path:
    """Build wheel and sdist from a copy of the repository; returns the folder that holds them."""
    copy, out = folder / "copy", folder / "dist"
    copy.mkdir()
    for name in PACKAGED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, copy / name, ignore=ignored)
        elif source.exists():
            shutil.copy(source, copy / name)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), "."]
    subprocess.run(build, cwd=copy, check=True, capture_output=True)
    return out
