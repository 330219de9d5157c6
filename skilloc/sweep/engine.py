"""Cells on Dask workers: started here, one per GPU, or anywhere a Dask scheduler is.

The engine carries strings only. Every cell writes its own result, so a lost worker, scheduler or driver loses only
the cells that were running.
"""

import collections
import contextlib
import hashlib
import json
import logging
import math
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import dask
from distributed import Client, Future, KilledWorker, Nanny, Scheduler, Security, SpecCluster

from skilloc import store
from skilloc.mistakes import WrongValue
from skilloc.sweep.cells import run_cell

DEATHS = 1
"""How many times a local worker may die in a cell before the cell is failed: one death may be bad luck."""

DIED = (
    "the worker process died while it ran this cell, more than once: out of memory, a crash in native code, or killed"
)

ANSWER_WITHIN = 20.0
"""Seconds that an outside scheduler has to answer."""

NOBODY_AFTER = 60.0
"""Seconds without any worker after which that is said."""

_log = logging.getLogger(__name__)

Heard = Callable[[str, str, str, str], None]


@contextlib.contextmanager
def local_client(workers: int, *, gpus: Sequence[int | str] = (), threads: int = 1) -> Iterator[Client]:
    """Start workers on this machine, reachable from this machine only, and stop them at the end.

    They use TLS if Dask's own configuration has the files for it, which keeps out other users of this machine too.

    Args:
        workers: number of worker processes; each runs one cell at a time.
        gpus: one CUDA device per worker, by number or name; none by default.
        threads: number of threads of each worker.
    """
    security = Security()
    if security.get_listen_args("scheduler")["ssl_context"] is None:
        security, protocol = Security(require_encryption=False), "tcp://"
    else:
        protocol = "tls://"
    here = {"host": "127.0.0.1", "protocol": protocol, "security": security, "dashboard_address": "127.0.0.1:0"}
    nannies = {}
    for place in range(workers):
        environment = {"OMP_NUM_THREADS": str(threads)}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(gpus[place])
        # No memory limit: with one, a nanny kills a worker near it, and the error tells nobody why.
        options = here | {"nthreads": 1, "memory_limit": 0, "env": environment, "silence_logs": logging.CRITICAL}
        nannies[place] = {"cls": Nanny, "options": options}
    settings = {
        # A cell that is only queued on a worker must not be blamed when the running one kills it.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.allowed-failures": DEATHS,
    }
    scheduler = {"cls": Scheduler, "options": here | {"port": 0, "dashboard": False}}
    with (
        dask.config.set(settings),
        SpecCluster(workers=nannies, scheduler=scheduler, security=security, silence_logs=logging.CRITICAL) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@contextlib.contextmanager
def outside_client(scheduler: str | Path, *, tls: Mapping[str, str] | None = None) -> Iterator[Client]:
    """Connect to a scheduler that someone else started.

    Args:
        scheduler: its address, such as `tcp://10.0.0.5:8786`, or its scheduler file.
        tls: files `ca`, `cert` and `key` for an encrypted connection; by default what Dask's own configuration says.

    Raises:
        FileNotFoundError: if a scheduler file is meant that is not there.
        ConnectionError: if nobody answers, or only one side is set up for TLS.
    """
    address = _address(scheduler)
    if tls is None:
        security = Security()
    else:
        files = {"tls_ca_file": tls["ca"], "tls_client_cert": tls["cert"], "tls_client_key": tls["key"]}
        security = Security(require_encryption=True, **files)
    encrypted = security.get_connection_args("client")["ssl_context"] is not None
    if address.startswith("tls://") and not encrypted:
        raise ConnectionError(f"`scheduler` {address} uses TLS; pass the files `ca`, `cert` and `key` as `tls`")
    if not address.startswith("tls://") and tls is not None:
        raise ConnectionError(f"`scheduler` {address} does not use TLS; start it with TLS files, or leave `tls` out")
    try:
        client = Client(address, security=security, set_as_default=False, timeout=ANSWER_WITHIN)
    except OSError as error:
        raise ConnectionError(
            f"`scheduler` {address} does not answer ({error}); check that it runs, that this machine reaches it, and "
            "that its certificates are from the same authority if it uses TLS"
        ) from error
    with client:
        yield client


def _address(scheduler: str | Path) -> str:
    if "://" in str(scheduler):
        return str(scheduler)
    try:
        return str(json.loads(Path(scheduler).read_text())["address"])
    except FileNotFoundError:
        raise FileNotFoundError(
            f"`scheduler` {scheduler} is not a file; start `dask scheduler --scheduler-file {scheduler}` first, or "
            "pass an address such as tcp://127.0.0.1:8786"
        ) from None
    except (ValueError, LookupError) as error:
        raise ConnectionError(
            f"`scheduler` {scheduler} is not a scheduler file ({error}); wait until the scheduler has written it, or "
            "pass an address such as tcp://127.0.0.1:8786"
        ) from error


def run_cells(
    client: Client,
    cells: Mapping[str, str],
    out: Path,
    heard: Heard,
    check_stopped: Callable[[], None] = lambda: None,
    *,
    home: str = "",
) -> None:
    """Run cells on the workers of a client, never more at once than there are workers.

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
    ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
    left = collections.deque(cells.items())
    running: dict[Future, str] = {}
    # Another sweep on the same scheduler may run the same cell for another folder.
    mark = hashlib.sha256(str(out).encode()).hexdigest()[:8]
    patience = time.monotonic() + NOBODY_AFTER
    while left or running:
        check_stopped()
        if time.monotonic() > patience:
            patience = math.inf
            if not running:
                _log.warning("no worker has joined the scheduler yet; if none is in a queue, look at a worker's log")
        # The window stays on this side, since an outside scheduler may queue several cells on one worker; and whoever
        # is queued on a worker is blamed when it dies.
        while left and len(running) < _slots(client):
            key, text = left.popleft()
            future = client.submit(run_cell, text, str(out), home, key=f"cell-{key}-{mark}", pure=False)
            running[future] = key
            future.add_done_callback(ended.put)
        # A bounded wait, since workers may join meanwhile.
        with contextlib.suppress(queue.Empty):
            future = ended.get(timeout=1.0)
            key = running.pop(future)
            # The folder is asked first: a worker that dies after it has written takes only the word with it, and
            # asking the engine for a lost word would run the cell again.
            heard(key, *(("done", "", "") if store.is_complete(out / key) else _outcome(future)))


def _slots(client: Client) -> int:
    """Return how many cells may run at once: one per worker."""
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
