"""The folder of a study: who it belongs to, and what is in it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from skilloc import store
from skilloc.attribution.calibration import Calibration
from skilloc.effects import Effects
from skilloc.mistakes import WrongValue
from skilloc.study.settings import reference_name
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
    "hooks": "with other hooks on the model",
    "behaviour": "with hooks, or a loss, that compute something else",
}
"""The parts of a request, in the order in which a difference is looked for, and how it is told."""


class Compared(NamedTuple):
    """An estimate and exact effects of some units.

    Attributes:
        estimate: effects by attribution.
        exact: effects by ablation, of the units that were drawn and of the estimate's own top.
        drawn: which units were drawn at random.
        calibration: how far the estimate can be trusted, by subtask.
        chance: with which each unit was to be drawn; None where all were alike.
    """

    estimate: Effects
    exact: Effects
    drawn: Bool[np.ndarray, "unit"]
    calibration: dict[str, Calibration]
    chance: Float[np.ndarray, "unit"] | None = None


class Study(NamedTuple):
    """What a finished study holds.

    Attributes:
        effects: the result.
        compared: how far it can be trusted, where it was estimated and compared with exact effects.
    """

    effects: Effects
    compared: Compared | None


def claim(folder: Path, request: Mapping[str, Any]) -> None:
    """Make a folder the home of a study; one that is so already stays as it is.

    A study that was refused before it measured anything gives way.

    Raises:
        ValueError: if the folder belongs to another study, naming what differs, or holds other files.
    """
    store.check_place(folder, inside=True)
    home = folder / "request"
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    there = {name for name in names if not name.endswith(".aside")} - {UNTIL, store.LOCK}
    if home.is_dir():
        asked, wanted = _upgraded(store.read(home).spec), json.loads(store.canonical(request))
        if asked == wanted:
            return
        if there - {"request", "items"} or any((folder / "items").glob("*")):
            raise WrongValue(f'"{folder}" holds a study {_difference(asked, wanted)}; choose another folder for `out`')
        store.remove(home)
    elif there:
        raise WrongValue(f'"{folder}" holds other files; choose an empty or a new folder for `out`')
    store.write(home, request, {})


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


def save_compared(folder: Path, compared: Compared) -> None:
    """Write the exact effects beside an estimate, and what the comparison says."""
    store.save(compared.exact, folder / "exact")
    metrics = {name: found.record() for name, found in compared.calibration.items()}
    arrays = {"drawn": store.Labelled(compared.drawn, ("unit",), {})}
    if compared.chance is not None:
        arrays["chance"] = store.Labelled(compared.chance, ("unit",), {})
    store.write(folder / "calibration", {"what": "calibration", "made": dict(compared.estimate.made)}, metrics, arrays)


def load_study(folder: Path) -> Study:
    """Read a study, or effects that were saved alone.

    Raises:
        FileNotFoundError: if there is none, or it is not finished.
        ValueError: if a part of it was cut or altered.
    """
    if (folder / "manifest.json").is_file():
        return Study(store.load(Effects, folder), None)
    if not (folder / "effects").is_dir():
        begun = (folder / "request").is_dir()
        raise FileNotFoundError(
            f'"{folder}" {"holds an unfinished study" if begun else "holds no study"}; '
            + ("run its `skilloc effects` again to go on" if begun else "pass a folder that `skilloc effects` wrote")
        )
    effects = store.load(Effects, folder / "effects")
    if not (folder / "calibration").is_dir():
        return Study(effects, None)
    found = store.read(folder / "calibration")
    calibration = {name: Calibration.from_record(found.metrics[name]) for name in effects.subtasks}
    estimate, exact = store.load(Effects, folder / "estimate"), store.load(Effects, folder / "exact")
    chance = found.arrays["chance"].values if "chance" in found.arrays else None
    return Study(effects, Compared(estimate, exact, found.arrays["drawn"].values, calibration, chance))
