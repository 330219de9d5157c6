"""The probe: every model under the same attack."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from skilloc.masks import Mask
from skilloc.mistakes import WrongValue
from skilloc.models.language import digest
from skilloc.models.makers import face_of
from skilloc.relearning.attack import chances_of, hold_out, targets_of
from skilloc.relearning.curves import edges, envelope, warnings_of
from skilloc.relearning.result import DIMS, Relearning
from skilloc.relearning.runs import Asked, Question, context_of, do_runs, places_of, runs_of, shared_by_runs, short_list
from skilloc.relearning.settings import ORIGINAL, Grid, Model, attack_kind, check_attack, check_models
from skilloc.store.progress import counter
from skilloc.tasks import Subtask, as_subtasks

WIDER = 3.0
"""Factor by which rates are widened."""


def relearn_probe(
    models: Mapping[str, Model],
    attack: Sequence[Subtask],
    report: Subtask,
    grid: Grid | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    kept: Sequence[Subtask] = (),
    masks: Mapping[str, Mask] | None = None,
    out: Path | None = None,
) -> Relearning:
    """Retrain every model on the same examples, and measure how fast a subtask comes back.

    Each model is attacked in every way of the grid (`ways`), at every rate and data size. The repair trains it on the
    kept subtasks until it is as good at them as the original, or for `grid.repair` steps; a model that is as good
    already needs none. What is attacked makes the kind of attack: the reported subtask itself, related data, or kept
    data only; a size in the grid makes it one of few examples.

    Args:
        models: by name; those named as in `CONTROLS` are controls, the others get a verdict. They are left as they
            were. `relearn_controls` builds what can be built from the original and the pruned model.
        attack: what is trained, on the train split.
        report: what is measured, on the other splits.
        grid: the settings.
        seeds: of the examples of the attack.
        kept: what pruning was to keep.
        masks: held at zero all along, by model.
        out: a folder for the runs: the same call does only what is left, and gives the same result.

    Raises:
        ValueError: if a control is missing that every verdict needs, the models, subtasks and settings do not go
            together, or the loss has no gradient or no known chance.

    Example:
        >>> import skilloc as sk
        >>> subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        >>> original, smaller = (sk.MLP(6, 2, width=width, depth=3) for width in (8, 5))
        >>> models = sk.relearning.relearn_controls(original, smaller, seeds=(0, 1)) | {"pruned": smaller}
        >>> grid = sk.relearning.Grid(rates=(1e-2,), budgets=(1, 2), examples=8, held_out=32, repair=0)
        >>> found = sk.relearn_probe(models, [subtasks["parity_0"]], subtasks["parity_0"], grid, seeds=(0, 1))
        >>> found.models
        ('original', 'never trained', 'random mask', 'pruned')
    """
    grid, masks = grid or Grid(), masks or {}
    check_attack(grid, kept=out is not None)
    check_models(models, seeds)
    attack, kept = as_subtasks(attack, "attack"), as_subtasks(kept, "kept")
    _check_subtasks(attack, report, kept, models, masks)
    of = {name: [model] * len(seeds) if isinstance(model, nn.Module) else model for name, model in models.items()}
    first = of[ORIGINAL][0]
    held_out = hold_out(report, kept, grid, next(first.parameters()).device)
    chance, chances = chances_of(first, held_out, grid.metric)
    question = Question(attack, kept, held_out, grid, out)
    arrays = _attacked(of, question, seeds, masks, chances)
    for _ in range(grid.wider):
        wider = _wider(grid, _result(arrays, of, question, chance, chances, {}))
        if wider.rates == grid.rates:
            break
        grid = wider
        question = question._replace(grid=grid)
        arrays = _attacked(of, question, seeds, masks, chances)
    made = _made(of, report, question, seeds)
    result = _result(arrays, of, question, chance, chances, made)
    for said in warnings_of(result):
        warnings.warn(said, stacklevel=2)
    return result


def _attacked(
    of: Mapping[str, Sequence[nn.Module]],
    question: Question,
    seeds: Sequence[int],
    masks: Mapping[str, Mask],
    chances: Sequence[float],
) -> dict[str, np.ndarray]:
    """Attack all models, and return the arrays of a `Relearning`."""
    grid, kept, held_out = question.grid, question.kept, question.held_out
    shape = {"model": len(of), "size": len(grid.sizes), "rate": len(grid.rates), "step": len(grid.steps)}
    shape |= {"seed": len(seeds), "fold": grid.folds, "subtask": len(kept), "stage": 2, "way": len(grid.ways)}
    shape["learner"] = 2
    arrays: dict[str, Any] = {name: np.full([shape[dim] for dim in dims], np.nan) for name, dims in DIMS.items()}
    each = len(grid.ways) * len(grid.sizes) * len(grid.rates)
    listed: dict[str, set[int]] = {}
    with counter(len(of) * len(seeds) * each, "relearning") as bar:
        for s, seed in enumerate(seeds):
            original = of[ORIGINAL][s]
            targets = targets_of(original, held_out, chances, grid.metric)
            shared = shared_by_runs(question, original, seed)
            context = cache(partial(context_of, question, original, seed))
            together: list[Asked] = []
            for m, (name, models) in enumerate(of.items()):
                mask, into = masks.get(name), _at(arrays, m, s)
                runs = runs_of(models[s], mask, question, targets, shared, into, context)
                bar.update(each - places_of(runs))  # ways that make no sense for this model
                # Of larger models, no more copies are held than of one, and not every way is tried at every rate.
                if mask is None and face_of(models[s]).chain is not None:
                    together += runs
                elif face_of(models[s]).chain is not None:
                    do_runs(runs, question, bar, mask=mask)
                else:
                    if name not in listed:
                        listed[name] = short_list(runs, question, mask=mask)
                    chosen = [run for run in runs if run.at[0][0] in listed[name]]
                    do_runs(chosen, question, bar, mask=mask)
                    bar.update(places_of(runs) - places_of(chosen))
            do_runs(together, question, bar)
    return arrays


def _wider(grid: Grid, found: Relearning) -> Grid:
    """Return the grid with a rate more at each end at which some model's best rate lies after the largest budget."""
    ends = {edge.end for edge in edges(found, envelope(found)) if edge.step == found.steps[-1]}
    low = (grid.rates[0] / WIDER,) if ends & {"lowest", "only"} else ()
    high = (grid.rates[-1] * WIDER,) if ends & {"highest", "only"} else ()
    return replace(grid, rates=(*low, *grid.rates, *high))


