"""The items of one measurement on workers.

A worker is told what to call, what all items share, and which item is next. It makes what they share once, such as the
open model, and writes what it finds itself; the word that it is done is all that comes back.
"""

import json
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skilloc import store
from skilloc.mistakes import Mistake
from skilloc.sweep.cells import keep_threads, load, threads
from skilloc.sweep.ledger import VISIBLE_WITHIN
from skilloc.sweep.pool import Pool
from skilloc.sweep.stopping import stoppable

if TYPE_CHECKING:
    from distributed import Client

PATIENCE = 180.0
"""Three times what an item is cut to take at most."""


class Unfinished(Mistake, RuntimeError):
    """Some items of a measurement could not be done; the others are kept."""


@dataclass(frozen=True)
class Order:
    """What is the same for all items of one measurement.

    Attributes:
        function: import path `module:function` of what a worker calls, with `shared`, an item, and `out`.
        shared: what all items share, as JSON.
        out: the folder that holds what is found; workers must see it under the same path.
        home: a folder in which workers look for modules too.
        found: whether what is found of a key is there.
        patience: seconds after which an item is given to an idle worker as well.
    """

    function: str
    shared: str
    out: Path
    home: str = ""
    found: Callable[[Path], bool] = store.is_complete
    patience: float = PATIENCE


Doing = Callable[..., Iterator[str]]
"""As `done_items`, by workers that are there already."""


@contextmanager
def hired(pool: Pool) -> Iterator[Doing]:
    """Have workers at hand for items of several orders, one after the other; those that are started here end with it.

    Args:
        pool: who they are: anything but this process.

    Raises:
        ConnectionError: if the scheduler does not answer.
    """
    # Late: what measures in its own process needs no engine.
    from skilloc.sweep.clients import client_of

    with stoppable() as check_stopped, client_of(pool) as client:
        yield partial(_done, client, check_stopped)


def done_items(
    items: Mapping[str, Mapping[str, Any]], order: Order, pool: Pool, *, until: float = math.inf
) -> Iterator[str]:
    """Have items done by workers, and yield the key of each as what was found lies in its place.

    Args:
        items: by key, JSON only.
        order: what is done with them.
        pool: who does it: anything but this process.
        until: begin no item after this time of the monotonic clock.

    Raises:
        Unfinished: if an item raised, at once; or, after all others, if workers died in one.
        ConnectionError: if the scheduler does not answer, or is lost on the way.
    """
    with hired(pool) as doing:
        yield from doing(items, order, until=until)


def _done(
    client: "Client",
    check_stopped: Callable[[], None],
    items: Mapping[str, Mapping[str, Any]],
    order: Order,
    *,
    until: float = math.inf,
) -> Iterator[str]:
    from skilloc.sweep.engine import DIED, Task, run_texts

    texts = {key: json.dumps([order.function, order.shared, item]) for key, item in items.items()}
    task = Task(run_item, order.out, order.home, order.found, order.patience, until)
    died = []
    for key, word, error, trace in run_texts(client, texts, task, check_stopped):
        if word == "done":
            _wait_for(order, key)
            yield key
        elif error == DIED:
            died.append(key)
        else:
            raise Unfinished(
                f"an item could not be measured on a worker ({error}); the others are kept in {order.out}, and the "
                "same command goes on"
            ) from RuntimeError(trace)
    if died:
        raise Unfinished(
            f"{len(died)} of {len(items)} items were not finished: {DIED}; the others are kept in {order.out}: run the "
            "same command with fewer workers or more memory"
        )


def run_item(text: str, out: str, home: str) -> tuple[str, str, str]:
    """Do one item; only strings go in and come out, so that any engine can carry it.

    Args:
        text: import path, what all items share, and the item, as JSON.
        out: the folder that holds what is found.
        home: a folder in which modules are looked for too.

    Returns:
        "done" or "failed"; the error; the traceback.
    """
    name, shared, item = json.loads(text)
    try:
        # Where the folder has gone, the measurement has ended: a machine that hung wakes up too late.
        if Path(out).is_dir():
            with threads(1):
                function = load(name, home)
                keep_threads(1)
                function(shared, item, Path(out))
    except (Exception, SystemExit) as error:
        return "failed", f"{type(error).__name__}: {error}", traceback.format_exc()
    return "done", "", ""


def _wait_for(order: Order, key: str) -> None:
    until = time.monotonic() + VISIBLE_WITHIN
    while not order.found(order.out / key):
        if time.monotonic() > until:
            raise Unfinished(
                f"a worker has written {order.out / key}, which is not to be seen here; put `out` on a file system "
                "that all workers share"
            )
        time.sleep(0.1)
