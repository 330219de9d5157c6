"""Clients of Dask: of workers that are started here, one per GPU, or of a scheduler that someone else started."""

import contextlib
import json
import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import dask
from distributed import Client, Nanny, Scheduler, Security, SpecCluster

from skilloc.sweep.pool import Pool

DEATHS = 1
"""How many times a local worker may die in a cell before the cell is failed: one death may be bad luck."""

ANSWER_WITHIN = 20.0
"""Seconds that an outside scheduler has to answer."""


def client_of(pool: Pool) -> contextlib.AbstractContextManager[Client]:
    """Return a client of the workers of a pool; workers that it starts end with it.

    Raises:
        FileNotFoundError, ConnectionError: as `outside_client`.
    """
    if pool.scheduler is None:
        return local_client(pool.processes, gpus=pool.gpus, threads=pool.each)
    return outside_client(pool.scheduler, tls=pool.tls)


def _largest_kept() -> int:
    """Return the bytes of the largest tensor whose memory glibc can keep: older versions ignore more than 32 MiB."""
    kind, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".") if part.isdecimal())
    return 2**30 if kind == "glibc" and numbers >= (2, 36) else 2**25


MEMORY = {"MALLOC_TRIM_THRESHOLD_": 2**30, "MALLOC_MMAP_THRESHOLD_": _largest_kept(), "MALLOC_ARENA_MAX": 1}
"""How a worker's memory is managed: what is freed is kept for the next tensor, up to so many bytes. Dask's own setting
gives it back to the system at once, and every tensor pays for its pages anew: up to twice the CPU time."""


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
        **{f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in MEMORY.items()},
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
