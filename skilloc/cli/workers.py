"""Who measures: the options of every command whose work is spread over several."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from skilloc.cli.machine import Machine
from skilloc.mistakes import WORKERS, WrongValue, whole

if TYPE_CHECKING:
    from skilloc.sweep import Pool


@dataclass(frozen=True)
class Workers:
    """Who measures the items of one measurement; whoever it is, the result is the same, and another can go on."""

    workers: Annotated[int, arg(help_behavior_hint="")] = 0
    """threads of an exact sweep (default: one per core), or with `processes`, worker processes"""
    processes: bool = False
    """spread the work over processes of this machine, each of which opens the model; see docs/scale.md"""
    gpus: Annotated[tuple[str, ...], arg(metavar="N ...", help_behavior_hint="")] = ()
    """spread it over CUDA devices of this machine, such as 0 1, with one process each; with --device cuda"""
    scheduler: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """spread it over the workers of a running Dask scheduler: its address or its scheduler file"""
    tls: Annotated[tuple[Path, Path, Path] | None, arg(metavar="CA CERT KEY", help_behavior_hint="")] = None
    """files for a scheduler that uses TLS"""

    def chosen(self, machine: Machine, *, threads: bool = True) -> "int | Pool":
        """Return the number of threads, or the pool of workers.

        Args:
            machine: where the model runs.
            threads: whether threads can share the work; where they cannot, several workers must be processes.

        Raises:
            ValueError: if the options contradict each other.
        """
        whole("workers", self.workers, 0, WORKERS)
        gpus = devices_of(self.gpus)
        if not (self.processes or gpus or self.scheduler is not None or self.tls is not None):
            if not threads and self.workers > 1:
                raise WrongValue(
                    f"`workers` is {self.workers}, but threads cannot share this work; add --processes, or leave it out"
                )
            return (self.workers or cores()) if threads else 1
        from skilloc.sweep import Pool

        if gpus and machine.device.partition(":")[0] != "cuda":
            raise WrongValue(f"`gpus` is {' '.join(gpus)}, but `device` {machine.device}; add --device cuda")
        if machine.device_map is not None:
            raise WrongValue(
                f'`device_map` is "{machine.device_map}", which spreads one model over all devices; leave it out, or '
                "measure in this process"
            )
        if self.workers and not self.processes:
            raise WrongValue(
                f"`workers` is {self.workers}, beside `gpus` or `scheduler`, which say themselves how many there are; "
                "leave it out"
            )
        tls = None if self.tls is None else dict(zip(("ca", "cert", "key"), map(str, self.tls), strict=True))
        count = (self.workers or cores()) if self.processes else 0
        return Pool(count, gpus, self.scheduler, tls=tls)


def devices_of(given: tuple[str, ...]) -> tuple[str, ...]:
    """Return devices that were given apart, or with commas between them.

    Raises:
        ValueError: if one is neither a number nor what CUDA calls a card or a part of one.
    """
    names = tuple(name for one in given for name in one.split(","))
    for name in names:
        if not re.fullmatch(r"[0-9]+|(GPU|MIG)-[0-9A-Za-z/-]+", name):
            raise WrongValue(f'`gpus` has "{name}"; give numbers, such as 0,1, or names that begin with GPU- or MIG-')
    return names


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
