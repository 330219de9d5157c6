"""The controls that can be made from the original and the pruned model."""

from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from skilloc.attribution import attribution_effects
from skilloc.experiment import Experiment
from skilloc.masks import Mask, matched_random, top
from skilloc.mistakes import WrongValue, a_seed, positive, whole
from skilloc.models.makers import face_of
from skilloc.pruning import prune
from skilloc.relearning.settings import NEVER, ORIGINAL, RANDOM, Model
from skilloc.tasks import Subtask
from skilloc.tasks.streams import stream
from skilloc.training import TrainConfig
from skilloc.training.many import retrain
from skilloc.units import EXPERT, LAYER, RESIDUAL, Units

OTHERS = 10_000
"""Added to seeds of networks that never saw the subtask, so that they share none with what they stand beside."""

EXAMPLES = 100
"""Per subtask and step of their training."""


def relearn_controls(original: Model, pruned: Model, *, seeds: Sequence[int]) -> dict[str, Model]:
    """Return the original, random masks of equal size and layers, and never-trained networks of the pruned shape.

    Each seed has a random mask and initial values of its own, so that intervals over seeds cover that choice. Where
    nothing was pruned there is no random mask, and the verdict says so. A network that never saw the subtask, and, for
    a localized model, plain finetuning for as long, must be trained; add them under the names in `CONTROLS`.

    Args:
        original: before anything was done to it; or one model per seed.
        pruned: the model that the question is about, in its smaller shape; or one per seed.
        seeds: those of the probe.

    Raises:
        ValueError: if the number of models is not that of seeds, the two models are of different make, or nobody knows
            how to initialise one afresh.
    """
    for seed in seeds:
        a_seed("seeds", seed)
    pairs = list(zip(_listed(original, seeds), _listed(pruned, seeds), seeds, strict=True))
    found: dict[str, Model] = {ORIGINAL: original, NEVER: [untrained(small, seed=seed) for _, small, seed in pairs]}
    if any(_axes(small) != _axes(large) for large, small, _ in pairs):
        found[RANDOM] = [randomly_pruned(large, small, seed=seed) for large, small, seed in pairs]
    return found


def randomly_pruned(original: nn.Module, pruned: nn.Module, *, seed: int) -> nn.Module:
    """Return the original without as many units of every bank as another model lacks, chosen at random.

    Raises:
        ValueError: if the other model has other banks, or more units than the original.
    """
    a_seed("seed", seed)
    return _cut(original, pruned, lambda _, mask: matched_random(mask, seed=seed, disjoint=False))


def cut_alike(model: nn.Module, pruned: nn.Module, kept: Sequence[Subtask], *, examples: int = 16) -> nn.Module:
    """Return a model without as many units of every bank as another lacks: those that the kept subtasks need least.

    So a network that never saw a subtask becomes one of a candidate's own size and shape. What is needed is estimated
    by attribution, on the train split.

    Args:
        model: as large as what the candidate was cut from.
        pruned: the candidate.
        kept: what the candidate was to keep.
        examples: per subtask.

    Raises:
        ValueError: if the candidate has other banks, or more units than the model.
    """
    whole("examples", examples)

    def needed(smaller: nn.Module, mask: Mask) -> Mask:
        drawn = {subtask.name: subtask.draw(examples, split="train", seed=OTHERS) for subtask in kept}
        kinds = tuple(dict.fromkeys(bank.kind for bank in mask.units.banks))
        effects = attribution_effects(Experiment(smaller, drawn, kinds, folds=1)).values.mean(axis=(0, 1))
        keep = [top(effects[span], int(mask.keep[span].sum())) for span in map(mask.units.span, mask.units.hooks)]
        return Mask(mask.units, np.concatenate(keep))

    return _cut(model, pruned, needed)


