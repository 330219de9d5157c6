import re
from pathlib import Path

import pytest

from skilloc.models.language import EMBEDDED

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.skipif(not (EMBEDDED / "config.json").exists(), reason="train it: python analyses/train_embedded.py")
def test_the_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out.split("\n")
    assert printed[0].startswith("python Interval(value=")
    assert printed[1].startswith("english Interval(value=")


def test_the_commands_come_first_and_the_files_are_there():
    assert README.index("make demo") < README.index("make test") < README.index("![")
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).exists()
    (block,) = re.findall(r"## Where things are\n+```\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines():
        path = line.split()[0]
        assert (ROOT / path).exists() or (ROOT / "skilloc" / path).exists(), path
