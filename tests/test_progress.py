"""A log gets a line every half minute; what is done sooner leaves none; a terminal gets a bar."""

import io
import sys
from typing import Any

import pytest

from skilloc.store import progress as module
from skilloc.store.progress import counter, progress
from skilloc.sweep.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: Any) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_half_minute(clock: list[float], monkeypatch: Any) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    for _ in progress(range(10), "ablating"):
        clock[0] += 12
    assert log.getvalue().splitlines() == [
        "ablating: 30% done, 36 s so far, 1 min 24 s left",
        "ablating: 60% done, 1 min 12 s so far, 48 s left",
        "ablating: 90% done, 1 min 48 s so far, 12 s left",
        "ablating: 100% done, 2 min 0 s so far",
    ]


def test_what_is_done_soon_or_not_shown_leaves_nothing(clock: list[float], monkeypatch: Any) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    assert list(progress(range(5), "ablating")) == [0, 1, 2, 3, 4]
    for _ in progress(range(5), "ablating", shown=False):
        clock[0] += 100
    assert log.getvalue() == ""


def test_what_was_done_before_counts_and_does_not_speed_up(clock: list[float], monkeypatch: Any) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with counter(100, "training", initial=90) as bar:
        clock[0] += 3000
        bar.update(5)
        clock[0] += 4000
        bar.update()
    assert log.getvalue().splitlines()[:2] == [
        "training: 95% done, 50 min 0 s so far, 50 min 0 s left",
        "training: 96% done, 1 h 56 min so far, 1 h 17 min left",
    ]


def test_a_terminal_gets_a_bar(monkeypatch: Any) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    list(progress(range(3), "ablating"))
    assert "ablating 100%" in screen.getvalue()


def test_a_sweep_says_how_many_cells_failed_in_the_same_lines(clock: list[float], monkeypatch: Any) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with Progress(4, {"cached": 1}, shown=True) as bar:
        for counts in ({"cached": 1, "done": 1}, {"cached": 1, "done": 1, "failed": 1}):
            clock[0] += 40
            bar.show(counts)
    assert log.getvalue().splitlines() == [
        "sweep: 50% done, 40 s so far, 1 min 20 s left (1 done, 1 cached, 0 failed)",
        "sweep: 75% done, 1 min 20 s so far, 40 s left (1 done, 1 cached, 1 failed)",
        "sweep: 75% done, 1 min 20 s so far, 40 s left (1 done, 1 cached, 1 failed)",
    ]
