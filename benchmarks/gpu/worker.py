"""Run a part of the measurements in a process of its own, with a time limit."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


class Worker:
    """A process that imports the modules of a part, and then waits to be started.

    Args:
        part: a name in ``parts.py``.
        scratch: folder of the run, for rows and files.
    """

    def __init__(self, part: str, device: str, *, small: bool, scratch: Path) -> None:
        self._part = part
        self._rows, self._error = scratch / f"{part}.rows", scratch / f"{part}.error"
        command = [sys.executable, str(_HERE / "parts.py"), part, "--device", device]
        command += ["--scratch", str(scratch), *(["--small"] if small else [])]
        with self._error.open("w") as error:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stderr=error, text=True, start_new_session=True
            )
        self._started = time.monotonic()

    def start(self) -> None:
        """Start the measurements."""
        self._started = time.monotonic()
        assert self._process.stdin is not None
        with suppress(OSError):  # it may have failed already; finish() returns why
            self._process.stdin.write("start\n")
            self._process.stdin.close()

    def run(self, seconds: float) -> dict[str, Any]:
        """Start the measurements and wait for them; see :meth:`finish`."""
        self.start()
        return self.finish(seconds)

    def finish(self, seconds: float) -> dict[str, Any]:
        """Wait until the part ends, and return its status and its rows.

        If it fails or is stopped, the rows measured before are returned.

        Args:
            seconds: time limit, from the start of the measurements.
        """
        left = seconds - (time.monotonic() - self._started)
        try:
            code = self._process.wait(max(0.0, left))
            status = "done" if code == 0 else f"failed (exit {code})"
        except subprocess.TimeoutExpired:
            status = f"stopped after {seconds:.0f} s"
        taken = time.monotonic() - self._started
        with suppress(ProcessLookupError):  # with the processes that it started
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        lines = self._rows.read_text().splitlines() if self._rows.exists() else []
        result = {
            "part": self._part,
            "status": status,
            "seconds": round(taken, 1),
            "rows": [json.loads(line) for line in lines],
        }
        if status != "done":
            result["error"] = self._error.read_text()[-6000:]
        return result
