"""The training loop: fresh examples in, a trained model and a history out.

    loss = mean over the step's scored targets of the cross-entropy, in nats, + the sum of the named terms

Adam [Kingma & Ba 2015] with a constant rate. A step's examples pass in blocks of rows whose activations stay in a
core's cache; gradients add up over the blocks, so that the step is the same. Losses on held-out batches are measured
every few hundred steps, not at every step.
"""

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from skilloc import store
from skilloc.intervene import logits_of, losses, widest
from skilloc.models.language import digest
from skilloc.tasks import IGNORE, Batch

CACHED, CACHED_BF16 = 2**17, 5 * 2**17
"""Entries of the widest activation of a block, with products in float32 and in bfloat16, where larger blocks pay."""

Sample = Callable[[int], tuple[Tensor, Tensor]]
"""The inputs and targets of a step, as a pure function of the step, counted from 0."""

Term = Callable[[Any], Tensor]
"""A scalar that is added to the loss, from the model."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run. The defaults are those of the paper's parity experiments.

    Attributes:
        steps: number of optimiser steps.
        lr: rate of Adam.
        eps: added to the root in Adam.
        evaluate_every: steps between evaluations; there is one before the first step and one after the last.
        until: stop at the evaluation where the loss on each of these subtasks is below its value, in nats.
        bf16: do the matrix products in bfloat16; weights, gradients and Adam stay float32.
    """

    steps: int
    lr: float = 1e-3
    eps: float = 1e-5
    evaluate_every: int = 250
    until: Mapping[str, float] = field(default_factory=dict)
    bf16: bool = False


@dataclass(frozen=True)
class History:
    """What was logged while training.

    Attributes:
        columns: equally long columns: "step" (steps done), "examples" (examples seen), "loss" (the last step's own, in
            nats; that of the first step in the first row), one per term, and one per evaluated subtask, in nats.

    Raises:
        ValueError: if there are no columns or they differ in length.
    """

    columns: Mapping[str, Float64[np.ndarray, " row"]]

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"`columns` have lengths {lengths}; give at least one column, and all the same length")

    def of(self, name: str) -> Float64[np.ndarray, " row"]:
        """Return one column.

        Raises:
            ValueError: if there is no such column.
        """
        if name not in self.columns:
            raise ValueError(f'unknown column "{name}"; this history has {", ".join(self.columns)}')
        return self.columns[name]

    def first_below(self, name: str, value: float) -> int | None:
        """Return the first logged step at which a column is below a value, or None."""
        found = np.flatnonzero(self.of(name) < value)
        return int(self.of("step")[found[0]]) if len(found) else None

    def record(self) -> dict[str, list[float]]:
        """Return a JSON form; `History.from_record` reads it."""
        return {name: column.tolist() for name, column in self.columns.items()}

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> "History":
        """Read what `record` wrote."""
        return History({name: np.array(column, dtype=np.float64) for name, column in record.items()})


def train(
    model: nn.Module,
    sample: Sample,
    config: TrainConfig,
    *,
    evaluate: Mapping[str, Batch],
    terms: Mapping[str, Term] | None = None,
    checkpoints: Path | None = None,
    checkpoint_every: int = 5000,
    data: Mapping[str, Any] | None = None,
) -> History:
    """Train a model in place.

    Args:
        model: any model that gives logits; it ends in evaluation mode.
        sample: the examples of each step, for instance `parity_stream(...)`.
        config: the settings.
        evaluate: held-out batches by subtask.
        terms: named terms that are added to the loss and logged.
        checkpoints: a folder for the state of this run: the same call goes on from there, and gives the same result.
        checkpoint_every: least number of steps between checkpoints, which are written after an evaluation.
        data: what names the examples of `sample` (seed, subtasks); checkpoints of other data are refused. JSON only.

    Raises:
        ValueError: if a setting is out of range, or `checkpoints` holds another run.
        FloatingPointError: if the loss is not finite, with the step.
    """
    terms = terms or {}
    _check(config, evaluate, terms)
    parameters = [p for p in model.parameters() if p.requires_grad]
    # The fused step takes one pass over the memory, and no Python per tensor.
    adam = torch.optim.Adam(parameters, lr=config.lr, eps=config.eps, fused=True)
    spec = {
        "what": "checkpoint",
        "model": digest(model),
        "config": asdict(config),
        "data": dict(data or {}),
        "evaluate": {name: batch.digest for name, batch in evaluate.items()},
        "terms": list(terms),
    }
    rows, seen = _recall(checkpoints, spec, model, adam)
    start = kept = int(rows[-1]["step"]) if rows else 0
    try:
        for step in tqdm(range(start, config.steps), desc="training", initial=start, total=config.steps, disable=None):
            if step == 0:
                rows.append({"step": 0.0, "examples": 0.0, **_evaluated(model, evaluate)})
            found, count = _step(model, adam, sample(step), config, terms)
            seen += count
            _check_finite(found, step, config)
            if step == 0:
                rows[0].update(found)
            done = step + 1
            if done % config.evaluate_every == 0 or done == config.steps:
                rows.append({"step": float(done), "examples": float(seen), **_evaluated(model, evaluate), **found})
                if config.until and all(rows[-1][name] < value for name, value in config.until.items()):
                    break
                if checkpoints is not None and (done - kept >= checkpoint_every or done == config.steps):
                    kept = done
                    _remember(checkpoints, spec, model, adam, rows)
    finally:
        model.eval()
        adam.zero_grad()
    return History.from_record({name: [row[name] for row in rows] for name in rows[0]})


