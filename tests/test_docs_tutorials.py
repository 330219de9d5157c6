"""The blocks of the tutorials run as they stand, and print what the pages say: the same words, and numbers near."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from skilloc.models.language import EMBEDDED

DOCS = Path(__file__).resolve().parents[1] / "docs"
TUTORIALS = ("which_units", "without_them", "is_it_gone", "which_circuit")
NUMBER = re.compile(r"-?\b\d+(?:\.\d+)?(?!\w)")  # not those in the names of units


def filled(*pages: Path) -> None:
    """Run the blocks of pages, in a process without the checks of types that slow small steps down."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", DOCS / "fill.py", *pages], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with copies of the pages, filled with what their blocks print now."""
    folder = tmp_path_factory.mktemp("pages")
    filled(*(Path(shutil.copy(DOCS / f"{name}.md", folder)) for name in TUTORIALS))
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not EMBEDDED.is_dir(), reason="train it: python analyses/train_embedded.py")
@pytest.mark.parametrize("name", TUTORIALS)
def test_a_page_prints_what_it_says(now: Path, name: str) -> None:
    found, said = ((folder / f"{name}.md").read_text(encoding="utf-8") for folder in (now, DOCS))
    assert NUMBER.sub("#", found) == NUMBER.sub("#", said)
    numbers, wanted = ([float(number) for number in NUMBER.findall(text)] for text in (found, said))
    # On another processor, what is printed may be rounded to the next digit.
    assert numbers == pytest.approx(wanted, rel=0.02, abs=0.02)


def test_output_is_written_below_its_block(tmp_path: Path) -> None:
    page = "a\n\n```python\nx = 1\n```\n\nb\n\n```python\nprint(x)\n```\n\n```text\nold\n```\n\nc\n"
    for name, text in (("old", page), ("none", page.replace("\n```text\nold\n```\n", ""))):
        (tmp_path / f"{name}.md").write_text(text)
    filled(tmp_path / "old.md", tmp_path / "none.md")
    for name in ("old", "none"):
        assert (tmp_path / f"{name}.md").read_text() == page.replace("old", "1")
