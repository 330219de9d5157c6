"""Joint removal for a study: its examples drawn again, its top units removed together, the result kept in a folder."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from skilloc import store
from skilloc.ablation.items import Hands
from skilloc.ablation.removal import Removal, removal_effects
from skilloc.effects import Effects
from skilloc.effects.made import reference_name
from skilloc.experiment.threads import one_thread
from skilloc.masks import DRAWS
from skilloc.mistakes import WrongValue, a_seed, whole
from skilloc.models.language import Opened
from skilloc.study.elsewhere import measure_masks, shared_by_items, workers_of
from skilloc.study.redrawn import drawn_of, redraw
from skilloc.sweep import Pool
from skilloc.tasks import Subtask

SIZES = (10, 30, 100)
"""Numbers of units to remove where none are given."""


@dataclass(frozen=True)
class Removing:
    """How units are removed together.

    Attributes:
        sizes: numbers of units to remove; those of `SIZES` that are below the number of measured units if not given.
        kinds: remove only units of these kinds; all if not given. Where heads are few and matter most, masks of any
            kind remove most heads, the random ones too.
        reference: another reference than that of the effects.
        draws: number of random masks beside each removal; without two there is no control.
        seed: of the random masks.
    """

    sizes: Sequence[int] = ()
    kinds: Sequence[str] = ()
    reference: str | None = None
    draws: int = DRAWS
    seed: int = 0

    def __post_init__(self) -> None:
        for size in self.sizes:
            whole("sizes", size)
        whole("draws", self.draws, 2)
        a_seed("seed", self.seed)


@store.working("folder")
def remove(
    opened: Opened,
    effects: Effects,
    folder: Path,
    *,
    subtasks: Mapping[str, Subtask] | None = None,
    config: Removing = Removing(),
    workers: int | Pool = 1,
) -> Removal:
    """Measure joint removal on the examples of some effects, or read it if the folder holds it already.

    Args:
        opened: the model that the effects were measured on.
        effects: effects that a study measured.
        folder: where the result is kept.
        subtasks: what the examples are drawn from; read again from the sources in the record if not given.
        config: how many units, of which kinds, beside which controls.
        workers: this process, or others (`Pool`); what one way has measured, another goes on with.

    Raises:
        ValueError: if the model or the texts are not those of the effects, the folder holds another removal, or the
            sizes or draws are out of range.
    """
    draws, seed, sizes = config.draws, config.seed, config.sizes
    if config.kinds:
        effects = _only(effects, config.kinds)
    measured = int(effects.measured.sum())
    sizes = sizes or [size for size in SIZES if size < measured] or [1]
    if max(sizes) > measured:
        raise WrongValue(f"`sizes` has {max(sizes)}; remove at most {measured} units, the number that was measured")
    if len(effects.values) < 3:
        raise WrongValue(f"the effects have {len(effects.values)} fold(s), and an interval needs 3; measure more folds")
    sizes, items = sorted(set(sizes)), folder.with_name(f"{folder.name}.items")
    experiment = redraw(opened, effects, subtasks=subtasks, reference=config.reference)
    if folder.is_dir() and any(folder.iterdir()):
        if not store.is_ours(folder):
            raise WrongValue(f'"{folder}" holds other files; choose an empty or a new folder for `out`')
        found = store.load(Removal, folder)
        asked = {"draws": draws, "seed": seed, "reference": experiment.held.record()}
        there = {name: found.made.get(name) for name in asked}
        there["reference"] = {**(there["reference"] or {}), "name": reference_name(found.made)}
        if (list(found.sizes), there) != (sizes, asked) or found.made.get("effects") != effects.made:
            raise WrongValue(
                f'"{folder}" holds another removal (of {", ".join(map(str, found.sizes))} units); choose another '
                "folder for `out`"
            )
        _clear(items)
        return found
    who = workers_of(workers, lambda: shared_by_items(opened, drawn_of(effects), experiment), measure_masks, items)
    items.mkdir(parents=True, exist_ok=True)
    with one_thread():
        hands = Hands(who, items)
        removal = removal_effects(experiment, effects, sizes=sizes, draws=draws, seed=seed, hands=hands)
    store.save(removal, folder)
    _clear(items)
    return removal


def _clear(items: Path) -> None:
    """Take finished items away, and those that killed writers left half-written, and nothing else."""
    store.clear_leftovers(items, older_than=0.0)
    for path in items.glob("*"):
        if store.is_complete(path) and store.read(path).spec.get("what") == "mask item":
            store.remove(path)
    with suppress(OSError):  # it was not there, or holds what is not ours
        items.rmdir()


def _only(effects: Effects, kinds: Sequence[str]) -> Effects:
    """Return effects in which other kinds of unit count as not measured, so that they are never chosen."""
    chosen = np.isin(effects.units.kinds, effects.units.only(kinds).kinds)
    made = {**effects.made, "only": sorted(set(kinds))}
    return replace(effects, values=np.where(chosen, effects.values, np.nan), made=made)
