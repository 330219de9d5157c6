"""The training loop: fresh examples in, a trained model and a history out.

    loss = mean over the step's scored targets of the cross-entropy, in nats, + the sum of the named terms

Adam [Kingma & Ba 2015], AdamW [Loshchilov & Hutter 2019] or SGD with momentum, at a constant rate. A step's examples
pass in blocks of rows whose activations stay in a core's cache; gradients add up over the blocks, and terms are added
once, so that the step is the same. Losses on held-out batches are measured every few hundred steps, not at every step.
Rules act on the weights after each optimiser step: they hold a mask, or take a proximal step.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from skilloc.intervene import losses
from skilloc.models.language import digest
from skilloc.tasks import Examples
from skilloc.training.checkpoints import recall, remember
from skilloc.training.history import History
from skilloc.training.settings import Optimiser, Products, Rule, Sample, Term, TrainConfig, check, optimiser_of
from skilloc.training.step import gradients_of, take_step

__all__ = ["History", "Optimiser", "Products", "Rule", "Sample", "Term", "TrainConfig", "train"]


def train(
    model: nn.Module,
    sample: Sample,
    config: TrainConfig,
    *,
    evaluate: Mapping[str, Examples],
    terms: Mapping[str, Term] | None = None,
    rules: Sequence[Rule] = (),
    checkpoints: Path | None = None,
    checkpoint_every: int = 5000,
    data: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> History:
    """Train a model in place.

    Args:
        model: any model that gives logits; it ends in evaluation mode.
        sample: the examples of each step, for instance `parity_stream(...)`.
        config: the settings.
        evaluate: held-out batches by subtask.
        terms: named terms that are added to the loss and logged.
        rules: act after each optimiser step, in this order.
        checkpoints: a folder for the state of this run: the same call goes on from there, and gives the same result.
        checkpoint_every: least number of steps between checkpoints, which are written after an evaluation.
        data: what names the examples of `sample` (seed, subtasks); checkpoints of other data are refused. JSON only.
        progress: whether to show the progress on stderr, where that is a terminal.

    Raises:
        ValueError: if a setting is out of range, or `checkpoints` holds another run.
        FloatingPointError: if the loss is not finite, with the step.
    """
    terms = terms or {}
    check(config, evaluate, terms)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = optimiser_of(parameters, config)
    spec = {
        "what": "checkpoint",
        "model": digest(model),
        "config": asdict(config),
        "data": dict(data or {}),
        "evaluate": {name: batch.digest for name, batch in evaluate.items()},
        "terms": list(terms),
        "rules": [type(rule).__name__ for rule in rules],
    }
    rows, seen = recall(checkpoints, spec, model, optimiser, rules)
    gradients = gradients_of(model, products=config.products)
    start = kept = int(rows[-1]["step"]) if rows else 0
    try:
        hidden = None if progress else True
        left = range(start, config.steps)
        for step in tqdm(left, desc="training", initial=start, total=config.steps, disable=hidden):
            if step == 0:
                rows.append({"step": 0.0, "examples": 0.0, **_evaluated(model, evaluate)})
            found, count = take_step(model, optimiser, sample(step), gradients, terms)
            seen += count
            for rule in rules:
                rule.after_step(optimiser)
            _check_finite(found, step, config)
            if step == 0:
                rows[0].update(found)
                _hear(rules, rows[0])
            done = step + 1
            if done == config.steps or _is_due(done, config):
                rows.append({"step": float(done), "examples": float(seen), **_evaluated(model, evaluate), **found})
                _hear(rules, rows[-1])
                if config.until and all(rows[-1][name] < value for name, value in config.until.items()):
                    break
                if checkpoints is not None and (done - kept >= checkpoint_every or done == config.steps):
                    kept = done
                    remember(checkpoints, spec, model, optimiser, rules, rows)
    finally:
        model.eval()
        optimiser.zero_grad()
    return History.from_record({name: [row[name] for row in rows] for name in rows[0]})


def _is_due(step: int, config: TrainConfig) -> bool:
    return step in config.evaluate_at if config.evaluate_at else step % config.evaluate_every == 0


def _hear(rules: Sequence[Rule], row: dict[str, float]) -> None:
    for rule in rules:
        row.update(rule.after_evaluation(row))


def _evaluated(model: nn.Module, evaluate: Mapping[str, Examples]) -> dict[str, float]:
    model.eval()
    return {name: float(losses(model, batch).mean()) for name, batch in evaluate.items()}


def _check_finite(found: Mapping[str, float], step: int, config: TrainConfig) -> None:
    for name, value in found.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{name} is {value} at step {step} with `lr` {config.lr}; use a smaller `lr`, and look for NaN in the "
                "data"
            )
