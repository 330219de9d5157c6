"""Items: pieces of one measurement, each kept by itself, so that it can be stopped, and gone on with elsewhere.

An item is named by all that its numbers depend on, and not by who measures it. So threads of this process, processes
of this machine and workers of a cluster leave the same folders, and each goes on with what another has left.
"""

import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from skilloc import store
from skilloc.store.progress import counter, duration, said

LONG = 60.0
"""Seconds of work from which on a forecast is said."""


@dataclass(frozen=True)
class Item:
    """A piece of work.

    Attributes:
        spec: what names its result: the whole measurement, and which part of it. JSON only.
        cost: of it, in whatever unit all items of a measurement share.
        way: how it is measured, which follows from the measurement, and which one who does not find it out anew is
            told: a route of `ablation.routes`.
    """

    spec: Mapping[str, Any]
    cost: float = 1.0
    way: str = ""

    @cached_property
    def key(self) -> str:
        """The name of its result."""
        return store.key(self.spec)


Measure = Callable[[Item], np.ndarray]
"""From an item to what is found."""

Elsewhere = Callable[[Sequence[Item], float], Iterator[Item]]
"""Has items measured and kept by others, begins none after a time of the monotonic clock, and yields each as it is
there."""


@dataclass(frozen=True)
class Hands:
    """Who measures items, and where they are kept.

    Attributes:
        workers: number of threads; or who does it elsewhere, and keeps what is found in `resume`.
        resume: a folder of finished items, to which new ones are added.
        deadline: begin no item after this time of the monotonic clock.
        axes: of what is found of an item.
    """

    workers: int | Elsewhere = 1
    resume: Path | None = None
    deadline: float = math.inf
    axes: tuple[str, ...] = ()


HERE = Hands()
"""One thread of this process, which keeps nothing."""


class Job(NamedTuple):
    """What is done with items.

    Attributes:
        what: it is called, for the progress bar.
        hired: gives each thread what measures its items.
        pace: cost that one thread does in a second, as far as it is known.
        memory: bytes that each process needs, likewise.
    """

    what: str
    hired: Callable[[], Measure]
    pace: float | None = None
    memory: float | None = None


def measured_items(items: Sequence[Item], job: Job, hands: Hands) -> Iterator[tuple[Item, np.ndarray]]:
    """Yield each item with what is found, finished ones first; say beforehand how long it takes, if that is long.

    Args:
        items: the work.
        job: what is done.
        hands: who does it, and where finished items are kept.
    """
    left = []
    for item in items:
        found = None if hands.resume is None else recalled(hands.resume, item)
        if found is None:
            left.append(item)
        else:
            yield item, found
    if not left:
        return
    total, more = sum(item.cost for item in items), sum(item.cost for item in left)
    if job.pace is not None and job.memory is not None and more / job.pace > LONG:
        said(
            f"{job.what}: {len(left)} items, about {duration(more / job.pace)} of one core or device; "
            f"each process needs some {job.memory / 1e9:.1f} GB"
        )
    with counter(total, job.what, initial=total - more) as bar:
        for item, found in _done(left, job.hired, hands):
            bar.update(item.cost)
            if found is not None:
                yield item, found


def _done(
    items: Sequence[Item], hired: Callable[[], Measure], hands: Hands
) -> Iterator[tuple[Item, np.ndarray | None]]:
    if not isinstance(hands.workers, int):
        assert hands.resume is not None
        yield from ((item, recalled(hands.resume, item)) for item in hands.workers(items, hands.deadline))
        return
    own = threading.local()

    def measure(item: Item) -> np.ndarray | None:
        if time.monotonic() > hands.deadline:
            return None
        if not hasattr(own, "measure"):
            torch.set_num_threads(1)
            own.measure = hired()
        found: np.ndarray = own.measure(item)
        if hands.resume is not None:
            keep(hands.resume, item, found, hands.axes)
        return found

    yield from _spread(measure, items, hands.workers)


def _spread(
    measure: Callable[[Item], np.ndarray | None], items: Sequence[Item], workers: int
) -> Iterator[tuple[Item, np.ndarray | None]]:
    """Yield each item with its measurement, as they are finished."""
    if workers <= 1:
        yield from ((item, measure(item)) for item in items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: dict[Future[np.ndarray | None], Item] = {pool.submit(measure, item): item for item in items}
        try:
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield waiting.pop(future), future.result()
        finally:
            # After an error or Ctrl-C, begin nothing more.
            for future in waiting:
                future.cancel()


def keep(resume: Path, item: Item, found: np.ndarray, axes: tuple[str, ...]) -> None:
    """Write what was found of an item."""
    store.write(resume / item.key, item.spec, {}, {"effects": store.Labelled(found, axes, {})})


def recalled(resume: Path, item: Item) -> np.ndarray | None:
    """Return what was found of an item; one that was cut or altered is taken away, to be measured again."""
    folder = resume / item.key
    if not folder.exists():
        return None
    try:
        return store.read(folder).arrays["effects"].values
    except ValueError:
        shutil.rmtree(folder)
        return None
