"""Describe the machine of the measurements, and format their tables."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow", "pyarrow", "pydantic")
_CARD = ("name", "driver_version", "memory.total", "clocks.max.sm")


def environment(commit: str | None) -> dict[str, Any]:
    """Return the commit, the card and its driver, the processor and the versions of packages."""
    fields = _output("nvidia-smi", f"--query-gpu={','.join(_CARD)}", "--format=csv,noheader")
    card = dict(zip(_CARD, (field.strip() for field in fields.split(",")), strict=False))
    return {
        "commit": commit or _output("git", "describe", "--always", "--dirty") or "unknown",
        "card": card if fields else None,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def markdown(report: dict[str, Any]) -> str:
    """Return all tables; a part that failed is followed by the end of its error output."""
    card = report["card"] or {"name": "no GPU"}
    lines = [
        f"# DualPath on {card['name']}",
        "",
        f"Commit {report['commit']}, driver {card.get('driver_version', '-')}, torch "
        f"{report['packages']['torch']}, {report['cores']} cores ({report['processor']}), "
        f"{report['seconds']:.0f} s in total.",
    ]
    for part in report["parts"]:
        lines += ["", f"## {part['part']}: {part['status']}, {part['seconds']:.0f} s", ""]
        lines += _tables(part["rows"])
        if "error" in part:
            lines += ["```", *part["error"].strip().splitlines()[-25:], "```"]
    return "\n".join(lines)


def _tables(rows: list[dict[str, Any]]) -> list[str]:
    """Return a table for each run of rows with equal columns, without nested values."""
    lines: list[str] = []
    columns: list[str] = []
    for row in rows:
        shown = {key: value for key, value in row.items() if not isinstance(value, dict | list)}
        if list(shown) != columns:
            columns = list(shown)
            lines += ["", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
        lines.append("| " + " | ".join(_cell(value) for value in shown.values()) + " |")
    return lines


def _cell(value: Any) -> str:
    return (
        f"{value:,.4g}"
        if isinstance(value, float) and value < 1000
        else (f"{value:,.0f}" if isinstance(value, float) else str(value))
    )


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _output(*command: str) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except OSError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
