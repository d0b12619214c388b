import os

import pytest

from dualpath.utils import memory


@pytest.fixture
def calls(monkeypatch):
    for name in list(os.environ):
        if name.startswith("MALLOC_"):
            monkeypatch.delenv(name)
    called = []
    monkeypatch.setattr(memory, "_call", lambda *arguments: called.append(arguments))
    return called


def test_training_returns_large_allocations_and_inference_keeps_them(calls):
    memory.tune_malloc()
    memory.tune_malloc(training=True)
    thresholds = [value for name, option, value in calls if option == -3]
    assert thresholds == [2**30, 2**25]
    assert {name for name, *_ in calls} == {"mallopt"}


def test_settings_of_the_user_are_respected(calls, monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "0")
    memory.tune_malloc()
    assert calls == []


def test_free_memory_can_be_returned_on_every_platform(monkeypatch):
    memory.trim_heap()
    monkeypatch.setattr("sys.platform", "darwin")
    memory.trim_heap()
