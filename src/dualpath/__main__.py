"""``python -m dualpath``."""

from dualpath.cli import app

app(prog_name="dualpath")
