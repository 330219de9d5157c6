"""The relearning probe for opened models: attacked beside their controls, kept in a folder."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from skilloc import store
from skilloc.mistakes import WrongValue, a_file_name
from skilloc.models.language import Opened, digest
from skilloc.models.makers import face_of
from skilloc.relearning import (
    CONTROLS,
    UNSEEN,
    Grid,
    Relearning,
    never_saw_like,
    relearn_controls,
    relearn_probe,
    unseen_parity,
    with_plasticity,
)
from skilloc.relearning.controls import cut_alike, larger
from skilloc.relearning.settings import Model
from skilloc.study.folder import claim
from skilloc.tasks import Subtask


@dataclass(frozen=True)
class AttackSettings:
    """What is attacked, and how.

    Attributes:
        attack: name of the subtask that was to be removed.
        train: names of the subtasks that the attacker trains on; the attacked one if not given.
        grid: rates, budgets and sizes.
        seeds: of the attack.
    """

    attack: str
    train: Sequence[str] = ()
    grid: Grid = field(default_factory=Grid)
    seeds: Sequence[int] = (0, 1, 2)

    def record(self) -> dict[str, Any]:
        """Return the fields. JSON only."""
        return {"attack": self.attack, "train": list(self.train), "seeds": list(self.seeds), **self.grid.record()}


@store.working("out", inside=True)
def attack_models(
    original: Opened,
    pruned: Mapping[str, Opened],
    out: Path,
    subtasks: Mapping[str, Subtask],
    settings: AttackSettings,
    *,
    others: Mapping[str, Opened] = {},
) -> dict[str, Relearning]:
    """Attack each model beside controls of its own shape; return what was found, by name.

    Where no network that never saw the attacked subtask is given, chains of linear maps get one of each candidate's
    shape; of other models, the verdict is "not comparable". In a parity world, each candidate also learns a parity that
    nobody has seen (`relearning.plasticity`). A network that never saw the subtask and is larger than a candidate is
    cut to the candidate's own size and shape first (`relearning.controls.cut_alike`).

    Runs that `out` holds are not done again. Each model gets `out/NAME` with its losses.

    Args:
        original: before anything was done to it.
        pruned: the models that the question is about, by name.
        out: the folder.
        subtasks: all that are measured; those that are neither attacked nor trained on are what was to be kept.
        settings: what is attacked, and how.
        others: controls of the caller's own: "never saw", a network that was trained on everything but the attacked
            subtask; "plain finetuning", the original after finetuning for as long as localizing took, without the
            penalty.

    Raises:
        ValueError: if a name is unknown, the models do not belong together, or the folder holds another study.
    """
    attack, train, grid, seeds = settings.attack, settings.train, settings.grid, settings.seeds
    _check(original, pruned, subtasks, attack, train)
    kept = [subtask for name, subtask in subtasks.items() if name != attack]
    trained = [subtasks[name] for name in train or (attack,)]
    claim(out, _request(original, {**pruned, **others}, subtasks, settings))
    found = {}
    for name, opened in pruned.items():
        models: dict[str, Model] = relearn_controls(original.model, opened.model, seeds=seeds)
        if UNSEEN not in others and kept and face_of(opened.model).chain is not None:
            # Networks of this kind learn in seconds, so that each candidate gets some of its own shape.
            models[UNSEEN] = never_saw_like(opened.model, kept, seeds=seeds)
        models |= {control: other.model for control, other in others.items()} | {name: opened.model}
        if UNSEEN in others and kept and larger(others[UNSEEN].model, opened.model):
            models[UNSEEN] = cut_alike(others[UNSEEN].model, opened.model, kept)
        result = relearn_probe(models, trained, subtasks[attack], grid, seeds, kept=kept, out=out)
        new = unseen_parity(subtasks[attack], kept)
        if new is not None:
            result = with_plasticity(result, models, new, grid, seeds, out=out)
        store.save(result, out / name)
        found[name] = result
    return found


def check_names(attacked: Iterable[str], subtasks: Iterable[str]) -> None:
    """Refuse to attack, or to train on, a subtask that is not there: before models are read, and again with them.

    Raises:
        ValueError: naming it.
    """
    there = list(subtasks)
    for name in attacked:
        if name not in there:
            raise WrongValue(f'unknown subtask "{name}" in the attack; the subtasks are {", ".join(there)}')


def _request(
    original: Opened,
    others: Mapping[str, Opened],
    subtasks: Mapping[str, Subtask],
    settings: AttackSettings,
) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "what": "relearning study",
        "model": {
            "original": digest(original.model),
            **{name: digest(opened.model) for name, opened in others.items()},
        },
        "settings": settings.record(),
        "tokens": {name: dict(subtask.made or {}) for name, subtask in subtasks.items()},
    }
    read: dict[str, Any] = json.loads(store.canonical(asked))
    return read


def _check(
    original: Opened, pruned: Mapping[str, Opened], subtasks: Mapping[str, Subtask], attack: str, train: Sequence[str]
) -> None:
    check_names((attack, *train), subtasks)
    if not pruned:
        raise WrongValue("`pruned` is empty; pass at least one model that `skilloc prune` wrote")
    for name, opened in pruned.items():
        a_file_name("pruned", name)
        if name in CONTROLS or name in ("runs", "request"):
            raise WrongValue(f'a model is called "{name}", which has a meaning of its own; write OTHER=MODEL')
        if _outputs(opened, subtasks[attack]) != _outputs(original, subtasks[attack]):
            raise WrongValue(
                f'"{opened.name}" is no smaller version of "{original.name}": they differ in make or vocabulary; pass '
                "the model that it was pruned from first"
            )


def _outputs(opened: Opened, subtask: Subtask) -> tuple[type, int]:
    """Return the make of a model, and how many outputs it has."""
    examples = subtask.draw(1, seed=0).to(next(opened.model.parameters()).device)
    try:
        with torch.no_grad():
            return type(opened.model), face_of(opened.model).run(examples.inputs).shape[-1]
    except (RuntimeError, IndexError):  # it does not even take these inputs
        return type(opened.model), 0
