"""Run the code of pages, and write below each block what it prints: python docs/fill.py docs/which_units.md ...

The ```python blocks of a page run one after the other, in one namespace and in an empty folder. A ```text block right
after one holds its output. The tests run copies of the pages, and compare.
"""

import contextlib
import io
import re
import sys
import tempfile
from pathlib import Path

BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n.*?```\n)?", flags=re.DOTALL)


def filled(page: str) -> str:
    """Return a page with what its blocks print now."""
    names: dict[str, object] = {}

    def with_output(block: re.Match[str]) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(block["code"], names)
        output = printed.getvalue()
        return f"```python\n{block['code']}```\n" + (f"\n```text\n{output}```\n" if output else "")

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        return BLOCK.sub(with_output, page)


if __name__ == "__main__":
    for path in map(Path.resolve, map(Path, sys.argv[1:])):
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