def _step(
    model: nn.Module,
    adam: torch.optim.Optimizer,
    examples: tuple[Tensor, Tensor],
    config: TrainConfig,
    terms: Mapping[str, Term],
) -> tuple[dict[str, float], int]:
    """Take one step; return the loss and the terms before it, and the number of examples."""
    inputs, targets = examples
    model.train()
    adam.zero_grad()
    scored = int((targets != IGNORE).sum())
    size = max(1, (CACHED_BF16 if config.bf16 else CACHED) // (widest(model) * targets[0].numel()))
    loss = torch.zeros((), device=targets.device)
    for first in range(0, len(inputs), size):
        part = slice(first, first + size)
        with torch.autocast(targets.device.type, torch.bfloat16, enabled=config.bf16):
            logits = logits_of(model(inputs[part]))
        total = functional.cross_entropy(
            logits.flatten(0, -2).float(), targets[part].flatten(), ignore_index=IGNORE, reduction="sum"
        )
        (total / scored).backward()  # type: ignore[no-untyped-call]
        loss += total.detach() / scored
    found = {"loss": float(loss)}
    for name, term in terms.items():
        value = term(model)
        value.backward()  # type: ignore[no-untyped-call]
        found[name] = float(value.detach())
    adam.step()
    return found, len(inputs)


def _evaluated(model: nn.Module, evaluate: Mapping[str, Batch]) -> dict[str, float]:
    model.eval()
    return {name: float(losses(model, batch).mean()) for name, batch in evaluate.items()}


def _check(config: TrainConfig, evaluate: Mapping[str, Batch], terms: Mapping[str, Term]) -> None:
    if config.steps < 1 or config.evaluate_every < 1:
        raise ValueError(
            f"`steps` is {config.steps} and `evaluate_every` {config.evaluate_every}; use at least 1 of each"
        )
    if config.lr <= 0 or config.eps <= 0:
        raise ValueError(f"`lr` is {config.lr} and `eps` {config.eps}; use positive numbers")
    if taken := {"step", "examples", "loss"} & {*evaluate, *terms} or set(evaluate) & set(terms):
        raise ValueError(f"{sorted(taken)} name several columns of the history; use other names")
    for name in set(config.until) - set(evaluate):
        raise ValueError(f'`until` names "{name}", which is not evaluated; add its batch to `evaluate`')


def _check_finite(found: Mapping[str, float], step: int, config: TrainConfig) -> None:
    for name, value in found.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{name} is {value} at step {step} with `lr` {config.lr}; use a smaller `lr`, and look for NaN in the "
                "data"
            )


def _remember(
    folder: Path, spec: Mapping[str, Any], model: nn.Module, adam: torch.optim.Optimizer, rows: list[dict[str, float]]
) -> None:
    """Write the state aside and rename it into place, and then take the older one away."""
    older = _complete(folder)
    arrays = {f"model.{name}": value for name, value in model.state_dict().items()}
    for i, state in adam.state_dict()["state"].items():
        arrays |= {f"adam.{i}.{name}": value for name, value in state.items()}
    labelled = {
        name: store.Labelled(value.detach().cpu().numpy(), tuple(f"axis_{i}" for i in range(value.ndim)))
        for name, value in arrays.items()
    }
    store.write(folder / f"step_{int(rows[-1]['step']):09d}", spec, {"rows": rows}, labelled)
    for path in older:
        shutil.rmtree(path)


def _recall(
    folder: Path | None, spec: Mapping[str, Any], model: nn.Module, adam: torch.optim.Optimizer
) -> tuple[list[dict[str, float]], int]:
    """Put the last complete state back; return the history so far and the number of examples seen."""
    found = [] if folder is None else _complete(folder)
    if not found:
        return [], 0
    result = store.read(found[-1])
    if store.canonical(result.spec) != store.canonical(spec):
        raise ValueError(
            f"`checkpoints` {folder} holds a run of another model, data or config; use a folder of its own for each run"
        )
    arrays = {name: torch.from_numpy(array.values) for name, array in result.arrays.items()}
    model.load_state_dict({name[6:]: value for name, value in arrays.items() if name.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in arrays.items():
        if name.startswith("adam."):
            _, i, part = name.split(".")
            state.setdefault(int(i), {})[part] = value
    adam.load_state_dict({**adam.state_dict(), "state": state})
    rows = result.metrics["rows"]
    return rows, int(rows[-1]["examples"])


def _complete(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("step_*")) if store.is_complete(path)]
