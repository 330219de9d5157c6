"""Every command that the README and the pages show is one that the command line takes, options and all."""

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tyro

from skilloc.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = "|".join(COMMANDS)
ALONE = re.compile(rf"^(?: {{4}}|\| `)?(skilloc (?:{NAMES})\b.*)$", flags=re.MULTILINE)
IN_TEXT = re.compile(rf"`(skilloc (?:{NAMES}) [^-`][^`]*)`")  # not one that only names an option
NO_COMMAND = re.compile(r"\.\.\.|…")
MAKE = re.compile(r"^(?: {4})?make ([a-z-]+)", flags=re.MULTILINE)


class Shown(NamedTuple):
    page: str
    line: str


def shown() -> list[Shown]:
    """Return the commands of all pages, without the comments behind them."""
    found: dict[Shown, None] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in (*ALONE.findall(text), *IN_TEXT.findall(text.replace("\n", " "))):
            line = re.sub(r"\s+#\s.*", "", line.split("`")[0])  # a # inside a word belongs to it
            if not NO_COMMAND.search(line):
                found[Shown(page.name, line)] = None
    return list(found)


def test_there_are_commands_of_every_kind() -> None:
    lines = [one.line for one in shown()]
    assert len(lines) > 30
    assert {line.split()[1] for line in lines} >= {name for name in COMMANDS if name != "demo"}


@pytest.mark.parametrize("one", shown(), ids=lambda one: f"{one.page}: {one.line}"[:80])
def test_a_command_is_taken(one: Shown, monkeypatch: Any, capsys: Any) -> None:
    class Nothing:
        def run(self) -> None:
            pass

    read = tyro.extras.subcommand_cli_from_dict
    monkeypatch.setattr(tyro.extras, "subcommand_cli_from_dict", lambda *a, **k: (read(*a, **k), Nothing())[1])
    try:
        main(shlex.split(one.line)[1:])
    except SystemExit:
        pytest.fail(f"{one.page} shows `{one.line}`:\n{capsys.readouterr().err}")


def test_every_target_of_make_that_is_shown_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    wanted = {target for page in PAGES for target in MAKE.findall(page.read_text(encoding="utf-8"))}
    assert {"demo", "test"} <= wanted <= targets
