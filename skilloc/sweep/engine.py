"""Cells of a sweep, and items of one measurement, on Dask workers.

The engine carries strings only. Every cell writes its own result, so a lost worker, scheduler or driver loses only
the cells that were running.
"""

import collections
import contextlib
import hashlib
import logging
import math
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from distributed import Client, Future, KilledWorker

from skilloc import store
from skilloc.mistakes import WrongValue
from skilloc.sweep.cells import run_cell

DIED = (
    "the worker process died while it ran this cell, more than once: out of memory, a crash in native code, or killed"
)

NOBODY_AFTER = 60.0
"""Seconds without any worker after which that is said."""

_log = logging.getLogger(__name__)

Heard = Callable[[str, str, str, str], None]


Outcome = tuple[str, str, str, str]
"""Of one text: its key, "done" or "failed", the error, the traceback."""


@dataclass(frozen=True)
class Task:
    """What workers do with each of some texts.

    Attributes:
        run: called on a worker with a text, `out` and `home`; returns "done" or "failed", the error, the traceback.
        out: the folder that holds the results; workers must see it under the same path.
        home: a folder in which modules are looked for too; empty for none.
        found: whether the result of a key is there.
        patience: seconds that a text may take before an idle worker is given it too: a machine that hangs must not hold
            up the rest. Whichever is finished first counts.
        until: time of the monotonic clock after which none is begun.
    """

    run: Callable[[str, str, str], tuple[str, str, str]]
    out: Path
    home: str = ""
    found: Callable[[Path], bool] = store.is_complete
    patience: float = math.inf
    until: float = math.inf


def run_cells(
    client: Client,
    cells: Mapping[str, str],
    out: Path,
    heard: Heard,
    check_stopped: Callable[[], None] = lambda: None,
    *,
    home: str = "",
) -> None:
    """Run cells on the workers of a client.

    Args:
        client: connected to a scheduler.
        cells: stored spec as JSON by key.
        out: the folder that holds the results; workers must see it under the same path.
        heard: called as each cell ends, with key, outcome, error and traceback.
        check_stopped: called every second or so; what it raises ends the run.
        home: as `home_of` the cell function.

    Raises:
        ConnectionError: if the scheduler is lost.
        ValueError: if a worker would run several cells at once.
    """
    for outcome in run_texts(client, cells, Task(run_cell, out, home), check_stopped):
        heard(*outcome)


def run_texts(
    client: Client, texts: Mapping[str, str], task: Task, check_stopped: Callable[[], None] = lambda: None
) -> Iterator[Outcome]:
    """Run texts on the workers of a client, never more at once than there are workers; yield each as it ends.

    Args:
        client: connected to a scheduler.
        texts: what workers are given, by key.
        task: what they do with it.
        check_stopped: called every second or so; what it raises ends the run.

    Raises:
        ConnectionError: if the scheduler is lost.
        ValueError: if a worker would run several texts at once.
    """
    left = collections.deque(texts.items())
    running = _Running(client, task)
    patience = time.monotonic() + NOBODY_AFTER
    try:
        while left or running.since:
            check_stopped()
            if time.monotonic() > task.until:
                left.clear()
            if time.monotonic() > patience:
                patience = math.inf
                if not running.since:
                    _log.warning(
                        "no worker has joined the scheduler yet; if none is in a queue, look at a worker's log"
                    )
            # The window stays on this side, since an outside scheduler may queue several texts on one worker; and
            # whoever is queued on a worker is blamed when it dies.
            idle = _slots(client) - len(running.keys)
            for _ in range(min(idle, len(left))):
                running.submit(*left.popleft())
            if idle > 0 and not left and (late := running.late()):
                running.submit(late, texts[late])
            yield from running.ended()
    finally:
        running.cancel()


class _Running:
    """The texts that run now.

    Attributes:
        keys: by future.
        since: when each key was first given out.
    """

    def __init__(self, client: Client, task: Task) -> None:
        self.client, self.task = client, task
        self.keys: dict[Future, str] = {}
        self.since: dict[str, float] = {}
        self._longest = 0.0
        self._ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        # Another run on the same scheduler may be about the same key for another folder.
        self._mark = hashlib.sha256(str(task.out).encode()).hexdigest()[:8]

    def submit(self, key: str, text: str) -> None:
        """Give a text to a worker, or to another one."""
        again = "-again" if key in self.since else ""
        run, out, home = self.task.run, str(self.task.out), self.task.home
        future = self.client.submit(run, text, out, home, key=f"cell-{key}-{self._mark}{again}", pure=False)
        self.keys[future] = key
        self.since.setdefault(key, time.monotonic())
        future.add_done_callback(self._ended.put)

    def late(self) -> str | None:
        """Return the key that has run longest, if that is longer than patience and all that have ended, and once."""
        twice = collections.Counter(self.keys.values())
        once = [key for key in self.since if twice[key] == 1]
        key = min(once, key=self.since.__getitem__, default=None)
        allowed = max(self.task.patience, 2 * self._longest)
        return key if key is not None and time.monotonic() - self.since[key] > allowed else None

    def ended(self) -> Iterator[Outcome]:
        """Yield what ends within a second; a bounded wait, since workers may join meanwhile."""
        with contextlib.suppress(queue.Empty):
            future = self._ended.get(timeout=1.0)
            key = self.keys.pop(future, None)
            if key is None or key not in self.since:  # its twin was faster
                return
            # The folder is asked first: a worker that dies after it has written takes only the word with it, and
            # asking the engine for a lost word would run the text again.
            found = self.task.found(self.task.out / key)
            outcome = ("done", "", "") if found else _outcome(future)
            if outcome[0] == "failed" and key in self.keys.values():  # its twin may do better
                return
            self._longest = max(self._longest, time.monotonic() - self.since.pop(key))
            yield (key, *outcome)

    def cancel(self) -> None:
        """Give back what still runs: twins that were slower, or all after an error."""
        with contextlib.suppress(Exception):  # the scheduler may be lost
            self.client.cancel(list(self.keys), force=True)


def _slots(client: Client) -> int:
    """Return how many texts may run at once: one per worker."""
    try:
        threads = client.nthreads()
    except (OSError, TimeoutError) as error:
        raise _lost() from error
    several = [address for address, count in threads.items() if count > 1]
    if several:
        raise WrongValue(
            f"worker {several[0]} has {threads[several[0]]} threads and would run as many cells at once in one "
            "process; start workers with --nthreads 1, several per machine"
        )
    return len(threads)


def _outcome(future: Future) -> tuple[str, str, str]:
    if future.status == "finished":
        word, error, traceback = future.result()
        return word, error, traceback
    if future.status == "error":
        error = future.exception()
        return "failed", DIED if isinstance(error, KilledWorker) else f"{type(error).__name__}: {error}", str(error)
    raise _lost()


def _lost() -> ConnectionError:
    return ConnectionError("the scheduler was lost; start it again and run the same sweep: finished cells are kept")
