"""What analyses of narrow language models share: a text to keep, scores of units, recovery, and when curves meet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import distributed, nn

from skilloc.ablation import ablation_effects
from skilloc.attribution import attribution_effects
from skilloc.experiment import Experiment, losses
from skilloc.lasso import group_norms
from skilloc.locality.intervals import Interval, mean_interval
from skilloc.masks import Mask
from skilloc.models.language import Opened, open_model
from skilloc.models.makers import face_of, group
from skilloc.pruning import keep
from skilloc.study.draws import subtasks_of
from skilloc.tasks import Examples, Subtask, stream
from skilloc.tasks.losses import cross_entropy
from skilloc.training import Spread, TrainConfig, train
from skilloc.training.settings import Objective, Products, Rule
from skilloc.training.step import descent_of, goal_of
from skilloc.units import Units

Criterion = Literal["attribution", "curvature", "effects", "paper's", "weight x gradient", "weight norm", "random"]
"""By what units are ranked, least first: activation x gradient with its sign; the same with the curvature; exact
effects by ablation; the paper's formula, which discards the sign of the gradient of each weight; the same with the
sign; the norm of a unit's weights; chance, without replacement."""

CRITERIA: tuple[Criterion, ...] = get_args(Criterion)

TOGETHER = 0.02
"""Nats within which two curves are one, if their interval says so."""


@dataclass(frozen=True)
class Text:
    """A language model, and a text that it is to know."""

    model: str = "embedded"
    """any that `open_model` knows"""
    source: str = "python"
    """of the text that is kept"""
    length: int = 64
    """tokens per example"""
    kinds: tuple[str, ...] = ("neuron",)
    """of units"""
    scored: int = 64
    """training examples by which units are scored"""
    held_out: int = 96
    """examples on each of the selection and the report split"""


@lru_cache(maxsize=1)
def opened_text(text: Text) -> tuple[Opened, Subtask]:
    """Open a model and read its text, once per worker."""
    opened = open_model(text.model, device=device())
    return opened, subtasks_of(opened, {"kept": text.source}, length=text.length)["kept"]


def device() -> str:
    """Return where models run: on this process's GPU under torchrun, else on the CPU."""
    return "cuda" if distributed.is_initialized() and torch.cuda.is_available() else "cpu"


