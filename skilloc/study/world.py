"""The parity world of a network, kept as `world.json` in the folder of the saved network.

A saved `MLP` does not know what it was trained on. With this file beside it, the command line can name its subtasks,
as `parity_0` or `composite_012`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from skilloc import store
from skilloc.mistakes import WrongValue
from skilloc.tasks.parity import FAMILY, parity_subtasks
from skilloc.tasks.subtask import Subtask

WORLD = "world.json"


def save_world(subtasks: Iterable[Subtask], folder: Path | str) -> None:
    """Write the world of some subtasks into the folder of a saved network: its bits, index sets, and composites.

    Args:
        subtasks: of one parity world; its composites are those among them, and its atoms are all there are.
        folder: the folder that `save_mlp` wrote.

    Raises:
        ValueError: if there are no subtasks, or they are not of one parity world.
        FileNotFoundError: if there is no such folder.
    """
    made: list[dict[str, Any]] = [dict(subtask.made or {}) for subtask in subtasks]
    if not made or any(one.get("family") != FAMILY for one in made):
        raise WrongValue("`subtasks` is empty, or not all are of a parity world; pass those of parity_subtasks")
    if any((one["n"], one["sets"]) != (made[0]["n"], made[0]["sets"]) for one in made):
        raise WrongValue("`subtasks` are of different parity worlds; take them from one call of parity_subtasks")
    composites = [one["code"] for one in made if len(one["code"]) > 1]
    record = {"family": FAMILY, "n": made[0]["n"], "sets": made[0]["sets"], "composites": composites}
    if not Path(folder).is_dir():
        raise FileNotFoundError(f'there is no folder "{folder}"; save the network there first, with save_mlp')
    store.write_json(Path(folder) / WORLD, record)


def open_world(folder: Path | str) -> dict[str, Subtask]:
    """Return all subtasks of the world that a network's folder names.

    Raises:
        FileNotFoundError: if the folder has no `world.json`.
        ValueError: if that file is damaged.
    """
    path = Path(folder) / WORLD
    if not path.is_file():
        raise FileNotFoundError(
            f'"{folder}" has no {WORLD}, so that the subtasks of this network have no names; write it with '
            "skilloc.study.world.save_world(subtasks, folder)"
        )
    try:
        found = store.read_json(path)
        if found["family"] != FAMILY:
            raise WrongValue(f"its family is {found['family']}")
        return parity_subtasks(found["n"], atoms=found["sets"], composites=found["composites"])
    except (LookupError, TypeError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise WrongValue(f"{path} is damaged ({first}); write it again with skilloc.study.world.save_world") from error
