"""Where the cells of a sweep, or the items of one measurement, run."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skilloc.mistakes import WrongValue


@dataclass(frozen=True)
class Pool:
    """Where the cells of a sweep run: in this process, in workers on this machine, or behind a Dask scheduler.

    Attributes:
        workers: number of worker processes on this machine; 0 runs in this process.
        gpus: CUDA devices of this machine, one worker each, instead of `workers`.
        scheduler: address or scheduler file of a running Dask scheduler, instead of `workers`.
        threads: number of threads per cell; 0 takes this machine's cores divided by the workers. It is stored with
            each spec, because sums depend on it.
        tls: files `ca`, `cert` and `key` for the connection to `scheduler`.

    Raises:
        ValueError: if `workers`, `gpus` and `scheduler` do not go together, or a number is out of range.
    """

    workers: int = 0
    gpus: Sequence[int | str] = ()
    scheduler: str | Path | None = None
    threads: int = 1
    tls: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        workers, gpus, scheduler, tls = self.workers, self.gpus, self.scheduler, self.tls
        if workers < 0:
            raise WrongValue(f"`workers` is {workers}; use 0 for this process, or a number of worker processes")
        if (workers > 0) + (len(gpus) > 0) + (scheduler is not None) > 1:
            raise WrongValue(
                f"`workers` {workers}, `gpus` {tuple(gpus)} and `scheduler` {scheduler} exclude each other; pass one"
            )
        if len(set(gpus)) < len(gpus):
            raise WrongValue(f"`gpus` {tuple(gpus)} names a device twice; give each worker its own")
        if tls is not None and (scheduler is None or set(tls) != {"ca", "cert", "key"}):
            raise WrongValue(
                f"`tls` has {sorted(tls)}; pass the files `ca`, `cert` and `key`, together with a `scheduler`"
            )
        if self.threads < 0:
            raise WrongValue(f"`threads` is {self.threads}; use at least 1, or 0 for the cores divided by the workers")
        if self.threads == 0 and scheduler is not None:
            raise WrongValue("`threads` is 0, but the machines behind `scheduler` are not known here; pass a number")

    @property
    def processes(self) -> int:
        """Number of worker processes on this machine."""
        return len(self.gpus) or self.workers

    @property
    def elsewhere(self) -> bool:
        """Whether it is anything but this process."""
        return self.processes > 0 or self.scheduler is not None

    @property
    def each(self) -> int:
        """Number of threads of a cell."""
        return self.threads or max(1, _cores() // max(1, self.processes))


HERE = Pool()
"""In this process, a cell at a time."""


def _cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
