"""The relearning probe for opened models: attacked beside their controls, kept in a folder."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import torch

from skilloc import store
from skilloc.experiment.threads import one_thread
from skilloc.mistakes import WrongValue, a_file_name
from skilloc.models.language import Opened, digest
from skilloc.models.makers import face_of
from skilloc.relearning import CONTROLS, Relearning, relearn_probe, unseen_parity, with_plasticity
from skilloc.relearning.attack import hold_out
from skilloc.relearning.question import probe_of
from skilloc.study.attacking import Attack, AttackSettings, attack_elsewhere, shared_by_parts
from skilloc.study.folder import claim
from skilloc.sweep import Doing, Pool, hired
from skilloc.tasks import Subtask


@store.working("out", inside=True)
def attack_models(
    original: Opened,
    pruned: Mapping[str, Opened],
    out: Path,
    subtasks: Mapping[str, Subtask],
    settings: AttackSettings,
    *,
    others: Mapping[str, Opened] = {},
    workers: int | Pool = 1,
) -> dict[str, Relearning]:
    """Attack each model beside controls of its own shape; return what was found, by name.

    Where no network that never saw the attacked subtask is given, chains of linear maps get one of each candidate's
    shape; of other models, the verdict is "not comparable". In a parity world, each candidate also learns a parity that
    nobody has seen (`relearning.plasticity`). A network that never saw the subtask and is larger than a candidate is
    cut to the candidate's own size and shape first (`relearning.controls.cut_alike`).

    Runs that `out` holds are not done again, whoever did them. Each model gets `out/NAME` with its losses. Every
    operation runs on one core, so that results do not depend on how many there are.

    Args:
        original: before anything was done to it.
        pruned: the models that the question is about, by name.
        out: the folder.
        subtasks: all that are measured; those that are neither attacked nor trained on are what was to be kept.
        settings: what is attacked, and how.
        others: controls of the caller's own: "never saw", a network that was trained on everything but the attacked
            subtask; "plain finetuning", the original after finetuning for as long as localizing took, without the
            penalty.
        workers: this process, or others (`Pool`), to which models and subtasks must be known by name. What is learned
            of a new parity, and rates that a grid is widened by, stay in this process.

    Raises:
        ValueError: if a name is unknown, the models do not belong together, the folder holds another study, or other
            processes could not make the attack.
    """
    grid, seeds = settings.grid, settings.seeds
    _check(original, pruned, subtasks, settings.attack, settings.train)
    attack = Attack(original, pruned, subtasks, settings, others)
    shared = shared_by_parts(attack) if isinstance(workers, Pool) and workers.elsewhere else None
    trained, report, kept = attack.asked
    hold_out(report, kept, grid, next(original.model.parameters()).device)  # refused before the folder is claimed
    claim(out, _request(original, {**pruned, **others}, subtasks, settings))
    found = {}
    with one_thread(), ExitStack() as at_hand:

        @cache
        def doing() -> Doing:
            assert isinstance(workers, Pool)
            return at_hand.enter_context(hired(workers))

        for name in pruned:
            models = attack.models(name, seeds)
            if shared is not None:
                attack_elsewhere(shared, name, probe_of(models, attack.asked, grid, seeds, out), doing, out)
            result = relearn_probe(models, trained, report, grid, seeds, kept=kept, out=out)
            new = unseen_parity(report, kept)
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