def _result(
    arrays: Mapping[str, Any],
    of: Mapping[str, Sequence[nn.Module]],
    question: Question,
    chance: float,
    chances: tuple[float, ...],
    made: Mapping[str, Any],
) -> Relearning:
    grid = question.grid
    axes: dict[str, Any] = {
        "ways": tuple(way.name for way in grid.ways),
        "sizes": grid.sizes,
        "rates": grid.rates,
        "steps": grid.steps,
        "subtasks": tuple(s.name for s in question.kept),
    }
    about_loss: dict[str, Any] = {"chance": chance, "chances": chances, "unit": grid.metric.unit}
    return Relearning(**dict(arrays), models=tuple(of), **axes, **about_loss, made=made)


def _made(
    of: Mapping[str, Sequence[nn.Module]], report: Subtask, question: Question, seeds: Sequence[int]
) -> dict[str, Any]:
    return {
        "attack": {subtask.name: dict(subtask.made or {}) for subtask in question.attack},
        "kind": attack_kind(question.attack, report, question.kept),
        "report": report.name,
        "grid": question.grid.record(),
        "seeds": list(seeds),
        "held_out": question.held_out.record(),
        "digests": {name: [digest(model) for model in listed] for name, listed in of.items()},
        "parameters": {name: sum(p.numel() for p in listed[0].parameters()) for name, listed in of.items()},
    }


def _at(arrays: Mapping[str, np.ndarray], model: int, seed: int) -> dict[str, np.ndarray]:
    """Return views of the entries of one model and seed."""
    return {
        name: array[(*({"model": model, "seed": seed}.get(dim, slice(None)) for dim in DIMS[name]), ...)]
        for name, array in arrays.items()
    }


def _check_subtasks(
    attack: Sequence[Subtask],
    report: Subtask,
    kept: Sequence[Subtask],
    models: Mapping[str, Model],
    masks: Mapping[str, Mask],
) -> None:
    if not attack:
        raise WrongValue("`attack` is empty; pass what the attacker trains on, for instance `[report]`")
    names = [subtask.name for subtask in kept]
    if report.name in names or len(set(names)) < len(names):
        raise WrongValue(
            f'`kept` is {", ".join(names)} and `report` "{report.name}"; name each kept subtask once, and leave out '
            "the one that was to be removed"
        )
    for name in set(masks) - set(models):
        raise WrongValue(f'`masks` names "{name}", but the models are {", ".join(models)}; name one of them')
