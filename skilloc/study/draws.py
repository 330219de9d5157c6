"""The examples of a study: drawn from sources that have a name, and drawn again from the record of a result."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from skilloc.effects import Effects
from skilloc.intervene import Reference, mean_reference, resample_reference, zero_reference
from skilloc.models.language import Opened, context_length, digest, encoder, separator
from skilloc.models.mlp import MLP
from skilloc.study.settings import Settings
from skilloc.tasks import Examples, Subtask
from skilloc.tasks.subtask import Split
from skilloc.tasks.text import documents, text_subtask
from skilloc.tasks.world import open_world
from skilloc.units import Units

DRAW = ("sequences", "split", "seed", "reference")


def subtasks_of(opened: Opened, sources: Mapping[str, str], *, length: int) -> dict[str, Subtask]:
    """Make a subtask of every source: of texts, in the tokens of a model; for an `MLP`, of the world beside it.

    Args:
        opened: the model and its tokenizer.
        sources: where the texts of each subtask come from, as `tasks.text.documents` reads it; for an `MLP`, a name of
            a subtask in its `world.json`, such as composite_012.
        length: tokens per example; an `MLP` has none.

    Raises:
        ValueError: if there are no sources, one has no texts, the length is beyond the model's context, or a subtask is
            not of the world.
        FileNotFoundError: if a file is not there, also `world.json` for an `MLP`.
    """
    if not sources:
        raise ValueError("`sources` is empty; name at least one subtask")
    if isinstance(opened.model, MLP):
        return _of_world(Path(opened.name).expanduser(), sources)
    context = context_length(opened.model)
    if length > context:
        raise ValueError(
            f'`length` is {length} but the context of "{opened.name}" is {context} tokens; use at most that'
        )
    encode, end = encoder(opened.tokenizer), separator(opened.tokenizer)
    made = {
        name: text_subtask(name, documents(source), encode, length=length, separator=end)
        for name, source in sources.items()
    }
    return {name: replace(made[name], made={**(made[name].made or {}), "source": sources[name]}) for name in made}


def _of_world(folder: Path, sources: Mapping[str, str]) -> dict[str, Subtask]:
    world = open_world(folder)
    for source in sources.values():
        if source not in world:
            raise ValueError(f'unknown subtask "{source}"; the world of "{folder}" has {", ".join(world)}')
    return {
        name: replace(world[source], name=name, made={**(world[source].made or {}), "source": source})
        for name, source in sources.items()
    }


def draw(subtasks: Mapping[str, Subtask], settings: Settings) -> dict[str, Examples]:
    """Draw the examples of every subtask, from the split that the settings name.

    Raises:
        ValueError: if the split is unknown, or holds too little text.
    """
    return _draw(subtasks, settings, settings.split)


def reference_of(
    opened: Opened, subtasks: Mapping[str, Subtask], batches: Mapping[str, Examples], units: Units, settings: Settings
) -> Reference:
    """Make the reference that the settings name; a mean comes from text of another split than the measured one."""
    if settings.reference == "mean":
        other = "train" if settings.split == "selection" else "selection"
        return mean_reference(opened.model, _draw(subtasks, settings, other), units)
    if settings.reference == "resample":
        return resample_reference(opened.model, batches, units, seed=settings.seed)
    return zero_reference(units)


def record_of(subtasks: Mapping[str, Subtask], batches: Mapping[str, Examples], settings: Settings) -> dict[str, Any]:
    """Return what `redraw` needs, with what the texts are. JSON only."""
    kept = {name: getattr(settings, name) for name in DRAW}
    return {
        "subtasks": {name: dict(subtask.made or {}) for name, subtask in subtasks.items()},
        "length": max(batch.inputs.shape[1] for batch in batches.values()),
        **kept,
    }


def redraw(
    opened: Opened, effects: Effects, *, subtasks: Mapping[str, Subtask] | None = None, reference: str | None = None
) -> tuple[dict[str, Examples], Reference]:
    """Draw the examples of a result again, with its reference; refuse if they, or the model, are not the same.

    Args:
        opened: the model that the effects were measured on.
        effects: effects that a study measured.
        subtasks: what they were drawn from; read again from the sources in the record if not given.
        reference: another reference than theirs.

    Raises:
        ValueError: if the effects do not say how their examples were drawn, the model is another one, or the texts
            have changed.
    """
    subtasks, settings = recalled(opened, effects, subtasks=subtasks, reference=reference)
    batches = draw(subtasks, settings)
    for name, batch in batches.items():
        if batch.digest != effects.made["tokens"].get(name):
            raise ValueError(
                f'the texts of subtask "{name}" are not those of these effects any more; measure the effects again'
            )
    return batches, reference_of(opened, subtasks, batches, effects.units, settings)


def recalled(
    opened: Opened, effects: Effects, *, subtasks: Mapping[str, Subtask] | None = None, reference: str | None = None
) -> tuple[Mapping[str, Subtask], Settings]:
    """Return what the examples of a result were drawn from, and the settings of that draw.

    Args:
        opened: the model that the effects were measured on.
        effects: effects that a study measured.
        subtasks: what they were drawn from; read again from the sources in the record if not given.
        reference: another reference than theirs.

    Raises:
        ValueError: if the effects do not say how their examples were drawn, or the model is another one.
    """
    drawn: Mapping[str, Any] | None = effects.made.get("drawn")
    if not drawn:
        raise ValueError("`effects` do not say how their examples were drawn; measure them with `skilloc effects`")
    found, wanted = digest(opened.model), effects.made["model"]
    if found != wanted:
        name = effects.made.get("name")
        cure = "its weights have changed: measure the effects again" if opened.name == name else f"open {name}"
        raise ValueError(f'"{opened.name}" ({found}) is not the model that these effects are of ({wanted}); {cure}')
    kept = {name: drawn[name] for name in DRAW}
    settings = Settings(folds=len(effects.values), **{**kept, **({"reference": reference} if reference else {})})
    if subtasks is None:
        # JSON sorts names; the subtask axis has an order of its own.
        sources = {name: drawn["subtasks"][name].get("source", "") for name in effects.subtasks}
        if not all(sources.values()):
            raise ValueError("the subtasks of these effects have no source to read again; pass them as `subtasks`")
        subtasks = subtasks_of(opened, sources, length=drawn["length"])
    return subtasks, settings


def _draw(subtasks: Mapping[str, Subtask], settings: Settings, split: str) -> dict[str, Examples]:
    if split not in get_args(Split):
        raise ValueError(f'unknown split "{split}"; use one of {", ".join(get_args(Split))}')
    return {
        name: subtask.draw(settings.sequences, split=cast(Split, split), seed=settings.seed)
        for name, subtask in subtasks.items()
    }
