"""Localize an opened model into a folder: the model, its history, and what it lost, resumable.

The folder holds `request/` (what was asked), `checkpoints/` until it is done, `model/` (which `open_model` opens), and
`history/`, a result folder: losses before and after, live units, the history, and the norms of all groups.
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from skilloc import store
from skilloc.experiment import losses, prepared_for
from skilloc.lasso import LocalizeConfig, group_norms, localize
from skilloc.locality.intervals import mean_interval
from skilloc.mistakes import WrongValue
from skilloc.models.language import Opened, digest
from skilloc.models.makers import face_of, save_model, units_of
from skilloc.pruning import can
from skilloc.pruning.reading import load_localized
from skilloc.pruning.results import Localized
from skilloc.study.folder import claim
from skilloc.study.world import save_world
from skilloc.tasks import Examples, Subtask
from skilloc.tasks.losses import Loss
from skilloc.training import Checkpoints
from skilloc.training.history import History
from skilloc.training.spread import place_of, wait

FOLDS = 8
"""Disjoint parts of the held-out examples, for intervals; fewer where there are fewer examples."""

CHECKPOINT_EVERY = 200
"""Least number of steps between checkpoints."""


def localize_into(
    folder: Path,
    opened: Opened,
    subtasks: Mapping[str, Subtask],
    keep: Sequence[str],
    config: LocalizeConfig,
    *,
    seed: int,
) -> Localized:
    """Localize a model, save it, and return what became of it; the same call goes on where it stopped.

    Where the run is spread (`TrainConfig.spread`), all processes make this call, with one folder, and the first writes.

    Args:
        folder: where everything is kept.
        opened: the model.
        subtasks: all that are measured, by name.
        keep: names of those that the localized model is trained on.
        config: the settings.
        seed: of the examples.

    Raises:
        ValueError: if a name to keep is unknown, the model has no such units, or the folder belongs to something else.
    """
    if not keep:
        raise WrongValue(f"`keep` is empty; name at least one of {', '.join(subtasks)}")
    for name in keep:
        if name not in subtasks:
            raise WrongValue(f'unknown subtask "{name}" in `keep`; these are {", ".join(subtasks)}')
    units_of(opened.model, kinds=config.kinds)  # which refuses kinds that are not there, before anything is written
    if not store.is_complete(folder / "history"):
        can(opened.model, kinds=()).check()
    device = next(opened.model.parameters()).device
    report = {name: subtask.draw(config.held_out, seed=seed).to(device) for name, subtask in subtasks.items()}
    request = _request(opened, subtasks, report, keep, config, seed)
    spread = config.training.spread
    first = place_of(spread)[0] == 0
    with store.at_work(folder, inside=True) if first else nullcontext():
        if first:
            claim(folder, request)
        wait(spread)
        if not store.is_complete(folder / "history"):
            model, history = localize(
                opened.model,
                [subtasks[name] for name in keep],
                config,
                seed=seed,
                watched=[subtask for name, subtask in subtasks.items() if name not in keep],
                checkpoints=Checkpoints(folder / "checkpoints", CHECKPOINT_EVERY),
            )
            if first:
                shutil.rmtree(folder / "model", ignore_errors=True)  # of a call that was stopped before the end
                save_model(model, folder / "model", tokenizer=opened.tokenizer)
                if opened.tokenizer is None:
                    save_world(subtasks.values(), folder / "model")
                store.write(folder / "history", request, *_measured(opened, model, history, report, keep, config))
        if first:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        wait(spread)
    return load_localized(folder)


def _measured(
    opened: Opened,
    model: nn.Module,
    history: History,
    report: Mapping[str, Examples],
    keep: Sequence[str],
    config: LocalizeConfig,
) -> tuple[dict[str, Any], dict[str, store.Labelled]]:
    """Return what became of a model: metrics, and the norms of its groups."""
    units = units_of(model, kinds=config.kinds)
    norms = group_norms(model, units)
    found = {name: _losses(opened.model, model, own, config.metric) for name, own in report.items()}
    metrics = {
        "subtasks": {name: {"kept": name in keep, **row} for name, row in found.items()},
        "unit": config.metric.unit,
        "live": {hook: int((part > 0).sum()) for hook, part in units.split(norms).items()},
        "units": dict(zip(units.hooks, units.widths, strict=True)),
        "revivals": int(history.of("revivals")[-1]),
        "model": digest(model),
        "history": history.record(),
    }
    return metrics, {"norms": store.Labelled(norms, ("unit",), {"unit": units.names})}


def _losses(before: nn.Module, after: nn.Module, examples: Examples, loss: Loss) -> dict[str, Any]:
    known = prepared_for(face_of(before), examples, loss)
    found = [losses(model, examples, loss, known).cpu().numpy() for model in (before, after)]
    folds = np.array_split(found[1] - found[0], min(FOLDS, len(examples)))
    change = mean_interval(np.array([part.mean() for part in folds]))
    return {
        "before": float(found[0].mean()),
        "after": float(found[1].mean()),
        "change": {**change.record(), "value": float((found[1] - found[0]).mean())},
    }


def _request(
    opened: Opened,
    subtasks: Mapping[str, Subtask],
    report: Mapping[str, Examples],
    keep: Sequence[str],
    config: LocalizeConfig,
    seed: int,
) -> dict[str, Any]:
    settings = {**config.record(), **config.training.record(), "keep": list(keep), "seed": seed}
    return {
        "what": "localization",
        "name": opened.name,
        "model": digest(opened.model),
        "tokens": {name: own.digest for name, own in report.items()},
        "subtasks": {name: dict(subtask.made or {}) for name, subtask in subtasks.items()},
        "settings": settings,
    }
