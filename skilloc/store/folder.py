"""One result folder: written aside and renamed into place, verified when read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from skilloc.mistakes import WrongValue
from skilloc.store.aside import MANIFEST, placed, sha256
from skilloc.store.labels import Labelled, from_bytes, to_bytes
from skilloc.store.plain import canonical, dumps, plain

FORMAT = 1
"""Version of the folder format that this package writes and reads."""

SPEC, METRICS, TENSORS = "spec.json", "metrics.json", "tensors.safetensors"

_CURE = "move the folder elsewhere, and make the result again"


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
    entries = {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in files.items()}
    files[MANIFEST] = dumps({"format": FORMAT, "files": entries}).encode()
    try:
        with placed(folder) as aside:
            aside.mkdir()
            for name, data in files.items():
                (aside / name).write_bytes(data)
    except OSError as error:
        if folder.exists():
            _check_same(folder, files[SPEC])
            return
        raise OSError(
            error.errno,
            f"cannot write the result {folder} ({error.strerror or error}); nothing was left half-written: free some "
            "space or choose a folder that you may write to, then run again",
        ) from error


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
        raise WrongValue(f"{folder}: {TENSORS} cannot be read ({error}); {_CURE}") from error
    return Result(json.loads(files[SPEC]), json.loads(files[METRICS]), arrays)


def is_complete(folder: Path) -> bool:
    """Whether a result of this format lies there, judged by file sizes alone; `read` looks at every byte."""
    try:
        _manifest(Path(folder))
    except (FileNotFoundError, ValueError):
        return False
    return True


def verified(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Return the bytes of some files of a result folder, after checking them against its manifest.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the folder is incomplete, cut, altered, or of another format version.
    """
    digests = _manifest(folder)
    files = {name: (folder / name).read_bytes() for name in names}
    for name, data in files.items():
        if sha256(data) != digests[name]:
            raise WrongValue(f"{folder}: {name} is altered; {_CURE}")
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
        raise WrongValue(f"{folder}: {MANIFEST} is missing; {_CURE}") from None
    except (ValueError, TypeError, LookupError) as error:
        raise WrongValue(f"{folder}: {MANIFEST} is cut or altered; {_CURE}") from error
    if version != FORMAT:
        raise WrongValue(
            f"{folder}: the result has format {version!r} but this skilloc reads format {FORMAT}; use the version of "
            "skilloc that wrote it, or make the result again"
        )
    for name, size in sizes.items():
        try:
            found = (folder / name).stat().st_size
        except FileNotFoundError:
            raise WrongValue(f"{folder}: {name} is missing; {_CURE}") from None
        if found != size:
            raise WrongValue(f"{folder}: {name} is cut or altered ({found} bytes instead of {size}); {_CURE}")
    return digests


def _check_same(folder: Path, spec: bytes) -> None:
    """Refuse a folder that is there already, unless it holds a result of the same spec: then the first writer won."""
    if not is_complete(folder):
        raise WrongValue(f"`folder` {folder} is there but is not a complete result; write to another folder")
    if (folder / SPEC).read_bytes() != spec:
        raise WrongValue(
            f"`folder` {folder} holds the result of another spec; write to another folder, for instance one named by "
            "`key(spec)`"
        )
