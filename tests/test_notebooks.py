"""The notebooks are plain scripts with cells, and run from top to bottom."""

import subprocess
import sys
from pathlib import Path

import pytest

from skilloc.models.language import EMBEDDED

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.py"))


def test_there_are_two() -> None:
    assert len(NOTEBOOKS) == 2


@pytest.mark.slow
@pytest.mark.skipif(not EMBEDDED.is_dir(), reason="train it: python analyses/train_embedded.py")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    cells = notebook.read_text(encoding="utf-8").split("# %%")
    assert cells[0] == ""
    assert cells[1].startswith(" [markdown]\n# # ")
    done = subprocess.run([sys.executable, notebook], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "python" in done.stdout
    assert not list(tmp_path.iterdir())
