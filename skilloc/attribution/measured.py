"""Effects as a folder holds them: where they were estimated, with what tells how far they can be trusted."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from skilloc import store
from skilloc.attribution.calibration import Calibration
from skilloc.effects import Effects

OTHERS = {"pruning": "prune", "localization": "localize", "relearning study": "relearn"}
"""What is asked in folders of other commands, and the command."""


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

    def of(self, subtasks: tuple[str, ...]) -> dict[str, Calibration]:
        """Return how far the estimate can be trusted on some subtasks."""
        return {name: self.calibration[name] for name in subtasks}


class Measured(NamedTuple):
    """Effects, as a finished study holds them.

    Attributes:
        effects: the result.
        compared: how far it can be trusted, where it was estimated and compared with exact effects.
    """

    effects: Effects
    compared: Compared | None


def save_compared(folder: Path, compared: Compared) -> None:
    """Write the exact effects beside an estimate, and what the comparison says."""
    store.save(compared.exact, folder / "exact")
    metrics = {name: found.record() for name, found in compared.calibration.items()}
    arrays = {"drawn": store.Labelled(compared.drawn, ("unit",), {})}
    if compared.chance is not None:
        arrays["chance"] = store.Labelled(compared.chance, ("unit",), {})
    store.write(folder / "calibration", {"what": "calibration", "made": dict(compared.estimate.made)}, metrics, arrays)


def load_measured(folder: Path) -> Measured:
    """Read a study, or effects that were saved alone.

    Raises:
        FileNotFoundError: if there is none, or it is not finished.
        ValueError: if a part of it was cut or altered, or was made for another study.
    """
    if (folder / "config.json").is_file():
        raise FileNotFoundError(f'"{folder}" holds a model and no effects; pass a folder that `skilloc effects` wrote')
    if (folder / "manifest.json").is_file():
        return Measured(store.load(Effects, folder), None)
    if not (folder / "effects").is_dir():
        begun = store.read(folder / "request").spec.get("what") if (folder / "request").is_dir() else None
        if begun in OTHERS:
            raise FileNotFoundError(
                f'"{folder}" was written by `skilloc {OTHERS[begun]}` and holds no effects; pass a folder that '
                f"`skilloc effects` wrote, and see with `skilloc show {folder}` what this one holds"
            )
        raise FileNotFoundError(
            f'"{folder}" {"holds an unfinished study" if begun else "holds no study"}; '
            + ("run its `skilloc effects` again to go on" if begun else "pass a folder that `skilloc effects` wrote")
        )
    effects = store.load(Effects, folder / "effects")
    store.check_tied(folder, "effects", effects.made)
    if not (folder / "calibration").is_dir():
        return Measured(effects, None)
    found = store.read(folder / "calibration")
    store.check_tied(folder, "calibration", found.spec["made"])
    calibration = {name: Calibration.from_record(found.metrics[name]) for name in effects.subtasks}
    estimate, exact = store.load(Effects, folder / "estimate"), store.load(Effects, folder / "exact")
    for part, one in (("estimate", estimate), ("exact", exact)):
        store.check_tied(folder, part, one.made)
    chance = found.arrays["chance"].values if "chance" in found.arrays else None
    return Measured(effects, Compared(estimate, exact, found.arrays["drawn"].values, calibration, chance))
