import io
import time

import pytest
from rich.console import Console

from dualpath.types import expect, no_progress
from dualpath.utils.progress import Display, TrainingEvent

LOSSES = {"ranking": 0.25}
VALIDATION = {
    "image_to_text": {"recall_at_1": 12.0},
    "text_to_image": {"recall_at_1": 9.0},
    "rsum": 200.0,
}


@pytest.fixture
def log():
    return io.StringIO()


def test_a_function_is_called_with_every_event():
    events = []
    display = Display.from_option(events.append)
    display.log("hello")
    with display.epoch("one", 2, 3, steps=5, done=3) as bar:
        bar.update(images=8, losses=LOSSES)
        bar.update(images=8, losses=LOSSES)
    entry = {"stage": "one", "epoch": 2, "losses": LOSSES, "validation": VALIDATION}
    display.epoch_done(entry)
    message, first, last, done = events
    assert message == TrainingEvent(message="hello")
    assert first == TrainingEvent("", "one", 2, 4, 5, LOSSES)
    assert last == TrainingEvent("", "one", 2, 5, 5, LOSSES)
    assert (done.stage, done.epoch, done.losses) == ("one", 2, LOSSES)
    assert done.validation == VALIDATION
    assert done.message.endswith("image→text R@1 12.0 text→image R@1 9.0 rsum 200.0")


@pytest.mark.parametrize("option", [False, lambda _: None])
def test_silence_and_functions_print_nothing(option, capsys):
    display = Display.from_option(option)
    display.log("hello")
    with display.bar("images", 3) as count:
        count(3)
    display.epoch_done({"stage": "one", "epoch": 1, "losses": LOSSES})
    assert capsys.readouterr() == ("", "")


def test_by_default_lines_go_to_standard_error(capsys):
    display = Display.from_option(True)
    display.log("[red]hello")
    display.epoch_done({"stage": "one", "epoch": 1, "losses": LOSSES})
    assert capsys.readouterr() == ("", "[red]hello\none epoch 1: ranking 0.250\n")


def test_a_log_file_gets_lines_of_long_work(log, monkeypatch):
    display = Display(Console(file=log))
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with display.bar("images", 4000) as count:
        count(1)
        now = 31.0
        count(1200)
        now = 40.0
        count(1)
    assert log.getvalue() == "images: 1,201 of 4,000 in 0:00:31, about 0:01:12 left\n"


def test_a_log_file_gets_lines_of_a_long_epoch(log, monkeypatch):
    display = Display(Console(file=log))
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with display.epoch("one", 2, 3, steps=100, done=60) as bar:
        now = 40.0
        for _ in range(10):
            bar.update(images=8, losses=LOSSES)
    assert log.getvalue() == "one 2/3: 61 of 100 in 0:00:40, about 0:26:00 left\n"


def test_a_total_that_is_announced_later_is_shown(log, monkeypatch):
    display = Display(Console(file=log))
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with display.bar("images") as count:
        now = 31.0
        count(10)
        expect(count, 40)
        now = 62.0
        count(10)
    first, second = log.getvalue().splitlines()
    assert first == "images: 10 in 0:00:31"
    assert second == "images: 20 of 40 in 0:01:02, about 0:01:02 left"
    expect(no_progress, 40)


def test_a_terminal_shows_a_bar_with_smoothed_losses(log):
    display = Display(Console(file=log, force_terminal=True, width=120))
    with display.epoch("one", 1, 2, steps=2, done=0) as bar:
        bar.update(images=8, losses={"ranking": 1.0})
        bar.update(images=8, losses={"ranking": 0.0})
    assert "one 1/2" in log.getvalue()
    assert "ranking 0.950" in log.getvalue()