def spread_of(examples: int) -> Spread:
    """Return how a step is spread: in shards over what torchrun started, two examples in a pass; else not at all."""
    if not distributed.is_initialized():
        return Spread()
    return Spread("sharded", max(1, examples // (2 * distributed.get_world_size())))


def experiment_on(text: Text, *, seed: int, folds: int = 8, model: nn.Module | None = None) -> Experiment:
    """Return an experiment on the training examples by which units are scored."""
    opened, kept = opened_text(text)
    examples = kept.draw(text.scored, split="train", seed=seed).to(device())
    return Experiment(model or opened.model, {"kept": examples}, kinds=text.kinds, folds=folds)


def scores_of(experiment: Experiment, criterion: Criterion, *, seed: int) -> np.ndarray:
    """Return how much units count by a criterion: magnitudes, on `unit`."""
    if criterion == "random":
        return np.random.default_rng([seed, 0xA11]).random(len(experiment.units))
    if criterion == "weight norm":
        return np.asarray(group_norms(experiment.model, experiment.units))
    if criterion in ("paper's", "weight x gradient"):
        return weight_gradient(experiment, signed=criterion != "paper's")
    if criterion == "effects":
        return np.asarray(np.abs(ablation_effects(experiment).mean("kept")))
    draws = 8 if criterion == "curvature" else 0
    return np.asarray(np.abs(attribution_effects(experiment, curvature=draws, seed=seed).mean("kept")))


def weight_gradient(experiment: Experiment, *, signed: bool, batches: int = 8) -> np.ndarray:
    """Return the paper's attribution by weights, on `unit`.

        | sum over the weights w of a unit's group of g[w] (-w) |,    g = mean over batches of the gradient of the mean
                                                                      loss, or of its absolute value where not signed

    Without the sign this is no first-order estimate of anything: what adds up are signs of weights.
    """
    face = face_of(face_of(experiment.model).copy())
    face.module.requires_grad_(True)
    examples = experiment.examples["kept"]
    parts = np.array_split(np.arange(len(examples)), min(batches, len(examples)))
    gradients = {name: 0.0 * weight.detach() for name, weight in face.module.named_parameters()}
    descent = descent_of(face, goal_of(face, Objective(cross_entropy), seed=0), products="float32")
    for part in parts:
        face.module.zero_grad()
        descent(examples.part(slice(int(part[0]), int(part[-1]) + 1)), 0)
        for name, weight in face.module.named_parameters():
            if weight.grad is not None:
                gradients[name] += (weight.grad if signed else weight.grad.abs()) / len(parts)
    for name, weight in face.module.named_parameters():
        weight.data.mul_(-gradients[name])
    units = experiment.units
    sums = {
        hook: sum(view.detach().flatten(1).sum(1).double() for view in group(face.module, hook).values())
        for hook in units.hooks
    }
    return np.abs(units.join({hook: value.cpu().numpy() for hook, value in sums.items()}))  # type: ignore[union-attr]


def least_dropped(units: Units, scores: np.ndarray, sparsity: float) -> Mask:
    """Drop a share of all units, those that count least: one global order, no unit twice."""
    order = np.argsort(scores, kind="stable")
    kept = np.ones(len(units), dtype=bool)
    kept[order[: round(sparsity * len(units))]] = False
    return Mask(units, kept)


@dataclass(frozen=True)
class Training:
    """How a pruned model is trained again; the schedule ends where the steps end."""

    steps: int = 256
    """of AdamW"""
    rate: float = 1e-3
    """at full height"""
    examples: int = 8
    """per step"""
    looks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    """steps after which held-out losses are measured"""
    products: Products = "float32"
    """type of the matrix products; weights, gradients and the optimiser are float32"""
    until: float | None = None
    """end at the first look at which the loss on the selection split is below this; None for after all steps"""


def recovered(
    model: nn.Module, mask: Mask, text: Text, training: Training, *, seed: int
) -> tuple[nn.Module, dict[str, list[float]]]:
    """Train a copy of a model whose dropped units stay zero; return it, and held-out losses by step, from step 0.

    Returns:
        The copy; "step", and the losses on "selection" and "report", in nats per token.
    """
    copy = face_of(model).copy()
    rule = keep(copy, mask)
    return copy, trained(copy, text, training, rules=[rule], seed=seed)


def trained(
    model: nn.Module,
    text: Text,
    training: Training,
    *,
    rules: Sequence[Rule] = (),
    objective: Objective | None = None,
    seed: int,
) -> dict[str, list[float]]:
    """Train a model in place on its text, unless it is there already; return held-out losses by step, as `recovered`.

    Args:
        model: the model.
        text: what it reads.
        training: how.
        rules: what acts after each step.
        objective: what is descended; cross-entropy if not given, which is also what is measured.
        seed: of the training examples.
    """
    kept = opened_text(text)[1]
    parts, until = held_out(kept, text), training.until
    if until is not None:
        before = {split: float(losses(model, own).mean()) for split, own in parts.items()}
        if before["selection"] < until:
            return {"step": [0.0], **{split: [loss] for split, loss in before.items()}}
    config = TrainConfig(
        steps=training.steps,
        rate=training.rate,
        products=training.products,
        optimiser="adamw",
        eps=1e-8,
        warm_up=0.05,
        decay="cosine",
        clip=1.0,
        evaluate_at=tuple(step for step in training.looks if step <= training.steps),
        until={} if until is None else {"selection": until},
        spread=spread_of(training.examples),
    )
    sample = stream([kept], training.examples, seed=seed)
    history = train(
        model.requires_grad_(True),
        lambda step: sample(step).to(device()),
        config,
        evaluate=parts,
        loss=objective or Objective(cross_entropy),
        rules=rules,
        seed=seed,
        progress=False,
    )
    return {name: history.of(name).tolist() for name in ("step", "selection", "report")}


def held_out(kept: Subtask, text: Text) -> dict[str, Examples]:
    """Return the examples on which a model is chosen, and those on which its numbers are stated."""
    return {split: kept.draw(text.held_out, split=split).to(device()) for split in ("selection", "report")}


def over_seeds(runs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the mean over seeds with its interval, on `step`."""
    values = np.array(runs, dtype=float)
    found = [mean_interval(values[:, step]) for step in range(values.shape[1])]
    return Interval(*(np.array([one[end] for one in found]) for end in range(3))).record()


def meeting(apart: Mapping[str, Sequence[float]], steps: Sequence[float]) -> float | None:
    """Return the first step from which on two curves are one: their difference is within `TOGETHER`, interval and all.

    Args:
        apart: the difference in pairs, `over_seeds`.
        steps: of both.
    """
    near = (np.array(apart["low"]) > -TOGETHER) & (np.array(apart["high"]) < TOGETHER)
    later = np.flip(np.logical_and.accumulate(np.flip(near)))
    return float(np.array(steps)[later][0]) if later.any() else None
