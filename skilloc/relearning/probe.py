"""The probe: every model under the same attack."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from skilloc.masks import Mask
from skilloc.mistakes import WrongValue
from skilloc.models.language import digest
from skilloc.models.makers import face_of
from skilloc.relearning.curves import edges, envelope, warnings_of
from skilloc.relearning.doing import do_runs, places_of
from skilloc.relearning.listed import short_list
from skilloc.relearning.question import Probe, blank, entries, probe_of
from skilloc.relearning.result import Relearning
from skilloc.relearning.runs import Asked, runs_of, seeded
from skilloc.relearning.settings import Grid, Model, attack_kind
from skilloc.store.progress import counter
from skilloc.tasks import Subtask

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
    masks = masks or {}
    for name in set(masks) - set(models):
        raise WrongValue(f'`masks` names "{name}", but the models are {", ".join(models)}; name one of them')
    probe = probe_of(models, (attack, report, kept), grid or Grid(), seeds, out)
    arrays = _attacked(probe, masks)
    for _ in range(probe.question.grid.wider):
        own = probe.question
        wider = _wider(own.grid, _result(arrays, probe, {}))
        if wider.rates == own.grid.rates:
            break
        probe = probe._replace(question=own._replace(grid=wider))
        arrays = _attacked(probe, masks)
    result = _result(arrays, probe, _made(probe, report))
    for said in warnings_of(result):
        warnings.warn(said, stacklevel=2)
    return result


def _attacked(probe: Probe, masks: Mapping[str, Mask]) -> dict[str, np.ndarray]:
    """Attack all models, and return the arrays of a `Relearning`."""
    question, of = probe.question, probe.of
    grid = question.grid
    arrays = blank(question, models=len(of), seeds=len(probe.seeds))
    each = len(grid.ways) * len(grid.sizes) * len(grid.rates)
    listed: dict[str, set[int]] = {}
    with counter(len(of) * len(probe.seeds) * each, "relearning") as bar:
        for s in range(len(probe.seeds)):
            own = seeded(probe, s)
            together: list[Asked] = []
            for m, (name, models) in enumerate(of.items()):
                mask = masks.get(name)
                runs = runs_of(models[s], mask, own, entries(arrays, m, s))
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


def _result(arrays: Mapping[str, Any], probe: Probe, made: Mapping[str, Any]) -> Relearning:
    question = probe.question
    grid = question.grid
    axes: dict[str, Any] = {
        "ways": tuple(way.name for way in grid.ways),
        "sizes": grid.sizes,
        "rates": grid.rates,
        "steps": grid.steps,
        "subtasks": tuple(s.name for s in question.kept),
    }
    about_loss: dict[str, Any] = {"chance": probe.chance, "chances": probe.chances, "unit": grid.metric.unit}
    return Relearning(**dict(arrays), models=tuple(probe.of), **axes, **about_loss, made=made)


def _made(probe: Probe, report: Subtask) -> dict[str, Any]:
    question, of = probe.question, probe.of
    return {
        "attack": {subtask.name: dict(subtask.made or {}) for subtask in question.attack},
        "kind": attack_kind(question.attack, report, question.kept),
        "report": report.name,
        "grid": question.grid.record(),
        "seeds": list(probe.seeds),
        "held_out": question.held_out.record(),
        "digests": {name: [digest(model) for model in listed] for name, listed in of.items()},
        "parameters": {name: sum(p.numel() for p in listed[0].parameters()) for name, listed in of.items()},
    }
