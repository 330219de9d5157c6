"""The probe: every model under the same attack."""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn
from tqdm import tqdm

from skilloc import store
from skilloc.masks import Mask
from skilloc.models.language import digest
from skilloc.relearning.attack import HeldOut, Repaired, Run, attack_once, chances_of, hold_out, repair, targets_of
from skilloc.relearning.curves import warnings_of
from skilloc.relearning.result import DIMS, STARTS, Relearning
from skilloc.relearning.settings import ORIGINAL, Grid, Model, attack_kind, check_attack, check_models
from skilloc.store import Labelled
from skilloc.tasks import Subtask
from skilloc.tasks.stream import stream


class _Question(NamedTuple):
    """What is the same for all models and seeds."""

    attack: Sequence[Subtask]
    kept: Sequence[Subtask]
    held_out: HeldOut
    grid: Grid
    out: Path | None


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

    Each model is attacked: trained on other subtasks at every rate and data size of the grid, as it is, and once more
    after a repair. The repair trains it on the kept subtasks until it is as good at them as the original, or for
    `grid.repair` steps; a model that is as good already needs none. What is attacked makes the kind of attack: the
    reported subtask itself, related data, or kept data only; a size in the grid makes it one of few examples.

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
    """
    grid, masks = grid or Grid(), masks or {}
    check_attack(grid, kept=out is not None)
    check_models(models, seeds)
    _check_subtasks(attack, report, kept, models, masks)
    of = {name: [model] * len(seeds) if isinstance(model, nn.Module) else model for name, model in models.items()}
    first = of[ORIGINAL][0]
    held_out = hold_out(report, kept, grid, next(first.parameters()).device)
    chance, chances = chances_of(first, held_out, grid.metric)
    asked = _Question(attack, kept, held_out, grid, out)
    shape = {"model": len(of), "size": len(grid.sizes), "rate": len(grid.rates), "step": len(grid.steps)}
    shape |= {"seed": len(seeds), "fold": grid.folds, "subtask": len(kept), "stage": 2, "start": len(STARTS)}
    arrays: dict[str, Any] = {name: np.full([shape[dim] for dim in dims], np.nan) for name, dims in DIMS.items()}
    total = len(of) * len(seeds) * len(STARTS) * len(grid.sizes) * len(grid.rates)
    with tqdm(total=total, desc="relearning", disable=None) as bar:
        for s, seed in enumerate(seeds):
            original = of[ORIGINAL][s]
            targets = targets_of(original, held_out, chances, grid.metric)
            about = _about(asked, original, seed)
            for m, (name, listed) in enumerate(of.items()):
                _attack_model(listed[s], masks.get(name), asked, seed, targets, about, _at(arrays, m, s), bar)
    made = _made(of, report, asked, seeds)
    axes: dict[str, Any] = {
        "sizes": grid.sizes,
        "rates": grid.rates,
        "steps": grid.steps,
        "subtasks": tuple(s.name for s in kept),
    }
    about_loss: dict[str, Any] = {"chance": chance, "chances": chances, "unit": grid.metric.unit}
    result = Relearning(**arrays, models=tuple(of), **axes, **about_loss, made=made)
    for said in warnings_of(result):
        warnings.warn(said, stacklevel=2)
    return result


def _made(
    of: Mapping[str, Sequence[nn.Module]], report: Subtask, asked: _Question, seeds: Sequence[int]
) -> dict[str, Any]:
    return {
        "attack": {subtask.name: dict(subtask.made or {}) for subtask in asked.attack},
        "kind": attack_kind(asked.attack, report, asked.kept),
        "report": report.name,
        "grid": asked.grid.record(),
        "seeds": list(seeds),
        "held_out": asked.held_out.record(),
        "digests": {name: [digest(model) for model in listed] for name, listed in of.items()},
        "parameters": {name: sum(p.numel() for p in listed[0].parameters()) for name, listed in of.items()},
    }


def _at(arrays: Mapping[str, np.ndarray], model: int, seed: int) -> dict[str, np.ndarray]:
    """Return views of the entries of one model and seed."""
    return {
        name: array[(*({"model": model, "seed": seed}.get(dim, slice(None)) for dim in DIMS[name]), ...)]
        for name, array in arrays.items()
    }


def _attack_model(
    model: nn.Module,
    mask: Mask | None,
    asked: _Question,
    seed: int,
    targets: Mapping[str, float],
    about: Mapping[str, Any],
    into: Mapping[str, np.ndarray],
    bar: Any,
) -> None:
    """Do all runs of one model with one seed, or read those that are there."""
    about = {**about, "model": digest(model), "mask": None if mask is None else _bits(mask)}

    @cache
    def repaired() -> Repaired:
        return repair(model, asked.kept, asked.held_out, targets, asked.grid, seed=seed, mask=mask)

    def repair_arrays() -> dict[str, np.ndarray]:
        done = repaired()
        return {"repair": np.stack([done.before, done.after]), "repair_steps": np.array(float(done.steps))}

    found = _kept_in(asked.out, {**about, "what": "repair"}, repair_arrays)
    for name, array in found.items():
        into[name][...] = array
    for b, start in enumerate(STARTS):
        if b and not found["repair_steps"]:
            for name in Run._fields:
                into[name][1] = into[name][0]
            bar.update(len(asked.grid.sizes) * len(asked.grid.rates))
            continue
        for z, size in enumerate(asked.grid.sizes):
            for r, rate in enumerate(asked.grid.rates):

                def attacked(b: int = b, size: int | None = size, rate: float = rate) -> dict[str, np.ndarray]:
                    from_here = repaired().model if b else model
                    run = attack_once(
                        from_here, asked.attack, asked.held_out, asked.grid, rate=rate, size=size, seed=seed, mask=mask
                    )
                    return run._asdict()

                spec = {**about, "what": "relearning run", "start": start, "size": size, "rate": rate}
                for name, array in _kept_in(asked.out, spec, attacked).items():
                    into[name][b, z, r] = array
                bar.update()


def _kept_in(
    out: Path | None, spec: Mapping[str, Any], make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return the arrays of a result folder, made now if it is not there."""
    if out is None:
        return make()
    folder = out / "runs" / store.key(spec)
    if folder.is_dir():
        return {name: array.values for name, array in store.read(folder).arrays.items()}
    made = make()
    inner = {name: tuple(dim for dim in DIMS[name] if dim not in _OUTER) for name in made}
    store.write(folder, spec, {}, {name: Labelled(made[name], inner[name]) for name in made})
    return made


