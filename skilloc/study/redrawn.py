"""The examples of a study again: what its record says of them, and the experiment that they were drawn for."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from skilloc.effects import Effects
from skilloc.effects.made import reference_name
from skilloc.experiment import Experiment
from skilloc.experiment.reference import MEANS
from skilloc.mistakes import WrongValue
from skilloc.models.language import Opened, digest
from skilloc.study.draws import experiment_of, subtasks_of
from skilloc.study.settings import Settings
from skilloc.tasks import Split, Subtask
from skilloc.tasks.asked import Asked
from skilloc.units import Units

DRAW = ("sequences", "split", "seed", "reference", "loss", "at")


def held_out(experiment: Experiment) -> Experiment:
    """Return an experiment with as many examples that did not choose the units: of `selection`, or, of one that is on
    the selection split, of `report`.

    A mean stays the one that units were chosen with.
    """
    split: Split = "report" if experiment.split == "selection" else "selection"
    if experiment.reference not in MEANS:
        return experiment.on(split)
    source: Split = "train" if experiment.split == "selection" else "selection"
    return replace(experiment, split=split, other=experiment.on(source).examples)


def record_of(subtasks: Mapping[str, Subtask], experiment: Experiment, settings: Settings) -> dict[str, Any]:
    """Return what `redraw` needs, with what the texts are. JSON only."""
    kept = {name: getattr(settings, name) for name in DRAW}
    return {
        "subtasks": {name: dict(subtask.made or {}) for name, subtask in subtasks.items()},
        "length": max(own.positions for own in experiment.examples.values()),
        **kept,
    }


class Drawn(NamedTuple):
    """What says how the examples of a result were drawn, and what they were for.

    Attributes:
        made: the record of the result.
        subtasks: names on its subtask axis; JSON sorts names, and this axis has an order of its own.
        units: its unit axis.
        folds: their number.
    """

    made: Mapping[str, Any]
    subtasks: tuple[str, ...]
    units: Units
    folds: int


def drawn_of(effects: Effects) -> Drawn:
    """Return how the examples of some effects were drawn."""
    return Drawn(effects.made, effects.subtasks, effects.units, len(effects.values))


def redraw(
    opened: Opened, effects: Effects | Drawn, *, subtasks: Mapping[str, Subtask] | None = None, **other: str | None
) -> Experiment:
    """Return the experiment of a result again; refuse if its examples, or the model, are not the same.

    Args:
        opened: the model that the effects were measured on.
        effects: effects that a study measured, or how their examples were drawn.
        subtasks: what they were drawn from; read again from the sources in the record if not given.
        other: another `reference`, `loss` or `at` than theirs; None for theirs.

    Raises:
        ValueError: if the effects do not say how their examples were drawn, the model is another one, or the texts
            have changed.
    """
    own = effects if isinstance(effects, Drawn) else drawn_of(effects)
    made, drawn = own.made, own.made.get("drawn")
    if not drawn:
        raise WrongValue("`effects` do not say how their examples were drawn; measure them with `skilloc effects`")
    found, wanted = digest(opened.model), made["model"]
    if found != wanted:
        name = made.get("name")
        cure = "its weights have changed: measure the effects again" if opened.name == name else f"open {name}"
        raise WrongValue(f'"{opened.name}" ({found}) is not the model that these effects are of ({wanted}); {cure}')
    kept = {name: drawn[name] for name in DRAW if name in drawn} | {"reference": reference_name(made)}
    kept |= {name: value for name, value in other.items() if value is not None}
    if subtasks is None:
        sources = {name: drawn["subtasks"][name].get("source", "") for name in own.subtasks}
        if not all(sources.values()):
            raise WrongValue("the subtasks of these effects have no source to read again; pass them as `subtasks`")
        before = any(drawn["subtasks"][name].get("add_bos", False) for name in own.subtasks)  # version 0.1 had none
        add_bos = None if before else False
        asked = [drawn["subtasks"][name].get("asked") for name in own.subtasks]
        if all(asked):
            sources = {drawn["subtasks"][name]["named"]: sources[name] for name in own.subtasks}
            every = subtasks_of(opened, sources, length=drawn["length"], add_bos=add_bos, asked=Asked(**asked[0]))
            if missing := [name for name in own.subtasks if name not in every]:
                raise WrongValue(f'"{missing[0]}" is no group of its source any more; measure the effects again')
            subtasks = {name: every[name] for name in own.subtasks}
        else:
            subtasks = subtasks_of(opened, sources, length=drawn["length"], add_bos=add_bos)
    settings = Settings(folds=own.folds, **kept)
    experiment = replace(experiment_of(opened, subtasks, settings, units=own.units), entries=made.get("entries"))
    for name, examples in experiment.examples.items():
        if examples.digest != made["tokens"].get(name):
            raise WrongValue(
                f'the texts of subtask "{name}" are not those of these effects any more; measure the effects again'
            )
    return experiment
