"""What the benchmarks share: the form of a command line and the commit that is measured."""

import argparse
import subprocess
from pathlib import Path


def command_line(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help shows the docstring of a script as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def commit() -> str:
    """Return the commit of this checkout, with ``-dirty`` if files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
