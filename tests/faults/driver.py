"""Runs a command in a forked child, and does to it what befalls commands: killed at the k-th change on disk, a disk
that fills, another that is at work in the same folder.

Children come from a server that has imported everything already, so that one starts in a fraction of a second. What a
child changes on disk under its folder is counted by an audit hook, just before it happens; that is where it is killed.
"""

import hashlib
import io
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["faults.warm"])
TESTS = Path(__file__).resolve().parents[1]

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")

TIMEOUT = 300
"""Seconds after which a child is given up."""


@dataclass(frozen=True)
class Ran:
    """What became of a command: its exit status (minus the signal that ended it), what it said, and, unless it was
    killed, each of its changes on disk, as the event and the path."""

    status: int
    out: str
    error: str
    changes: tuple[str, ...] = ()

    @property
    def traced(self) -> bool:
        return "Traceback (most recent call last)" in self.error


@dataclass(frozen=True)
class Fault:
    """What is done to a command: killed just before the k-th change on disk, counted from 1; no file above so many
    bytes."""

    kill_at: int | None = None
    largest_file: int | None = None


class Running:
    """A command that was started."""

    def __init__(self, home: Path, command: Sequence[str] | Callable[[], None], fault: Fault = Fault()) -> None:
        _start_server()
        self.reader, writer = SERVER.Pipe(duplex=False)
        self.process: BaseProcess = SERVER.Process(target=_child, args=(str(home), command, fault, writer), daemon=True)
        self.process.start()
        writer.close()

    def ended(self) -> Ran:
        said: tuple[str, str, tuple[str, ...]] = ("", "", ())
        try:
            if self.reader.poll(TIMEOUT):
                said = self.reader.recv()
        except EOFError:  # killed
            pass
        self.process.join(TIMEOUT)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"still running after {TIMEOUT} s; it had said {said}")
        return Ran(self.process.exitcode, *said)


def _start_server() -> None:
    """Start the server, unless it runs; it looks for what it imports where Python looks, not where pytest does."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent), *([before] if before else [])])
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def ran(home: Path, command: Sequence[str] | Callable[[], None], fault: Fault = Fault()) -> Ran:
    """Run a command line of skilloc, or a function, in a folder, to its end."""
    return Running(home, command, fault).ended()


def files(folder: Path) -> dict[str, str]:
    """Return what lies in a folder, hidden or not: the sha256 of each file by its path; "" for an empty folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.is_dir() and not any(path.iterdir()):
            found[path.relative_to(folder).as_posix() + "/"] = ""
    return found


def copied(ground: Path, home: Path) -> Path:
    """Return a copy of a folder, to be spoilt."""
    return Path(shutil.copytree(ground, home, symlinks=True))


def _child(home: str, command: Any, fault: Fault, writer: Any) -> None:
    os.setpgid(0, 0)
    os.chdir(home)
    out, error = io.StringIO(), io.StringIO()
    sys.stdout, sys.stderr = out, error
    status = 0
    if fault.largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.largest_file, resource.RLIM_INFINITY))
    changes: list[str] = []
    sys.addaudithook(_noting(Path(home).resolve(), changes, fault.kill_at))
    try:
        if callable(command):
            command()
        else:
            from skilloc.cli import main

            main([str(arg) for arg in command])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    writer.send((out.getvalue(), error.getvalue(), tuple(changes)))
    writer.close()
    os._exit(status)


def _noting(home: Path, changes: list[str], kill_at: int | None) -> Callable[[str, tuple[Any, ...]], None]:
    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if not isinstance(flags, int) or not flags & WRITES:
                return
        elif event in CHANGES:
            path = args[1] if event in ("os.rename", "os.link", "os.symlink") else args[0]
            path = _joined(path, args[-1])
        else:
            return
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a descriptor
        where = os.path.abspath(os.fsdecode(path))
        if not (where + "/").startswith(f"{home}/"):
            return
        changes.append(f"{event} {os.path.relpath(where, home)}")
        if len(changes) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def _joined(path: Any, folder: Any) -> Any:
    """Return a path that may be relative to an open folder, as it is where a tree is removed, with that folder's."""
    if isinstance(folder, int) and folder >= 0 and isinstance(path, str | bytes):
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fsdecode(path))
    return path
