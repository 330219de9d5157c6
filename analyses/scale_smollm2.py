"""What do studies of SmolLM2 take: memory, in whole and for a bound, freed memory, and two processes one of which dies?

An answer would be: peaks of memory that stay under what a study was told, with weights in float32 and in bfloat16; the
CPU seconds of forward and backward where memory that was freed is given back at once, as Dask would have it, and where
it is kept, as workers that skilloc starts do; and an exact sweep of all heads over two processes, one of which is
killed with -9 on the way, that gives the bytes of two threads.

    python analyses/scale_smollm2.py memory freed heads

Minutes: some 25 of one core for `memory`, two for `freed`, eight for `heads`; `--quick` takes the embedded model and
few tokens, in two. Needs `skilloc fetch smollm2` without it. Prints a line of JSON for each.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import psutil

from skilloc.attribution import attribution_effects
from skilloc.experiment import Experiment
from skilloc.models.language import open_model
from skilloc.study.draws import subtasks_of
from skilloc.study.measure import measure
from skilloc.study.settings import Settings
from skilloc.sweep import Pool
from skilloc.sweep.clients import MEMORY

EXACT, ESTIMATED = "two units, exactly", "all units, estimated"


@dataclass(frozen=True)
class Scale:
    """Which model, on how much text."""

    model: str = "smollm2"
    only: tuple[str, ...] = ("L15N0", "L28N0")
    """units that are measured exactly"""
    length: int = 512
    """tokens of a row, where memory is measured"""
    rows: tuple[int, ...] = (4, 32)
    bound: float = 7.0
    """gigabytes that an estimate of all units is told to stay within"""
    passes: int = 4
    """of forward and backward"""
    short: int = 32
    """tokens of a row, of the sweep of all heads"""


SMOLLM2 = Scale()
QUICK = Scale("embedded", ("L1N0", "L3N0"), 64, (4, 8), 1.5, 1, 16)


def memory_of(scale: Scale, name: str, rows: int, bound: float | None, weights: str | None = None) -> dict[str, Any]:
    """Return the peak of memory of a study in a process of its own, in 10^9 bytes, and its CPU seconds.

    Args:
        scale: the model and its text.
        name: which study.
        rows: of Python.
        bound: what the study is told to stay within; nothing if not given.
        weights: 16-bit type that they are kept in; float32 if not given.
    """
    line = ["effects", scale.model, "--subtask", "python", "--length", str(scale.length), "--folds", "4"]
    line += ["--sequences", str(rows), "--workers", "1"]
    line += [] if weights is None else ["--weights", weights]
    line += [] if bound is None else ["--memory", str(bound)]
    estimated = ["--method", "attribution", "--curvature", "1", "--sample", "0", "--top", "0"]
    line += ["--only", *scale.only] if name == EXACT else estimated
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "skilloc", *line, "--out", str(Path(folder) / "study")]
        gigabytes, seconds = used_by(command, {})
    return {
        "study": name,
        "rows": rows,
        "bound": bound,
        "weights": weights,
        "gigabytes": gigabytes,
        "cpu_seconds": seconds,
    }


def used_by(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Return the peak of memory of a command with one thread, in 10^9 bytes, and its CPU seconds.

    Raises:
        ChildProcessError: if it fails.
    """
    others = {name: value for name, value in os.environ.items() if name not in MEMORY}
    process = subprocess.Popen(
        command, env={**others, "OMP_NUM_THREADS": "1", **environment}, stdout=subprocess.DEVNULL, stderr=sys.stderr
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ChildProcessError(f"{' '.join(command)} failed ({process.returncode})")
    return used.ru_maxrss * 1024 / 1e9, used.ru_utime + used.ru_stime


def freed(scale: Scale) -> dict[str, dict[str, float]]:
    """Return the CPU seconds of forward and backward, and the peak of memory, by how freed memory is managed."""
    by_dask = dask.config.get("distributed.nanny.pre-spawn-environ")
    # docs/scale.md tells workers of other versions of glibc too.
    told = {**MEMORY, "MALLOC_MMAP_THRESHOLD_": 2**25}
    ways: dict[str, Mapping[str, Any]] = {
        "as Dask has it": {name: by_dask[name] for name in ("MALLOC_TRIM_THRESHOLD_",)},
        "workers of skilloc": MEMORY,
        "workers of your own": told,
        "as the system has it": {},
    }
    found = {}
    for way, settings in ways.items():
        environment = {name: str(value) for name, value in settings.items()}
        ends = []
        for passes in (0, scale.passes):
            command = [sys.executable, __file__, "passes", *(["--quick"] if scale == QUICK else [])]
            ends.append(used_by([*command, "--passes", str(passes)], environment))
        found[way] = {"cpu_seconds": ends[1][1] - ends[0][1], "gigabytes": ends[1][0]}
    return found


def go_through(scale: Scale, passes: int) -> None:
    """Go forward and backward, so many times, on four rows of half the length."""
    opened = open_model(scale.model)
    subtasks = subtasks_of(opened, {"python": "python"}, length=scale.length // 2)
    for _ in range(passes):
        attribution_effects(Experiment(opened.model, subtasks, count=4, folds=4), curvature=0)


def heads_of(scale: Scale) -> dict[str, Any]:
    """Return the seconds of a sweep of all heads by two threads, and by two processes one of which is killed."""
    opened = open_model(scale.model)
    subtasks = subtasks_of(opened, {"python": "python"}, length=scale.short)
    settings = Settings(units=("head",), sequences=4, length=scale.short, folds=4)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as own:
        folders = {"two threads": Path(own) / "threads", "two processes": Path(own) / "processes"}
        for who, folder in folders.items():
            processes = who == "two processes"
            killer = threading.Thread(target=kill_one, args=(lambda at=folder: len(list(at.glob("items/[!.]*"))) > 2,))
            began = time.perf_counter()
            if processes:
                killer.start()
            study = measure(opened, subtasks, settings, folder, workers=Pool(workers=2) if processes else 2)
            found[who] = time.perf_counter() - began
            if processes:
                killer.join()
        found["heads"] = len(study.effects.units)
        one, other = (list(files_in(folder)) for folder in folders.values())
        found["same_bytes"], found["files"] = one == other, len(one)
    return found


def kill_one(ready: Callable[[], bool]) -> None:
    """Kill the child that is most at work, with SIGKILL, once something is so."""
    while not ready():
        time.sleep(0.05)
    before = {child: child.cpu_times().user for child in psutil.Process().children(recursive=True)}
    time.sleep(0.2)
    max(before, key=lambda child: child.cpu_times().user - before[child]).send_signal(signal.SIGKILL)


def files_in(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the path and the bytes of each file of a folder, in order."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()


def main() -> None:
    """Measure what is asked for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="+", choices=["memory", "freed", "heads", "passes"])
    parser.add_argument("--quick", action="store_true", help="the embedded model, on little text")
    parser.add_argument("--passes", type=int, default=1, help="of `passes`, which nothing is printed of")
    given = parser.parse_args()
    scale = QUICK if given.quick else SMOLLM2
    if "memory" in given.what:
        for name, bound in ((EXACT, None), (ESTIMATED, scale.bound), (ESTIMATED, None)):
            for rows in scale.rows:
                print(json.dumps(memory_of(scale, name, rows, bound)), flush=True)
        print(json.dumps(memory_of(scale, EXACT, scale.rows[0], None, "bfloat16")), flush=True)
    if "freed" in given.what:
        print(json.dumps({"freed": freed(scale)}), flush=True)
    if "heads" in given.what:
        print(json.dumps({"heads": heads_of(scale)}), flush=True)
    if "passes" in given.what:
        go_through(scale, given.passes)


if __name__ == "__main__":
    main()
