"""What is packed can be tested where it is unpacked: tests, and all that they read, are in the source distribution."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("tests/test_units.py", "tests/test_house.py", "tests/test_docs.py")
"""Of seconds; the last two read the source and the pages."""

pytestmark = pytest.mark.long


def run(folder: Path, *command: object) -> str:
    """Run python in a folder, with the skilloc that lies there."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, made of a copy of the tracked files, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    left_out = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    copied = Path(shutil.copytree(ROOT, folder / "copied", ignore=left_out))  # building writes into the source
    build = "from setuptools.build_meta import build_sdist; import sys; build_sdist(sys.argv[1])"
    run(copied, "-c", build, folder)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def test_all_tests_are_there_and_can_be_collected(unpacked: Path) -> None:
    assert {path.name for path in (unpacked / "tests").rglob("*.py")} == {
        path.name for path in (ROOT / "tests").rglob("*.py")
    }
    assert " tests collected" in run(unpacked, "-m", "pytest", "-q", "--collect-only", "-m", "")


def test_tests_run_on_the_unpacked_source(unpacked: Path) -> None:
    assert " passed" in run(unpacked, "-m", "pytest", "-q", "-p", "no:cacheprovider", *QUICK)
    where = run(unpacked, "-c", "import skilloc; print(skilloc.__file__)")
    assert Path(where.strip()).is_relative_to(unpacked)
