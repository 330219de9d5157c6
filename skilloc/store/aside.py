"""The one way in which files and folders appear: written aside, synced, and renamed into place, with a checksum.

A folder carries `manifest.json`, with the size and sha256 of its other files. A text carries its own sha256: JSON under
the key `sha256`, markup in a comment on its last line. What is read again is checked against it; a file of somebody
else, which has none, is taken as it is.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skilloc.mistakes import WrongValue

DAY = 24 * 60 * 60
"""Seconds."""

MANIFEST = "manifest.json"

SHA256 = "sha256"

ASIDE = re.compile(r"\.(.+)\.[0-9a-f]{16}\.aside")
MARK = "skilloc wrote this file"
"""What pictures say of themselves."""

_OWN = re.compile(
    rb'("sha256": ?"[0-9a-f]{64}"(,\s*"version": ?\d+)?\s*}|<!-- sha256 [0-9a-f]{64} of all lines above -->)\s*\Z'
)
HEX = 64
"""Letters of a sha256 in hex."""
_SEAL_LENGTH = len("<!-- sha256  of all lines above -->") + HEX
_SEAL = re.compile(r"<!-- sha256 ([0-9a-f]{64}) of all lines above -->\n?\Z")


def result_of(name: str) -> str | None:
    """Return what a file or folder aside was to be called, also where it is aside of one aside; None of all others."""
    found = ASIDE.fullmatch(name)
    return None if found is None else result_of(found[1]) or found[1]


def aside_of(path: Path) -> Path:
    """Return a hidden name beside a path, which nobody else has: what a killed process leaves under it is cleared."""
    return path.parent / f".{path.name}.{secrets.token_hex(8)}.aside"


@contextmanager
def placed(path: Path | str) -> Iterator[Path]:
    """Give a path beside `path` to write a file or a folder at; when the block ends well, it is renamed to `path`.

    So `path` appears whole or not at all, also where this process is killed. A file takes the place of one that is
    there; a folder does so only of an empty one. What killed writers of the same path left a day ago is removed.

    Raises:
        OSError: if the place cannot be written, or a folder is there already; nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path.parent, name=path.name)
    aside = aside_of(path)
    try:
        yield aside
        for file in aside.rglob("*") if aside.is_dir() else (aside,):
            if file.is_file():
                _share(file, aside)
                _sync(file)
        with contextlib.suppress(OSError):  # some network file systems refuse to sync a folder
            _sync(aside)
        os.replace(aside, path)
        with contextlib.suppress(OSError):
            _sync(path.parent)
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def _share(file: Path, folder: Path) -> None:
    """Let read a file whoever may read its folder: some writers of weights make theirs private."""
    allowed = folder.stat().st_mode & 0o666
    if file.stat().st_mode & 0o777 != allowed:
        file.chmod(allowed)


def write_file(path: Path | str, data: bytes | str) -> None:
    """Write a file, whole or not at all; text in UTF-8, where half a surrogate becomes a question mark.

    Raises:
        ValueError: if a file of somebody else's lies there.
        OSError: if the place cannot be written.
    """
    check_ours(path)
    with placed(path) as aside:
        aside.write_bytes(data.encode("utf-8", "replace") if isinstance(data, str) else data)


def check_ours(path: Path | str) -> None:
    """Refuse to take the place of a file that does not say that skilloc wrote it.

    Raises:
        ValueError: if there is one.
    """
    path = Path(path)
    if path.is_dir():
        raise WrongValue(f'"{path}" is a folder, where a file is to lie; choose another place for `out`')
    if not path.exists():
        return
    data = path.read_bytes()
    if not (MARK.encode() in data or _OWN.search(data[-200:])):
        raise WrongValue(
            f'"{path}" is there already, and skilloc did not write it; choose another place for `out`, or move it'
        )


def is_ours(folder: Path) -> bool | None:
    """Whether something in a folder says that skilloc wrote it; None where there are no files, and so nobody's."""
    there = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return True if any(map(_says_so, there)) else None if all(path.is_dir() for path in there) else False


def _says_so(path: Path) -> bool:
    """Whether something is a result, lies in one, or is a text or a picture of ours."""
    if path.name == MANIFEST or (path / MANIFEST).is_file():
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(4096)
        file.seek(-min(200, path.stat().st_size), os.SEEK_END)
        return MARK.encode() in head or bool(_OWN.search(file.read()))