def larger(model: nn.Module, pruned: nn.Module) -> bool:
    """Whether a model has all banks of another, each at least as wide, and one wider."""
    pairs = list(zip(_axes(model), _axes(pruned), strict=False))
    own, left = (
        [dict(zip(units.hooks, units.widths, strict=True)) for units in side] for side in zip(*pairs, strict=True)
    )
    holds = all(set(b) <= set(a) and all(b[hook] <= a[hook] for hook in b) for a, b in zip(own, left, strict=True))
    return holds and own != left


def _cut(original: nn.Module, pruned: nn.Module, choose: Callable[[nn.Module, Mask], Mask]) -> nn.Module:
    """Return a model with as many units of every bank as another has, chosen by the model so far and a mask of so many.

    Raises:
        ValueError: if the other model has other banks, or more units than the original.
    """
    smaller = original
    for units, left in zip(_axes(original), _axes(pruned), strict=True):
        widths = dict(zip(left.hooks, left.widths, strict=True))
        own = dict(zip(units.hooks, units.widths, strict=True))
        if not set(widths) <= set(own) or any(widths.get(hook, 0) > width for hook, width in own.items()):
            raise WrongValue(
                f"`pruned` has widths {left.widths} but `original` {units.widths}; pass the model that it was pruned "
                "from"
            )
        if widths != own:
            keep = np.concatenate([np.arange(width) < widths.get(hook, 0) for hook, width in own.items()])
            smaller = prune(smaller, choose(smaller, Mask(units, keep)))
    return smaller


def _axes(model: nn.Module) -> list[Units]:
    """Return the axes on which a model can lose units: neurons, heads and what is declared; residual dimensions."""
    banks = [bank for bank in face_of(model).banks() if bank.kind not in (LAYER, EXPERT)]
    axes = [tuple(bank for bank in banks if (bank.kind == RESIDUAL) == stream) for stream in (False, True)]
    return [Units(axis) for axis in axes if axis]


def untrained(model: nn.Module, *, seed: int) -> nn.Module:
    """Return a network of the same shape with fresh initial values: those of its family, or of its description.

    Raises:
        ValueError: if nobody knows how to initialise it.
    """
    a_seed("seed", seed)
    face = face_of(model)
    if face.fresh is None:
        raise WrongValue(
            f"`model` is a {face.architecture}, of which nobody knows how a fresh one is made; pass `fresh` to "
            "describe, or leave the never-trained control out"
        )
    return face.fresh(seed)


def never_saw_like(
    model: nn.Module, kept: Sequence[Subtask], *, seeds: Sequence[int], steps: int = 1500, rate: float = 5e-3
) -> list[nn.Module]:
    """Return networks of a model's shape that were trained on all but the subtask in question, one per seed.

    For networks that learn in seconds; of a language model, train one by the recipe of the original, and pass it.

    Args:
        model: its shape is what counts.
        kept: what they are trained on: all subtasks but the attacked one.
        seeds: of initial values and examples.
        steps: of Adam.
        rate: of Adam.

    Raises:
        ValueError: if nobody knows how to initialise one, or there is nothing to train on.
    """
    whole("steps", steps)
    positive("rate", rate)
    for seed in seeds:
        a_seed("seeds", seed)
    if not kept:
        raise WrongValue("`kept` is empty; pass the subtasks that a network that never saw the attacked one knows")
    fresh = [untrained(model, seed=OTHERS + seed).requires_grad_(True) for seed in seeds]
    config = TrainConfig(steps=steps, rate=rate)
    sample = stream(kept, EXAMPLES, seed=OTHERS + min(seeds))
    for _ in retrain(fresh, sample, config, lambda _: None):
        pass
    return fresh


def _listed(model: Model, seeds: Sequence[int]) -> list[nn.Module]:
    if isinstance(model, nn.Module):
        return [model] * len(seeds)
    if len(model) != len(seeds):
        raise WrongValue(f"there are {len(model)} models for {len(seeds)} `seeds`; pass one, or one per seed")
    return list(model)