_OUTER = ("model", "start", "size", "rate", "seed")


def _about(asked: _Question, original: nn.Module, seed: int) -> dict[str, Any]:
    """Return what a run depends on besides its own model, rate and size. JSON only."""
    trained = {"attack": asked.attack, "kept": asked.kept}
    grid = asked.grid.record()
    return {
        "original": digest(original),
        **{name: [subtask.name for subtask in subtasks] for name, subtasks in trained.items()},
        "examples": {name: _first(subtasks, asked.grid, seed) for name, subtasks in trained.items()},
        "held_out": asked.held_out.record(),
        "grid": {name: grid[name] for name in grid if name not in ("rates", "sizes")},
        "seed": seed,
    }


def _first(subtasks: Sequence[Subtask], grid: Grid, seed: int) -> str | None:
    """Return the digest of the first step's examples."""
    return stream(subtasks, grid.each, seed=seed)(0).digest if subtasks else None


def _bits(mask: Mask) -> str:
    hooks = f"{mask.units.hooks}{mask.units.widths}".encode()
    return hashlib.sha256(hooks + mask.keep.tobytes()).hexdigest()[:16]


def _check_subtasks(
    attack: Sequence[Subtask],
    report: Subtask,
    kept: Sequence[Subtask],
    models: Mapping[str, Model],
    masks: Mapping[str, Mask],
) -> None:
    if not attack:
        raise ValueError("`attack` is empty; pass what the attacker trains on, for instance `[report]`")
    names = [subtask.name for subtask in kept]
    if report.name in names or len(set(names)) < len(names):
        raise ValueError(
            f'`kept` is {", ".join(names)} and `report` "{report.name}"; name each kept subtask once, and leave out '
            "the one that was to be removed"
        )
    for name in set(masks) - set(models):
        raise ValueError(f'`masks` names "{name}", but the models are {", ".join(models)}; name one of them')
