import re
from pathlib import Path

import pytest

from skilloc.models.language import EMBEDDED

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
HOMES = "raw.githubusercontent.com/skilloc/skilloc", "github.com/skilloc/skilloc/blob"
"""Of pictures and of pages: absolute, since the package's page elsewhere shows the same text."""


@pytest.mark.slow
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
    for target in re.findall(r"\]\((.*?)\)", README):
        own = re.fullmatch(rf"https://(?:{'|'.join(HOMES)})/main/(.*)", target)
        assert own or not re.search(r"skilloc|^[^:]*$", target), f"{target} leads nowhere from the package's page"
        assert own is None or (ROOT / own[1]).exists(), target
    (block,) = re.findall(r"## Where things are\n+```\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines():
        path = line.split()[0]
        assert (ROOT / path).exists() or (ROOT / "skilloc" / path).exists(), path
