"""What commands print: sections as tables, or typed results as JSON."""

import json
from typing import Any

from rich.console import Console
from rich.text import Text

from skilloc.report.record import as_json
from skilloc.report.section import Section
from skilloc.report.terminal import shown


def print_json(*results: Any, **more: Any) -> None:
    """Print results as one JSON object: their fields beside each other, and others by name."""
    found: dict[str, Any] = as_json(more)
    for result in results:
        found |= as_json(result)
    print(json.dumps(found, indent=1, ensure_ascii=False))


def print_sections(*sections: Section | None) -> None:
    """Print sections, one below the other; those that there are not are left out."""
    console = _console()
    for section in sections:
        for part in shown(section, console) if section is not None else ():
            console.print(part, soft_wrap=isinstance(part, Text) and not console.is_terminal)


def _console() -> Console:
    """A terminal as wide as it is; a file or a pipe gets whole lines."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)
