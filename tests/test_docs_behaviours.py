"""The commands and blocks of docs/behaviours.md, from a file of each form to its page."""

import re
import shlex
from pathlib import Path

import pytest

from skilloc.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "behaviours.md"
SMALL = ["--only", "L0H0", "L1H2"]
"""Two heads stand for all, so that the test is quick."""


def commands(out: str) -> list[list[str]]:
    """Return the page's commands that write into or read a folder."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    found = [shlex.split(line)[1:] for line in re.findall(r"^ {4}(skilloc .*)$", text, flags=re.MULTILINE)]
    return [words for words in found if any(word == f"runs/{out}" for word in words)]


@pytest.fixture
def at_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where `docs` is that of the repository."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("form", ["tofu", "arc", "wmdp", "ioi"])
def test_from_a_file_to_a_page(at_root: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    measure, report = commands(form)
    assert (measure[0], report) == ("effects", ["report", f"runs/{form}"])
    main([*measure, *SMALL])
    said = capsys.readouterr().out
    accuracy = re.search(r": accuracy ([\d.]+); by chance ([\d.]+); of always giving the commonest", said)
    assert accuracy is not None
    assert float(accuracy[1]) > float(accuracy[2])
    assert "What was asked?" in said
    if form == "ioi":  # held at the last position only
        main(["positions", "runs/ioi", "--count", "2"])
        assert "held at one of 1 positions only" in capsys.readouterr().out
    main(report)
    page = (at_root / "runs" / form / "report.html").read_text()
    assert "What was asked?" in page
    assert "<script>alert" not in page
    if form == "tofu":
        assert "&lt;script&gt;alert(1)&lt;/script&gt; [red]x $\\bad$" in page
        assert "<script>alert(1)</script> [red]x $\\bad$" in said


def test_what_the_model_cannot_do_is_refused_with_its_number(at_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (measure,) = commands("letters")
    with pytest.raises(SystemExit) as stopped:
        main(measure)
    assert stopped.value.code == 2
    assert re.search(r'cannot do "letters": it is right on \d of 8 examples', capsys.readouterr().err)
    assert not (at_root / "runs" / "letters").exists()
    main([*measure, "--anyway", *SMALL])
    assert "letters: accuracy 0." in capsys.readouterr().out


@pytest.mark.slow
def test_the_blocks_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(block, names)
    assert capsys.readouterr().out.splitlines() == ["12 1", "True 1", "True"]
