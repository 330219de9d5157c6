"""The Makefile's logic, with a Python that notes what it is asked: which torch, into which environment, how often."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PINNED = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
CPU = "torch --index-url https://download.pytorch.org/whl/cpu"

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")

STAND_IN = """#!/bin/sh
# A Python with a pip, of which only torch is real: the file `torch` holds its version.
own=$(dirname "$0")/..
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip show"*) test -e "$own/torch" ;;
  *importlib.metadata*) echo "torch==$(cat "$own/torch")" ;;
  *) echo "$*" >> "$own/log"
     case "$*" in *"pip install"*" torch"*) echo 2.0 > "$own/torch" ;; esac ;;
esac
"""


class Checkout:
    """A copy of what make reads, beside a Python that stands in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder)
        self.environment(folder / "system")
        self.tool("chromium", "")

    def tool(self, name: str, does: str) -> None:
        """Put a command of that name before all others."""
        path = self.folder / "tools" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)

    def environment(self, path: Path, torch: str | None = None) -> Path:
        """Make an environment, as somebody else would."""
        (path / "bin").mkdir(parents=True)
        (path / "bin" / "python").write_text(STAND_IN)
        (path / "bin" / "python").chmod(0o755)
        if torch is not None:
            (path / "torch").write_text(torch)
        return path

    def make(self, *words: str, venv: str = ".venv") -> list[str]:
        """Run make; return what the environment's Python was asked meanwhile."""
        log = self.folder / venv / "log"
        log.unlink(missing_ok=True)
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environment["PATH"] = f"{self.folder}/tools:{environment['PATH']}"
        command = ["make", f"PYTHON={self.folder}/system/bin/python", *words]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return log.read_text().splitlines() if log.exists() else []

    def pins(self, venv: str = ".venv") -> list[str]:
        """Return what nothing may be installed against."""
        return (self.folder / venv / ".constraints.txt").read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_a_fresh_environment_gets_the_tested_versions_and_torch_first(checkout: Checkout) -> None:
    torch, rest, tests = checkout.make("test")
    assert torch.endswith(f" {PINNED}")
    assert rest.endswith("-e .[dev]")
    assert "-m pytest" in tests
    assert "torch==2.0" in checkout.pins()  # what is there, so that nothing else comes over it
    assert PINNED not in checkout.pins()
    assert len(checkout.pins()) > 50
    assert [line for line in checkout.make("test") if "pip" in line] == []  # once


@pytest.mark.parametrize("torch", [CPU, "torch==2.9.1", "./torch-2.9.1-cp311-linux_x86_64.whl"])
def test_another_torch_is_installed_as_asked_and_stays(checkout: Checkout, torch: str) -> None:
    if "whl" in torch and torch.startswith("."):
        (checkout.folder / torch).touch()
    checkout.environment(checkout.folder / ".venv", torch="1.0")
    assert checkout.make("test", f"TORCH={torch}")[0].endswith(f" {torch}")
    assert [line for line in checkout.make("test", f"TORCH={torch}") if "pip" in line] == []
    (checkout.folder / "pyproject.toml").touch()
    asked = [line for line in checkout.make("test") if "pip" in line]
    assert asked[0].endswith(f" {torch}")  # not the pinned one over it
    assert PINNED not in " ".join(asked)
    assert checkout.make("test", "TORCH=torch==2.8")[0].endswith(" torch==2.8")  # another one, at once


@pytest.mark.parametrize(("user", "installs"), [("0", True), ("1000", False)])
def test_a_browser_is_installed_where_there_is_none_and_that_is_allowed(
    checkout: Checkout, user: str, installs: bool
) -> None:
    checkout.tool("apt-get", f'echo "$*" >> {checkout.folder}/packages')
    checkout.tool("id", f"echo {user}")
    packages = checkout.folder / "packages"
    checkout.make("test")
    assert not packages.exists()  # chromium is there
    assert "-m pytest" in checkout.make("test", "BROWSERS=no-such-browser")[-1]
    assert packages.exists() == installs
    if installs:
        assert packages.read_text().splitlines()[-1].endswith("install -y -qq --no-install-recommends chromium")
        checkout.tool("apt-get", "exit 1")
        assert "-m pytest" in checkout.make("test", "BROWSERS=no-such-browser")[-1]  # the tests say what is missing


def test_somebodys_environment_is_taken_as_it_is(checkout: Checkout) -> None:
    checkout.environment(checkout.folder / "mine", torch="2.7+cu128")
    rest, tests = checkout.make("test", "VENV=mine", venv="mine")
    assert rest.endswith("-e .[dev]")
    assert checkout.pins("mine") == ["torch==2.7+cu128"]
    assert "-m pytest" in tests
    assert not (checkout.folder / ".venv").exists()
    checkout.make("clean", "VENV=mine", venv="mine")
    assert (checkout.folder / "mine").exists()


def test_somebodys_environment_without_torch_gets_it(checkout: Checkout) -> None:
    checkout.environment(checkout.folder / "mine")
    assert checkout.make("test", "VENV=mine", venv="mine")[0].endswith(f" {PINNED}")
    assert checkout.pins("mine") == ["torch==2.0"]


def test_an_environment_that_is_not_there_is_made(checkout: Checkout) -> None:
    assert checkout.make("test", "VENV=new", venv="new")[0].endswith(f" {PINNED}")
    assert len(checkout.pins("new")) > 50


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("test-fast", ["-n 3", "not slow and not long"]),
        ("test", ["-n 3", "--dist loadfile"]),
        ("test-long", ["-n 3", "--hypothesis-profile default"]),
        ("test-processors", ["ATEN_CPU_CAPABILITY=default", "ATEN_CPU_CAPABILITY=avx2"]),
        ("demo", ["mine/bin/skilloc demo --out runs/demo"]),
        ("docs", ["mine/bin/python -m sphinx -W"]),
        ("bench", ["tests/benchmarks"]),
        ("check", ["mine/bin/mypy", "mine/bin/lint-imports"]),
    ],
)
def test_targets_run_in_the_environment_that_is_named(checkout: Checkout, target: str, words: list[str]) -> None:
    checkout.environment(checkout.folder / "mine", torch="2.0")
    command = ["make", "-n", target, "VENV=mine", "JOBS=3"]
    said = subprocess.run(command, cwd=checkout.folder, capture_output=True, text=True, check=True).stdout
    for word in words:
        assert word in said
    assert ".venv" not in said.replace("test mine = .venv", "")
    assert not (checkout.folder / "mine" / "log").exists()  # nothing was done
