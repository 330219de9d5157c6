"""One at a time: whoever works in a folder, or on a file, holds its lock, and clears what a killed worker left there.

The lock is the system's (`flock`), so that it goes with its process, however that ends. Its file lies in a folder as
`.lock`, and beside a result or a page called NAME as `.NAME.lock`; it is taken away at the end.
"""

import functools
import inspect
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from filelock import FileLock, Timeout

from skilloc.mistakes import Mistake, WrongValue
from skilloc.store.aside import aside_of, is_ours, result_of

P = ParamSpec("P")
R = TypeVar("R")

LOCK = ".lock"

LONGEST = 255 - 2 * len("..0123456789abcdef.aside")
"""Bytes of a file's name that leave room for the name that it is written under, and for a part of it that is written
aside once more; file systems have 255."""

ROOM = 2**20
"""Bytes that must be left on a disk before anything is begun."""


class AtWork(Mistake, BlockingIOError):
    """Another process works there."""


@contextmanager
def at_work(place: Path | str, *, inside: bool = False, room: int = ROOM) -> Iterator[None]:
    """Hold a folder, a result or a file while it is being made; what a killed process left of it is cleared first.

    The same thread may hold it several times.

    Args:
        place: what will be written.
        inside: whether it is a folder that is filled by and by; else it appears whole, as a file or a result does.
        room: bytes that will be needed.

    Raises:
        AtWork: if another process, or another thread, holds it; a `BlockingIOError` that is the user's to mend.
        ValueError: if nothing can be written there: a name is too long, a file stands where a folder is needed, the
            folder may not be written to, or its disk is full.
    """
    place = Path(place)
    check_place(place, inside=inside, room=room)
    home = place if inside else place.parent
    made = [path for path in (home, *home.parents) if not path.exists()] if inside else []
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError:
        _take_away(made)
        raise
    file = home.resolve() / (LOCK if inside else f".{place.name}{LOCK}")
    lock = FileLock(file, timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise AtWork(
            f'"{place}": another command is at work there{_who(file)}; wait until it has ended, and the same command '
            "reads what it found, or goes on"
        ) from None
    try:
        if lock.lock_counter == 1:
            file.write_text(f"process {os.getpid()} on {socket.gethostname()}")
            _clear(home, None if inside else place.name)
        yield
    finally:
        if lock.lock_counter == 1:
            file.unlink(missing_ok=True)
            _take_away(made)  # where all was refused before anything was written
        lock.release()


@contextmanager
def at_work_if_free(place: Path | str, *, inside: bool = False) -> Iterator[None]:
    """Hold a place as `at_work` does, and so clear it; or go on without, where another holds it or none can be held."""
    with ExitStack() as stack:
        with suppress(Mistake, OSError):
            stack.enter_context(at_work(place, inside=inside))
        yield


def working(name: str, *, inside: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function hold the place that it is given as one of its arguments (`at_work`).

    Args:
        name: of the argument.
        inside: as `at_work`.
    """

    def held(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def run(*args: P.args, **settings: P.kwargs) -> R:
            with at_work(signature.bind(*args, **settings).arguments[name], inside=inside):
                return function(*args, **settings)

        return run

    return held


def check_place(place: Path | str, *, inside: bool = False, room: int = ROOM) -> None:
    """Refuse a place that cannot be written to, as far as can be known without writing.

    Args:
        place: what is to be written.
        inside: whether it is a folder.
        room: bytes that will be needed.

    Raises:
        ValueError: naming the place, and why.
    """
    place = Path(place)
    try:
        os.fsencode(place)
    except UnicodeError:
        raise WrongValue(f"`out` is {str(place)!a}, which no file can be called; choose another name") from None
    if "\0" in str(place):
        raise WrongValue(f"`out` is {str(place)!a}, which no file can be called; choose another name")
    for part in place.parts:
        if len(os.fsencode(part)) > LONGEST:
            raise WrongValue(
                f'`out` has the name "{part[:40]}..." of {len(os.fsencode(part))} bytes; use at most {LONGEST}'
            )
    if inside and place.exists() and not place.is_dir():
        raise WrongValue(f'"{place}" is a file; choose a folder for `out`')
    if not inside and place.is_symlink():
        raise WrongValue(f'"{place}" is a symbolic link, which would be replaced; name the file that it leads to')
    home = place if inside else place.parent
    there = next(path for path in (home, *home.absolute().parents) if path.exists())
    if not there.is_dir():
        raise WrongValue(f'"{there}" is a file, so that nothing can lie in it; choose another place than "{place}"')
    if not os.access(there, os.W_OK | os.X_OK):
        raise WrongValue(f'"{there}" is a folder that you may not write to; choose another place than "{place}"')
    if (free := shutil.disk_usage(there).free) < room:
        raise WrongValue(
            f'"{place}" needs {room / 1e6:,.0f} MB, but its disk has {free / 1e6:,.0f} MB left; make room, or choose '
            "another disk"
        )


def remove(path: Path) -> None:
    """Take a result of our own away: at once from its name, then from the disk; a kill in between is cleared later."""
    aside = aside_of(path)
    with suppress(FileNotFoundError):
        os.replace(path, aside)
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink()


def _who(file: Path) -> str:
    try:
        return f" ({file.read_text()})"
    except OSError:  # it has just ended
        return ""


def _take_away(folders: Sequence[Path]) -> None:
    """Remove folders that are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _clear(home: Path, name: str | None, *, ours: bool = False) -> None:
    """Remove what killed writers left: of one name, or of all that no other lock is about.

    A folder whose files are somebody else's is left alone, unless it lies in one of ours.
    """
    try:
        whose = True if ours or name is not None else is_ours(home)
        there = [] if whose is False else list(home.iterdir())
    except OSError:  # not to be read, and so not ours
        return
    for path in there:
        if path.is_symlink():
            continue
        if result := result_of(path.name):
            held = (home / f".{result}{LOCK}").exists()
            if result == name or (name is None and not held):
                # First away from its name: who still writes it without this lock must not put a half into place.
                with suppress(OSError):
                    gone = path.replace(aside_of(home / result))
                    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        elif name is None and path.is_dir() and not (path / LOCK).exists():
            _clear(path, None, ours=bool(whose))
