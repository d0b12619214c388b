"""``python -m dualpath``."""

from dualpath.cli import app

if __name__ == "__main__":
    app(prog_name="dualpath")
