"""Everything that a folder holds, as typed results and as sections: what was found comes first."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from skilloc import store
from skilloc.ablation.removal import Removal
from skilloc.attribution.calibration import Calibration
from skilloc.attribution.measured import Measured, load_measured
from skilloc.circuits.graph import MADE, MODEL
from skilloc.effects import Effects
from skilloc.effects.positions import PositionEffects
from skilloc.locality.intervals import number, said
from skilloc.mistakes import WrongValue
from skilloc.relearning import Relearning
from skilloc.report.about import About, TopUnit, about, top_units
from skilloc.report.bounds import first, subtasks_words
from skilloc.report.calibration import calibration_section, calibration_words
from skilloc.report.circuits import circuit_words
from skilloc.report.circuits_found import CircuitsFound
from skilloc.report.effects import MOST, measured_section, units_section
from skilloc.report.labels import label
from skilloc.report.locality import between_section, between_words, locality_section
from skilloc.report.positions import positions_section
from skilloc.report.prompts import prompts_section
from skilloc.report.provenance import attacks_in
from skilloc.report.relearning import attack_section
from skilloc.report.removal import removal_section, removal_words
from skilloc.report.scored import ByPosition, Locality, Removed, by_position, locality_of, removed
from skilloc.report.section import Section, compared


@dataclass(frozen=True)
class Findings:
    """What was measured in a folder, of the first subtasks where there are very many; None where it was not.

    Attributes:
        about: what the effects are about.
        top: the units that each subtask needs most.
        locality: scores; they need 2 measured units in 3 folds.
        removal: joint removal.
        positions: effects by position.
        calibration: how far the estimate can be trusted, by subtask.
        study: the effects themselves.
        attacks: by where they lie.
        every: number of subtasks that were measured.
    """

    about: About
    top: dict[str, tuple[TopUnit, ...]]
    locality: Locality | None
    removal: Removed | None
    positions: ByPosition | None
    calibration: dict[str, Calibration] | None
    study: Measured = field(repr=False)
    attacks: dict[str, Relearning] = field(default_factory=dict, repr=False)
    every: int = 0


def read_findings(folder: Path, *, top: int = 10) -> Findings:
    """Read what a folder holds.

    Args:
        folder: what `skilloc effects` and the commands after it wrote.
        top: number of units that count as a subtask's top.

    Raises:
        FileNotFoundError: if nothing finished was measured there.
        ValueError: if a part of it was cut or altered.
    """
    study = load_measured(folder)
    every, effects = len(study.effects.subtasks), first(study.effects)
    held, where = folder / "removal", folder / "positions"
    gone = store.load(Removal, held) if held.is_dir() else None
    placed = store.load(PositionEffects, where) if where.is_dir() else None
    chosen = None if gone is None else gone.made.get("effects")
    if chosen is not None and _without(chosen, "only") != _without(effects.made, "only"):
        raise WrongValue(_foreign(held, folder))
    if placed is not None and placed.made.get("effects") not in (None, store.key(dict(effects.made))):
        raise WrongValue(_foreign(where, folder))
    most = int(effects.measured.sum()) - 1
    enough = len(effects.values) >= 3 and most >= 1
    return Findings(
        about=about(effects),
        top=top_units(effects),
        locality=locality_of(effects, top=min(top, most)) if enough else None,
        removal=None if gone is None else removed(first(gone)),
        positions=None if placed is None else by_position(first(placed)),
        calibration=None if study.compared is None else study.compared.of(effects.subtasks),
        study=study._replace(effects=effects),
        attacks={name: store.load(Relearning, path) for name, path in attacks_in(folder).items()},
        every=every,
    )


def check_circuits(folder: Path, circuits: Mapping[str, Any], effects: Effects) -> None:
    """Refuse circuits of another model, or whose units other effects have chosen, than those of their folder.

    Raises:
        ValueError: naming the circuit.
    """
    for name, graph in circuits.items():
        chosen = graph.graph[MADE].get("effects") if MADE in graph.graph else None
        other = graph.graph.get(MODEL, {}).get("digest") not in (None, effects.made.get("model"))
        if other or chosen not in (None, store.key(dict(effects.made))):
            raise WrongValue(_foreign(folder, folder, f"the circuit of {name}"))


def _foreign(part: Path, folder: Path, what: str = "what it holds") -> str:
    return (
        f'"{part}": {what} was made from another study than that of "{folder}"; name the folder that it comes from, or '
        "move it out"
    )


def _without(made: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in made.items() if key != name}


def title_of(found: Findings) -> str:
    """Return what a page about them is called."""
    return f"What the units of {found.about.model} do"


def sections_of(found: Findings, circuits: CircuitsFound | None = None) -> list[Section]:
    """Return all sections but that of the circuits, which comes last: what was found, then each result."""
    parts: list[Section | None] = [found_section(found, circuits), prompts_section(found.study.effects)]
    if found.locality is not None:
        parts += [locality_section(found.locality), between_section(found.locality)]
    if found.removal is not None:
        parts.append(removal_section(found.removal))
    if found.positions is not None:
        parts.append(positions_section(found.positions))
    if found.calibration is not None:
        parts.append(calibration_section(found.calibration, found.study.effects, found.study.compared))
    parts += [attack_section(attack, name) for name, attack in found.attacks.items()]
    parts += [units_section(found.study.effects), limits_section(found)]
    return [part for part in parts if part is not None]


def found_section(found: Findings, circuits: CircuitsFound | None = None) -> Section:
    """Return the opening: what was found, in sentences, and then what was measured."""
    measured = measured_section(found.study.effects)
    sentences = [_of_subtask(found, name) for name in found.about.subtasks[:MOST]]
    if len(found.about.subtasks) > MOST:
        sentences.append(f"{len(found.about.subtasks) - MOST} more subtasks are in the tables.")
    if found.locality is not None and found.locality.between:
        sentences.append(f"{between_words(found.locality)}.")
    if found.removal is not None:
        sentences.append(removal_words(found.removal))
    if found.calibration is not None:
        sentences.append(calibration_words(found.calibration))
    for name, attack in found.attacks.items():
        sentences.append(attack_section(attack, name).sentences[0])
    if circuits is not None:
        sentences += [circuit_words(one) for one in list(circuits.subtasks.values())[:MOST]]
    said = (*subtasks_words(found.every), *sentences, *measured.sentences)
    return replace(measured, title="What was found", sentences=said)


def _of_subtask(found: Findings, name: str) -> str:
    """Say of one subtask how local it is, and what it needs most."""
    unit, top = found.about.unit, [one for one in found.top[name][:3] if np.isfinite(one.value)]
    needs = ", ".join(f"{one.unit} ({number(one.value)})" for one in top)
    needed = f"It needs most: {needs} {unit}." if needs else "None of its units was measured."
    if found.locality is None:
        return f"{name}: no locality scores, which need at least 2 measured units in 3 folds. {needed}"
    score = found.locality.scores[name]["effective_number"]
    verdict = compared(score, below="more local than chance", above="less local than chance")
    units = f" (effective number of units {said(score)}, chance {number(score.chance)})"
    return f"{name} is {verdict}{units if np.isfinite(score.value) else ''}. {needed}"


def limits_section(found: Findings) -> Section:
    """Return what these numbers do not say."""
    sentences, drawn = [], found.study.effects.made.get("drawn", {})
    if found.locality is not None:
        unknown = [
            f"{label(score, top=found.locality.top)} of {name}"
            for name, scores in found.locality.scores.items()
            for score in ("effective_number", "k50")
            if not np.isfinite(scores[score].value)
        ]
        if unknown:
            sentences.append(f"Too noisy to state on so few examples: {', '.join(unknown)}.")
    counted = f"{drawn['sequences']:,} examples per subtask" if drawn else "These are examples"
    sentences.append(
        f"{counted} of one model, and one reference ({found.about.reference}); another may rank units differently "
        "(`--reference mean`)."
    )
    sentences.append("Units that stand in for each other have small effects alone, whatever they do together.")
    return Section("What this does not say", tuple(sentences))
