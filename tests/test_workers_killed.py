"""A worker is killed by the system in the middle of a measurement over four processes: the same bytes as of one thread,
also where another process began it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from by_hand import wait_for
from test_relearning_spread import attacked, files, texts

from skilloc.ablation.items import keep
from skilloc.models.language import Opened, open_model
from skilloc.study.draws import subtasks_of
from skilloc.study.measure import measure
from skilloc.study.settings import Settings
from skilloc.sweep import Pool
from skilloc.tasks import Subtask

__all__ = ["texts"]

FOUR = Pool(workers=4)
SETTINGS = Settings(
    sequences=4,
    length=24,
    folds=4,
    reference="mean",
    only=tuple(f"L{layer}N{n}" for layer in (1, 3) for n in range(32)) + tuple(f"L2H{n}" for n in range(6)),
)


@contextmanager
def one_is_killed(ready: Callable[[], bool]) -> Iterator[None]:
    """Kill the worker that is at work, with SIGKILL, as soon as something is so; fail where none was."""
    killed: list[int] = []

    def kill() -> None:
        wait_for(ready, seconds=600)
        before = {child.pid: child.cpu_times().user for child in psutil.Process().children(recursive=True)}
        time.sleep(0.1)
        busy = {pid: psutil.Process(pid).cpu_times().user - spent for pid, spent in before.items()}
        killed.append(max(busy, key=busy.__getitem__))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    yield
    killer.join()
    assert killed


def count(folder: Path) -> int:
    return len(list(folder.glob("[!.]*")))


@pytest.fixture(scope="module")
def embedded() -> tuple[Opened, dict[str, Subtask]]:
    opened = open_model("embedded")
    return opened, subtasks_of(opened, {"python": "python", "english": "english"}, length=24)


@pytest.mark.slow
def test_effects_begun_here_and_finished_by_four_of_which_one_is_killed(embedded, tmp_path):
    measure(*embedded, SETTINGS, tmp_path / "here")
    folder = tmp_path / "there"
    measure(*embedded, SETTINGS, folder, seconds=0.1)
    begun = count(folder / "items")
    assert 0 < begun < 5  # items of 16 neurons, and one of 6 heads
    with one_is_killed(lambda: count(folder / "items") > begun):
        measure(*embedded, SETTINGS, folder, workers=FOUR)
    assert files(folder) == files(tmp_path / "here")


@pytest.mark.slow
def test_an_attribution_begun_here_and_finished_by_four_of_which_one_is_killed(embedded, tmp_path, monkeypatch):
    monkeypatch.setattr("skilloc.models.losses.MAX_LOGITS", 24 * 2048)  # a block is one example of eight
    settings = replace(SETTINGS, only=(), sample=0, top=0, method="attribution", loss="worker_cells:busy", curvature=2)
    measure(*embedded, settings, tmp_path / "here")
    folder = tmp_path / "there"

    def stopped(*given):
        keep(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("skilloc.study.elsewhere.keep", stopped)
        with pytest.raises(KeyboardInterrupt):
            measure(*embedded, settings, folder)
    assert count(folder / "items") == 1
    with one_is_killed(lambda: count(folder / "items") > 1):
        measure(*embedded, settings, folder, workers=FOUR)
    assert files(folder) == files(tmp_path / "here")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*widen `rates`", "ignore:.*there is one rate")
def test_an_attack_begun_here_and_finished_by_four_of_which_one_is_killed(texts, tmp_path, monkeypatch):
    here = attacked(texts, tmp_path / "here")
    folder = tmp_path / "there"

    def stopped(*given, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("skilloc.relearning.doing.attack_all", stopped)
        with pytest.raises(KeyboardInterrupt):
            attacked(texts, folder)
    begun = count(folder / "runs")
    assert count(folder / "runs") < count(tmp_path / "here" / "runs")
    with one_is_killed(lambda: count(folder / "runs") > begun):
        assert attacked(texts, folder, FOUR) == here
