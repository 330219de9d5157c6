"""A Dask scheduler and workers that are started by hand, as the documentation says."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CELLS = Path(__file__).parent / "cells"
DASK = [sys.executable, "-m", "dask"]


@contextmanager
def started(folder: Path, workers: int = 2) -> Iterator[Path]:
    """Start a scheduler and workers, give the scheduler's file, and end them."""
    file = folder / "scheduler.json"
    path = os.pathsep.join([str(CELLS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    loopback = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)]
    worker = ["worker", "--nthreads", "1", "--memory-limit", "0", "--local-directory", str(folder)]
    # They leave by themselves when the tests are killed: the scheduler when nothing comes, the workers without it.
    worker += ["--death-timeout", "30"]

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*DASK, *arguments, *loopback], env=environment, stderr=subprocess.DEVNULL)

    processes = [start("scheduler", "--port", "0", "--idle-timeout", "1800")]
    wait_for(file.exists)
    processes += [start(*worker) for _ in range(workers)]
    try:
        yield file
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=20)


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until something is so."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
