"""Prune an opened model by the effects of a study, into a folder: the smaller model, and the curve that led to it.

The folder holds `request/` (what was asked), `model/` (which `open_model` opens), `curve/` (losses against kept units,
beside random masks) and `report/` (losses before and after, sizes).
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from skilloc import store
from skilloc.ablation import ablation_effects
from skilloc.attribution import attribution_effects
from skilloc.effects import Effects
from skilloc.effects.made import reference_name
from skilloc.experiment import Experiment
from skilloc.locality.intervals import mean_interval
from skilloc.masks import DRAWS, Mask
from skilloc.mistakes import WrongValue, a_seed, whole
from skilloc.models.language import Opened, digest
from skilloc.models.makers import face_of, save_model, units_of
from skilloc.models.unwrapped import plain
from skilloc.pruning import Curve, Scorer, can, effects_again, mask_curve, masks_of, prune, remaining
from skilloc.pruning.reading import load_pruned
from skilloc.pruning.results import Pruned
from skilloc.pruning.scored import scored
from skilloc.pruning.smaller import check_cut
from skilloc.study.folder import check_settings, claim
from skilloc.study.redrawn import held_out, redraw
from skilloc.study.world import open_world, save_world

CURVE = (0.9, 0.75, 0.5, 0.25, 0.1, 0.05)
"""Shares of the units that the curve keeps, where no numbers are given."""


@dataclass(frozen=True)
class Choice:
    """How units are chosen.

    Attributes:
        keep: number of units that the smaller model keeps.
        subtasks: names of the subtasks that they are kept for; all that were measured if empty.
        signed: rank by signed effects, so that units which do harm go first; else by their magnitude.
        iterative: measure the effects of what is left again after dropping so many; None for once.
        per_layer: keep the same share on every hook.
        draws: number of random masks beside each.
        seed: of the random masks.
        kinds: prune only units of these kinds; all that were measured if not given.
        counts: other numbers of units to keep, for the curve.
        reference: what dropped units are held at, another than that of the effects.
    """

    keep: int
    subtasks: tuple[str, ...] = ()
    signed: bool = False
    iterative: int | None = None
    per_layer: bool = False
    draws: int = DRAWS
    seed: int = 0
    kinds: Sequence[str] = ()
    counts: Sequence[int] = ()
    reference: str | None = None

    def __post_init__(self) -> None:
        whole("keep", self.keep)
        if self.iterative is not None:
            whole("iterative", self.iterative)
        whole("draws", self.draws)
        a_seed("seed", self.seed)

    def record(self) -> dict[str, Any]:
        """Return how units are ranked and compared. JSON only."""
        apart = ("kinds", "counts", "reference")  # what these come to is in the request anyway
        return {name: value for name, value in vars(self).items() if name not in apart} | {
            "subtasks": list(self.subtasks)
        }


@store.working("folder", inside=True)
def prune_into(
    folder: Path,
    opened: Opened,
    effects: Effects,
    choice: Choice,
    *,
    workers: int = 1,
) -> Pruned:
    """Prune a model, save it, and return what became of it; the same call reads what the folder holds already.

    Units are chosen on the examples of the study, and losses are those on as many examples of another split.

    Args:
        folder: where everything is kept.
        opened: the model that the effects were measured on.
        effects: effects that a study measured.
        choice: how units are chosen.
        workers: threads of an exact sweep, where effects are measured again.

    Raises:
        ValueError: if the model or the texts are not those of the effects, units were not measured, the choice is out
            of range, units cannot be cut out, or the folder belongs to something else.
    """
    effects, wanted = check_choice(folder, effects, choice)
    # What is cut out is gone at every position, wherever its effects were measured.
    chosen_on = redraw(opened, effects, reference=choice.reference, at="all")
    kinds_cut = sorted(set(effects.units.kinds))
    check_cut(face_of(opened.model), Mask(effects.units, np.zeros(len(effects.units), dtype=bool)), chosen_on.held)
    if not store.is_complete(folder / "report"):
        can(opened.model, kinds=kinds_cut).check(kinds_cut)
    stated_on = held_out(chosen_on)
    request = {
        "what": "pruning",
        "model": digest(opened.model),
        "tokens": dict(stated_on.folded.digests),
        "units": effects.units.record(),
        "reference": stated_on.held.record(),
        "loss": stated_on.metric.record(),
        "settings": _settings(effects, choice, wanted),
    }
    claim(folder, request)
    if not store.is_complete(folder / "report"):
        scores = _scores(chosen_on, effects, choice, folder / "items", workers)
        masks = masks_of(effects.units, scores, wanted, per_layer=choice.per_layer, every=choice.iterative)
        smaller = prune(opened.model, masks[wanted.index(choice.keep)], reference=chosen_on.held)
        curve = mask_curve(stated_on, masks, draws=choice.draws, seed=choice.seed)
        _save(folder, opened, smaller, curve)
        _state(folder, (opened.model, smaller), curve, stated_on, {**request, "split": stated_on.split})
    shutil.rmtree(folder / "items", ignore_errors=True)
    return load_pruned(folder)


def check_choice(folder: Path, effects: Effects, choice: Choice) -> tuple[Effects, list[int]]:
    """Refuse what cannot be pruned, by what the effects and the folder say: before a model is read.

    Args:
        folder: where everything is to be kept.
        effects: effects that a study measured.
        choice: how units are chosen.

    Returns:
        The effects of the kinds that are pruned, and the numbers of kept units of the curve.

    Raises:
        ValueError: if units were not measured, the choice is out of range, what dropped units are held at differs from
            example to example, or from position to position, or the folder holds another choice.
    """
    effects = _of_kinds(effects, choice.kinds)
    wanted = _counts(effects, choice)
    _check(effects, choice, wanted)
    reference = choice.reference or reference_name(effects.made)
    by_position = reference == "mean" and (effects.made.get("drawn") or {}).get("length", 1) > 1
    if by_position or reference in ("resample", "paired"):
        differs = "position to position" if by_position else "example to example"
        raise WrongValue(
            f'`reference` is "{reference}", which differs from {differs}; prune at zero (--reference zero) or flat mean'
        )
    check_settings(folder, _settings(effects, choice, wanted))
    return effects, wanted


def _settings(effects: Effects, choice: Choice, wanted: Sequence[int]) -> dict[str, Any]:
    return {**choice.record(), "counts": list(wanted), "effects": store.key(dict(effects.made))}


def _counts(effects: Effects, choice: Choice) -> list[int]:
    """Return the numbers of kept units of the curve, falling; to go below what is asked for takes no more rounds."""
    n = len(effects.units)
    shares = [round(share * n) for share in CURVE if choice.iterative is None or share * n >= choice.keep]
    return sorted({n, choice.keep, *(choice.counts or (max(1, count) for count in shares))}, reverse=True)


def _of_kinds(effects: Effects, kinds: Sequence[str]) -> Effects:
    units = effects.units.only(kinds or effects.units.kinds)
    chosen = np.isin(effects.units.kinds, units.kinds)
    if chosen.all():
        return effects
    made = {**effects.made, "only": sorted(set(kinds))}
    values, exact = effects.values[..., chosen], effects.exact[chosen]
    return replace(effects, values=values, units=units, exact=exact, made=made)


def _check(effects: Effects, choice: Choice, counts: Sequence[int]) -> None:
    for name in choice.subtasks:
        effects.of(name)
    if not effects.measured.all():
        raise WrongValue(
            f"the effects are those of {int(effects.measured.sum())} of {len(effects.units)} units, and what was not "
            "measured cannot be ranked; measure all of them (--method attribution is fast)"
        )
    for n in (choice.keep, *counts):
        if not 1 <= n <= len(effects.units):
            raise WrongValue(f"{n} units cannot be kept; keep 1 to {len(effects.units)}, the number that was measured")
    if len(effects.values) < 3 or choice.draws < 1:
        raise WrongValue(
            f"the effects have {len(effects.values)} fold(s) and `draws` is {choice.draws}; an interval needs 3 folds, "
            "and a control at least 1 random mask"
        )


def _scores(experiment: Experiment, effects: Effects, choice: Choice, items: Path, workers: int) -> np.ndarray | Scorer:
    kept_for = choice.subtasks or effects.subtasks
    if choice.iterative is None:
        values = np.stack([effects.mean(name) for name in kept_for])
        return np.asarray((values if choice.signed else np.abs(values)).mean(axis=0))
    measure = partial(ablation_effects, resume=items, workers=workers)
    if effects.made.get("method") != "ablation":
        measure = partial(attribution_effects, curvature=int(effects.made.get("curvature", 8)))
    # One number per unit is all that is asked for, so that folds would only cost time.
    examples = {name: experiment.examples[name] for name in kept_for}
    own = replace(experiment, subtasks=examples, reference=experiment.held, folds=1)
    return effects_again(own, measure, magnitudes=not choice.signed)


def _save(folder: Path, opened: Opened, smaller: nn.Module, curve: Curve) -> None:
    for part in ("model", "curve"):  # of a call that was stopped between here and the end
        shutil.rmtree(folder / part, ignore_errors=True)
    save_model(smaller, folder / "model", tokenizer=opened.tokenizer)
    if opened.tokenizer is None:
        save_world(open_world(Path(opened.name).expanduser()).values(), folder / "model")
    store.save(curve, folder / "curve")


def _state(
    folder: Path, models: tuple[nn.Module, nn.Module], curve: Curve, experiment: Experiment, request: Mapping[str, Any]
) -> None:
    """Write what became of the model, before and after, once everything else is there."""
    (whole_model, smaller), asked = models, request["settings"]
    at = int(np.flatnonzero(curve.kept == asked["keep"])[0])
    mask = curve.masks[at]
    before, after = scored(experiment), scored(experiment, model=smaller)
    random = np.stack([curve.random_losses[:, at], curve.random_accuracies[:, at]], axis=1).mean(axis=0)
    parts = {"before": before, "after": after, "random": random}
    own = units_of(smaller, kinds=set(curve.units.kinds))
    metrics = {
        "unit": experiment.metric.unit,
        "kept": asked["keep"],
        "units": len(curve.units),
        "zeros": int((remaining(whole_model, mask) & ~mask.keep).sum()),
        "parameters": {"before": _parameters(whole_model), "after": _parameters(smaller)},
        "bytes": sum(file.stat().st_size for file in (folder / "model").glob("*.safetensors")),
        "widths": dict(zip(own.hooks, own.widths, strict=True)),
        "kept_for": list(asked["subtasks"] or curve.subtasks),
        "subtasks": {
            name: {
                measure: {part: mean_interval(values[m, :, s]).record() for part, values in parts.items()}
                for m, measure in enumerate(("loss", "accuracy"))
                if not np.isnan(before[m]).all()
            }
            for s, name in enumerate(curve.subtasks)
        },
        "model": digest(smaller),
    }
    store.write(folder / "report", request, metrics)


def _parameters(model: nn.Module) -> int:
    inner: nn.Module = plain(model) if face_of(model).stream else model
    return sum(parameter.numel() for parameter in inner.parameters())
