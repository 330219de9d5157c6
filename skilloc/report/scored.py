"""Numbers made from effects, as typed results: locality, its spread between references, joint removal, positions."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from skilloc import locality
from skilloc.ablation.removal import Removal
from skilloc.effects import Effects
from skilloc.effects.made import reference_name, unit_of
from skilloc.effects.positions import PositionEffects
from skilloc.locality import Bulk, ReferenceSpread
from skilloc.locality.intervals import Interval
from skilloc.locality.uncertainty import mean_over_folds
from skilloc.report.about import About, about, over_folds
from skilloc.report.bounds import first


@dataclass(frozen=True)
class Locality:
    """The scores of every subtask, and the matrices between them.

    Attributes:
        about: what the effects are about.
        top: number of units that count as a subtask's top.
        scores: by subtask and by name of the score.
        reliability: of the effects of each subtask.
        between: by name, on `subtask subtask`, of the first subtasks where there are very many; none for a single one.
        bulk: what is estimated to lie below the noise, by subtask.
    """

    about: About
    top: int
    scores: dict[str, dict[str, Interval]]
    reliability: Interval
    between: dict[str, Interval]
    bulk: dict[str, Bulk] = field(default_factory=dict)


@dataclass(frozen=True)
class References:
    """How far scores and ranks move between references.

    Attributes:
        references: their names.
        top: number of units that count as a subtask's top.
        units: names of the units, which `Moved.unit` counts.
        subtasks: what was found about each.
    """

    references: tuple[str, ...]
    top: int
    units: tuple[str, ...]
    subtasks: dict[str, ReferenceSpread]


def locality_of(effects: Effects, *, top: int = 10) -> Locality:
    """Return the scores of every subtask, and the matrices between them, with intervals and chance levels.

    Raises:
        ValueError: if there are fewer than 3 folds, or too few measured units.
    """
    scores = locality.table(effects.values, effects.subtasks, top=top)
    between = locality.between(first(effects).values, top=top) if len(effects.subtasks) > 1 else {}
    bulk = {name: locality.bulk(effects.of(name)) for name in effects.subtasks}
    return Locality(about(effects), top, scores, locality.reliability(effects.values), between, bulk)


def references_of(measured: Sequence[Effects], *, top: int = 10) -> References | None:
    """Return how far scores and ranks move between references; None unless the effects differ in nothing else."""
    found = [about(effects) for effects in measured]
    references = tuple(str(one.reference) for one in found)
    kinds = {(one.model, one.subtasks, one.units, one.measured, one.folds) for one in found}
    if len(found) < 2 or len(kinds) > 1 or len(set(references)) < len(references):
        return None
    subtasks = {
        name: locality.reference_spread(
            {reference: effects.of(name) for reference, effects in zip(references, measured, strict=True)}, top=top
        )
        for name in measured[0].subtasks
    }
    return References(references, top, tuple(measured[0].units.names), subtasks)


@dataclass(frozen=True)
class Removed:
    """Joint removal, as matrices and scores with intervals.

    Attributes:
        subtasks: names.
        reference: name of what removed units are held at.
        units: what was removed: "neurons", "heads", or "units" of all kinds.
        unit: of the loss.
        baseline: loss of the untouched model, by subtask.
        sizes: by number of removed units, `loss_increase` on `source target` and the other scores by name.
    """

    subtasks: tuple[str, ...]
    reference: str | None
    units: str
    unit: str
    baseline: dict[str, float]
    sizes: dict[int, dict[str, Interval]]

    @property
    def middle(self) -> int:
        """The number of removed units in the middle of all that were tried."""
        return list(self.sizes)[len(self.sizes) // 2]


def removed(removal: Removal) -> Removed:
    """Return, for each number of removed units, the matrices and scores of joint removal.

    Raises:
        ValueError: if there are fewer than 3 folds or 2 random draws.
    """
    sizes = {}
    for size in removal.sizes:
        if len(removal.subtasks) > 1:
            sizes[size] = locality.removal_scores(removal.at(size), removal.random_at(size))
        else:
            chance = removal.random_at(size).mean(axis=(0, 1))
            sizes[size] = {"loss_increase": mean_over_folds(removal.at(size))._replace(chance=chance)}
    baseline = dict(zip(removal.subtasks, removal.baseline.mean(axis=0).tolist(), strict=True))
    units = " and ".join(f"{kind}s" for kind in removal.made.get("effects", {}).get("only", [])) or "units"
    return Removed(removal.subtasks, reference_name(removal.made), units, unit_of(removal.made), baseline, sizes)


@dataclass(frozen=True)
class Held:
    """One subtask's top units, each held at one position only; effects on `unit position`."""

    units: tuple[str, ...]
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class ByPosition:
    """Effects of each subtask's units at each position, with 95 % intervals.

    Attributes:
        positions: names.
        unit: of the loss.
        subtasks: by name, its units and their effects.
    """

    positions: tuple[str, ...]
    unit: str
    subtasks: dict[str, Held]


def by_position(found: PositionEffects) -> ByPosition:
    """Return the effects of each subtask's units at each position, with 95 % intervals."""
    held = {}
    for s, subtask in enumerate(found.subtasks):
        names = tuple(found.made["chosen"][subtask])
        chosen = [found.units.names.index(name) for name in names]
        value, low, high = (part.T for part in over_folds(found.values[:, s][..., chosen])[:3])
        held[subtask] = Held(names, value, low, high)
    return ByPosition(found.positions, found.unit, held)