def write_json(path: Path | str, record: Mapping[str, Any]) -> None:
    """Write a mapping as JSON with its checksum, whole or not at all.

    Raises:
        TypeError: if JSON cannot hold it.
        OSError: if the place cannot be written.
    """
    write_file(path, json.dumps(sealed(record), indent=1) + "\n")


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a mapping that `write_json` wrote, without its checksum.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or was altered since it was written.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WrongValue(f"{path} is cut or altered ({error}); make it again") from error
    if not isinstance(record, dict):
        raise WrongValue(f"{path} holds a {type(record).__name__} and no mapping; make it again")
    return unsealed(record, str(path))


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with the sha256 of its canonical JSON under the key `sha256`, the last one."""
    plain = {name: value for name, value in record.items() if name != SHA256}
    return {**plain, SHA256: _digest_of(plain)}


def unsealed(record: Mapping[str, Any], called: str) -> dict[str, Any]:
    """Return a mapping without its checksum; one that has none is taken as it is, unless its last entry was one.

    Args:
        record: the mapping.
        called: how messages call it.

    Raises:
        ValueError: if the checksum is of something else.
    """
    plain = {name: value for name, value in record.items() if name != SHA256}
    last = list(record)[-1:]
    broken = SHA256 not in record and last and len(last[0]) == len(SHA256) and len(str(record[last[0]])) == HEX
    if broken or (SHA256 in record and record[SHA256] != _digest_of(plain)):
        raise WrongValue(
            f"{called} was altered after it was written (its sha256 is of something else); make it again, or take the "
            f'entry "{SHA256}" out if the change is yours'
        )
    return plain


def _digest_of(plain: Mapping[str, Any]) -> str:
    # As JSON gives it back: numbers, lists and key order as they will be read.
    text = json.dumps(json.loads(json.dumps(plain)), sort_keys=True, separators=(",", ":"))
    return sha256(text.encode())


def with_seal(text: str) -> str:
    """Return HTML or XML with a comment on its last line that holds the sha256 of all lines above."""
    body = text if text.endswith("\n") else text + "\n"
    return f"{body}<!-- sha256 {sha256(body.encode('utf-8', 'replace'))} of all lines above -->\n"


def check_seal(text: str, called: str) -> str:
    """Return HTML or XML without the comment of `with_seal`; a text without one is taken as it is.

    Raises:
        ValueError: if the text above the comment is not the one that was written.
    """
    found = _SEAL.search(text)
    if found is None:
        last = text.rstrip("\n").rpartition("\n")[2]
        if len(last) == _SEAL_LENGTH and (last.startswith("<!-- ") or last.endswith(" -->")):
            raise WrongValue(f"{called} was altered after it was written, in its last line; make it again")
        return text
    body = text[: found.start()]
    if sha256(body.encode("utf-8", "replace")) != found.group(1):
        raise WrongValue(f"{called} was altered after it was written; make it again")
    return body


def write_manifest(folder: Path) -> None:
    """Write the manifest of a folder, still aside, whose files are all there."""
    entries = {
        path.name: {"bytes": path.stat().st_size, "sha256": digest_of_file(path)}
        for path in sorted(folder.iterdir())
        if path.is_file()
    }
    (folder / MANIFEST).write_text(json.dumps({"files": entries}, indent=1) + "\n")


def check_manifest(folder: Path, cure: str) -> None:
    """Compare all files of a folder with its manifest; a folder without one is somebody else's, and taken as it is.

    Raises:
        ValueError: if a file is missing, cut or altered.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if "files" not in manifest:  # a file of this name that somebody else's program wrote
            return
        entries = manifest["files"]
        wanted = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in entries.items()}
    except (FileNotFoundError, NotADirectoryError):
        return
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise WrongValue(f"{folder}: {MANIFEST} is cut or altered; {cure}") from error
    for name, (size, digest) in wanted.items():
        path = folder / name
        if not path.is_file():
            raise WrongValue(f"{folder}: {name} is missing; {cure}")
        if path.stat().st_size != size or digest_of_file(path) != digest:
            raise WrongValue(f"{folder}: {name} is cut or altered; {cure}")


def clear_leftovers(root: Path, *, name: str | None = None, older_than: float = DAY) -> int:
    """Remove what killed writers left directly under `root`: hidden files and folders of this package, long unchanged.

    Args:
        root: the folder that holds the results.
        name: only what was to be called so; everything if not given.
        older_than: age in seconds; what is younger may still be in the writing.

    Returns:
        How many were removed.
    """
    removed = 0
    for path in Path(root).glob(".*.aside"):
        result = result_of(path.name)
        # Someone else may have removed it first, or own it: either way it is not ours to insist on.
        with contextlib.suppress(OSError):
            old = path.stat().st_mtime < time.time() - older_than
            if result is not None and name in (None, result) and old:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed += 1
    return removed


def sha256(data: bytes) -> str:
    """Return the sha256 of some bytes in hex."""
    return hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> str:
    """Return the sha256 of a file in hex, without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
