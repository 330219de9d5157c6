"""The model and the folders that a command is given: the model may be left out where the folder knows it."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from skilloc.cli.machine import Machine
from skilloc.mistakes import WrongValue

if TYPE_CHECKING:
    from skilloc.effects import Effects
    from skilloc.models.language import Opened

TOP = 10
"""Units that count as a subtask's top, if not asked otherwise."""

Places = Annotated[Positional[tuple[str, ...]], arg(metavar="[MODEL] DIR")]
Runs = Annotated[Positional[tuple[str, ...]], arg(metavar="[MODEL] DIR [DIR ...]")]


def places_of(given: Sequence[str], *, several: bool = False) -> tuple[str | None, list[Path]]:
    """Return the model, if one is named, and the folders; the first place is a model unless a study lies there.

    Raises:
        ValueError: if no folder is named, or more than the command takes.
    """
    if len(given) > 1 and not _is_study(Path(given[0])):
        model, folders = given[0], given[1:]
    else:
        model, folders = None, given
    if not folders or (len(folders) > 1 and not several):
        wanted = "folders" if several else "a folder"
        raise WrongValue(
            f"`DIR` is {' '.join(given) or 'missing'}; name {wanted} that `skilloc effects` wrote, and the model first "
            "if it lies elsewhere now"
        )
    return model, [Path(folder) for folder in folders]


def open_for(machine: Machine, model: str | None, folder: Path, effects: "Effects") -> "Opened":
    """Open the model that is named, or else the one that a folder was measured on.

    Raises:
        ValueError: if none is named, and the one of the folder is not to be found under its name.
    """
    if model is not None:
        return machine.open(model)
    name = effects.made.get("name")
    try:
        return machine.open(str(name))
    except (OSError, ValueError) as error:
        raise WrongValue(
            f"{folder} was measured on a model called {name}, which cannot be opened under that name ({error}); name "
            f"it: MODEL {folder}"
        ) from error


def following(*words: object) -> str:
    """Return what a user would do next, as a command that a shell takes as it stands."""
    return f"next: {' '.join(map(_quoted, ('skilloc', *map(str, words))))}"


def _quoted(word: str) -> str:
    try:
        word.encode()
    except UnicodeEncodeError:  # a path that is no text, which shells take by its bytes alone
        return "$'" + "".join(f"\\x{byte:02x}" for byte in os.fsencode(word)) + "'"
    return shlex.quote(word)


def top_of(count: int | None, runs: Sequence["Effects"]) -> int:
    """Return how many units count as a subtask's top: as asked, or 10, or all but one where fewer were measured."""
    return count or max(1, min(TOP, *(int(effects.measured.sum()) - 1 for effects in runs)))


def _is_study(folder: Path) -> bool:
    return any((folder / part).is_dir() for part in ("effects", "request", "estimate"))
