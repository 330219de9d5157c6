"""The folder of a study: who it belongs to, and what is in it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skilloc import store
from skilloc.effects.made import reference_name
from skilloc.mistakes import WrongValue
from skilloc.store.aside import MANIFEST
from skilloc.tasks.losses import cross_entropy
from skilloc.units import Units

UNTIL = "until"
"""Where a study that is measured on more and more text keeps its rounds."""

ASKED = {
    "model": "of another model",
    "units": "of other units",
    "settings": "with other settings",
    "tokens": "of other tokens",
    "reference": "of another reference",
    "loss": "with another loss",
    "entries": "with passes of another size",
    "hooks": "with other hooks on the model",
    "behaviour": "with hooks, or a loss, that compute something else",
}
"""The parts of a request, in the order in which a difference is looked for, and how it is told."""


def claim(folder: Path, request: Mapping[str, Any]) -> None:
    """Make a folder the home of a study; one that is so already stays as it is.

    A study that was refused before it measured anything gives way.

    Raises:
        ValueError: if the folder belongs to another study, naming what differs, or holds other files.
    """
    store.check_place(folder, inside=True)
    home = folder / "request"
    there = _there(folder)
    if home.is_dir():
        asked, wanted = _upgraded(store.read(home).spec), json.loads(store.canonical(request))
        if asked == wanted:
            return
        _refuse_begun(folder, asked, wanted)
        store.remove(home)
    elif there:
        raise WrongValue(f'"{folder}" holds other files; choose an empty or a new folder for `out`')
    store.write(home, request, {})


def check_apart(folder: Path) -> None:
    """Refuse a folder that is itself a result, the home of a study, or somebody else's, to what has no request.

    Raises:
        ValueError: naming the folder.
    """
    if (folder / MANIFEST).exists() or (folder / "request").exists():
        raise WrongValue(f'"{folder}" holds a study, or is a part of one; choose another folder for `out`')
    if folder.is_dir() and store.is_ours(folder) is False:
        raise WrongValue(f'"{folder}" holds other files; choose an empty or a new folder for `out`')


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder that holds a study with other settings: before a model is read, which `claim` knows as well.

    Raises:
        ValueError: naming what differs.
    """
    home = folder / "request"
    if home.is_dir():
        asked = _upgraded(store.read(home).spec)
        wanted = {**asked, "settings": json.loads(store.canonical(settings))}
        if asked != wanted:
            _refuse_begun(folder, asked, wanted)


def _there(folder: Path) -> set[str]:
    """Return the names of what a study has written into a folder, and of what else is there."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return {name for name in names if not name.endswith(".aside")} - {UNTIL, store.LOCK}


def _refuse_begun(folder: Path, asked: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if _there(folder) - {"request", "items"} or any((folder / "items").glob("*")):
        raise WrongValue(f'"{folder}" holds a study {_difference(asked, wanted)}; choose another folder for `out`')


def _upgraded(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the request of a study as it is written today: version 0.1 knew one loss, and one mean, over positions."""
    if asked.get("what") != "study" or "loss" in asked:
        return asked
    name = reference_name(asked)
    return {
        **asked,
        "units": Units.from_record(asked["units"]).record(),
        "reference": {**asked["reference"], "name": name},
        "settings": {**asked["settings"], "reference": name, "loss": cross_entropy.name, "at": "all"},
        "loss": cross_entropy.record(),
    }


def _difference(asked: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    name = next(name for name in (*ASKED, "what") if asked.get(name) != wanted.get(name))
    there, here = asked.get(name), wanted.get(name)
    if name == "settings" and isinstance(there, Mapping) and isinstance(here, Mapping):
        key = next(key for key in {**there, **here} if there.get(key) != here.get(key))
        return f"with `{key}` {there.get(key)} and not {here.get(key)}"
    if name == "tokens" and isinstance(there, Mapping) and isinstance(here, Mapping) and list(there) != list(here):
        return f"of subtasks {', '.join(there)} and not {', '.join(here)}"
    return ASKED.get(name, "of another kind")
