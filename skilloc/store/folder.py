"""One result folder: written aside and renamed into place, verified when read."""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from skilloc.store.labels import Labelled, from_bytes, to_bytes
from skilloc.store.plain import canonical, dumps, plain

FORMAT = 1
"""Version of the folder format that this package writes and reads."""

DAY = 24 * 60 * 60
"""Seconds."""

SPEC, METRICS, TENSORS, MANIFEST = "spec.json", "metrics.json", "tensors.safetensors", "manifest.json"

_ASIDE = re.compile(r"\..+\.[0-9a-f]{16}\.aside")
_CURE = "delete the folder and make the result again"


class Result(NamedTuple):
    """What a result folder holds."""

    spec: dict[str, Any]
    metrics: dict[str, Any]
    arrays: dict[str, Labelled]


def write(
    folder: Path, spec: Mapping[str, Any], metrics: Mapping[str, Any], arrays: Mapping[str, Labelled] | None = None
) -> None:
    """Write a result folder, whole or not at all.

    The files are written and synced in a hidden sibling folder, which one rename then puts into place. Of two writers
    with the same spec the first wins and the second returns quietly.

    Args:
        folder: where the result will lie; its parents are made.
        spec: what was asked.
        metrics: plain numbers, strings, lists and mappings; a number that is not finite is stored as null.
        arrays: arrays with their axis names; none by default.

    Raises:
        TypeError: if the spec, the metrics or an array cannot be stored; the message names it.
        ValueError: if labels do not fit their array, or `folder` holds something else already.
        OSError: if the disk is full or the folder cannot be written; nothing is left behind.
    """
    folder = Path(folder)
    files = {
        SPEC: canonical(spec).encode(),
        METRICS: dumps(plain(metrics, "metrics", finite=False)).encode(),
        TENSORS: to_bytes(arrays or {}),
    }
    entries = {name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in files.items()}
    files[MANIFEST] = dumps({"format": FORMAT, "files": entries}).encode()
    aside = folder.parent / f".{folder.name}.{secrets.token_hex(8)}.aside"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside.mkdir()
        for name, data in files.items():
            _write_file(aside / name, data)
        _sync(aside)
        _commit(aside, folder)
        _sync(folder.parent)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write the result {folder} ({error.strerror or error}); nothing was left half-written: free some "
            "space or choose a folder that you may write to, then run again",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read(folder: Path) -> Result:
    """Read a result folder and verify all of it.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the folder is incomplete, cut, altered, or of another format version.
    """
    files = verified(Path(folder), (SPEC, METRICS, TENSORS))
    try:
        arrays = from_bytes(files[TENSORS])
    except ValueError as error:
        raise ValueError(f"{folder}: {TENSORS} cannot be read ({error}); {_CURE}") from error
    return Result(json.loads(files[SPEC]), json.loads(files[METRICS]), arrays)


def is_complete(folder: Path) -> bool:
    """Whether a result of this format lies there, judged by file sizes alone; `read` looks at every byte."""
    try:
        _manifest(Path(folder))
    except (FileNotFoundError, ValueError):
        return False
    return True


def clear_leftovers(root: Path, *, older_than: float = DAY) -> int:
    """Remove what killed writers left directly under `root`: hidden files and folders of this package, long unchanged.

    Args:
        root: the folder that holds the results.
        older_than: age in seconds; what is younger may still be in the writing.

    Returns:
        How many were removed.
    """
    removed = 0
    for path in Path(root).glob(".*.aside"):
        # Someone else may have removed it first, or own it: either way it is not ours to insist on.
        with contextlib.suppress(OSError):
            if _ASIDE.fullmatch(path.name) and path.stat().st_mtime < time.time() - older_than:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed += 1
    return removed


def verified(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Return the bytes of some files of a result folder, after checking them against its manifest.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the folder is incomplete, cut, altered, or of another format version.
    """
    digests = _manifest(folder)
    files = {name: (folder / name).read_bytes() for name in names}
    for name, data in files.items():
        if _sha256(data) != digests[name]:
            raise ValueError(f"{folder}: {name} is altered; {_CURE}")
    return files


def _manifest(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file as the manifest has it, after checking the manifest and the sizes."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no result at {folder}; make it first, or pass another folder")
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        version = manifest["format"]
        if version == FORMAT:
            sizes = {name: int(manifest["files"][name]["bytes"]) for name in (SPEC, METRICS, TENSORS)}
            digests = {name: str(manifest["files"][name]["sha256"]) for name in sizes}
    except FileNotFoundError:
        raise ValueError(f"{folder}: {MANIFEST} is missing; {_CURE}") from None
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"{folder}: {MANIFEST} is cut or altered; {_CURE}") from error
    if version != FORMAT:
        raise ValueError(
            f"{folder}: the result has format {version!r} but this skilloc reads format {FORMAT}; use the version of "
            "skilloc that wrote it, or make the result again"
        )
    for name, size in sizes.items():
        try:
            found = (folder / name).stat().st_size
        except FileNotFoundError:
            raise ValueError(f"{folder}: {name} is missing; {_CURE}") from None
        if found != size:
            raise ValueError(f"{folder}: {name} is cut or altered ({found} bytes instead of {size}); {_CURE}")
    return digests


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_file(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make the names in a folder survive a power cut, where the file system can: some network ones refuse."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _commit(aside: Path, folder: Path) -> None:
    """Rename `aside` to `folder`, unless a result is there already."""
    try:
        os.rename(aside, folder)
    except OSError:
        if not folder.exists():
            raise
        if not is_complete(folder):
            raise ValueError(
                f"`folder` {folder} is there but is not a complete result; delete it, or write to another folder"
            ) from None
        if (folder / SPEC).read_bytes() != (aside / SPEC).read_bytes():
            raise ValueError(
                f"`folder` {folder} holds the result of another spec; write to another folder, for instance one "
                "named by `key(spec)`"
            ) from None
