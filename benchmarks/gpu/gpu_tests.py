"""Run the project's tests that need a GPU."""

import os
import subprocess
import sys
from xml.etree import ElementTree

from setting import ROOT, Setting


def run_tests(setting: Setting) -> None:
    """Run the tests marked ``gpu`` and record the outcome of each."""
    results = setting.scratch / "tests.xml"
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, "--tb=short", f"--junitxml={results}"],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        },
        stdout=sys.stderr,  # the report quotes it if the part fails
        check=False,
    )
    for case in ElementTree.parse(results).iter("testcase") if results.exists() else ():
        outcomes = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        setting.add_row(
            {
                "test": case.get("name"),
                "outcome": outcomes[0] if outcomes else "passed",
                "seconds": float(case.get("time", 0)),
            }
        )
    sys.exit(run.returncode)
