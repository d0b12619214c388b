"""Shows the largest differences from the authors' numbers after a verbose run."""

from _pytest.terminal import TerminalReporter

from tests.fidelity.case import largest_differences


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    if terminalreporter.config.get_verbosity() >= 0 and largest_differences:
        terminalreporter.section("largest relative differences from the authors' code")
        for subject, difference in largest_differences.items():
            terminalreporter.line(f"{subject:60s} {difference:.1e}")
