"""One repair, and the attack on some models at one rate, with losses on held-out examples all along."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import nn

from skilloc.experiment import check_model, losses
from skilloc.masks import Mask
from skilloc.mistakes import WrongValue
from skilloc.models.makers import face_of
from skilloc.pruning import keep
from skilloc.relearning.settings import Grid
from skilloc.relearning.ways import FEW, Data
from skilloc.tasks import Examples, Subtask, joined
from skilloc.tasks.losses import Loss
from skilloc.tasks.streams import stream
from skilloc.training import Sample, TrainConfig, train
from skilloc.training.many import retrain

EPS = 1e-8
"""Of Adam. With the larger one of the paper's training, the small gradients of a pruned network would not count."""

CLOSE = 0.01
"""Repair stops when every kept subtask is this part of the way from the original's loss to chance, or nearer."""

LOOKS = 16
"""Number of evaluations during repair."""


class HeldOut(NamedTuple):
    """Examples that no run trains on.

    Attributes:
        selection: of the reported subtask, to choose by.
        folds: of the reported subtask, to state numbers on.
        kept_selection: of the kept subtasks, to end the repair by.
        kept: of the kept subtasks, to state numbers on.
    """

    selection: Examples
    folds: tuple[Examples, ...]
    kept_selection: Mapping[str, Examples]
    kept: Mapping[str, Examples]

    def record(self) -> dict[str, Any]:
        """Return digests of the examples."""
        kept = {name: [batch.digest, self.kept[name].digest] for name, batch in self.kept_selection.items()}
        return {"report": [self.selection.digest, *(fold.digest for fold in self.folds)], "kept": kept}


class Run(NamedTuple):
    """Losses during one attack; NaN after training diverged."""

    selection: Float64[np.ndarray, " step"]
    report: Float64[np.ndarray, "step fold"]
    kept: Float64[np.ndarray, "step subtask"]


class Repaired(NamedTuple):
    """A copy of a model after its repair.

    Attributes:
        model: the copy.
        steps: number of steps that it took.
        before: loss on the report split of each kept subtask.
        after: the same after the repair.
    """

    model: nn.Module
    steps: int
    before: Float64[np.ndarray, " subtask"]
    after: Float64[np.ndarray, " subtask"]


def hold_out(report: Subtask, kept: Sequence[Subtask], grid: Grid, device: torch.device) -> HeldOut:
    """Draw the held-out examples; the same for all models and seeds.

    Raises:
        ValueError: if a finite subtask has too few.
    """
    stated = report.draw(grid.held_out, split="report")
    parts = np.array_split(np.arange(len(stated)), grid.folds)
    folds = tuple(stated.part(slice(int(p[0]), int(p[-1]) + 1)).to(device) for p in parts)
    on_selection = {subtask.name: subtask.draw(grid.held_out, split="selection").to(device) for subtask in kept}
    on_report = {subtask.name: subtask.draw(grid.held_out, split="report").to(device) for subtask in kept}
    return HeldOut(report.draw(grid.held_out, split="selection").to(device), folds, on_selection, on_report)


def chances_of(original: nn.Module, held_out: HeldOut, loss: Loss) -> tuple[float, tuple[float, ...]]:
    """Return the loss of a model that knows nothing, on the reported subtask and on each kept one.

    Raises:
        ValueError: if the model cannot take the examples.
    """
    assert loss.chance is not None
    check_model(original, held_out.selection)
    with torch.no_grad():
        outputs = face_of(original).run(held_out.selection.part(slice(0, 1)).inputs).shape[-1]
    kept = tuple(float(loss.chance(outputs, batch)) for batch in held_out.kept.values())
    return float(loss.chance(outputs, held_out.selection)), kept


def targets_of(original: nn.Module, held_out: HeldOut, chances: Sequence[float], loss: Loss) -> dict[str, float]:
    """Return the loss on the selection split of each kept subtask below which a model counts as whole."""
    found = {name: _mean(original, batch, loss) for name, batch in held_out.kept_selection.items()}
    return {
        name: own + CLOSE * max(0.0, chance - own) for (name, own), chance in zip(found.items(), chances, strict=True)
    }


def repair(
    model: nn.Module,
    kept: Sequence[Subtask],
    held_out: HeldOut,
    targets: Mapping[str, float],
    grid: Grid,
    *,
    seed: int,
    mask: Mask | None = None,
) -> Repaired:
    """Train a copy of a model on the kept subtasks until it is as good at them as the original, if it is not.

    Args:
        model: it is left as it was.
        kept: what is trained.
        held_out: what is measured.
        targets: see `targets_of`.
        grid: the settings.
        seed: of the examples, and of what the model draws (dropout).
        mask: held at zero, if given.
    """
    own, loss = _trainable(model), grid.metric
    rules = [] if mask is None else [keep(own, mask)]
    before = np.array([_mean(own, batch, loss) for batch in held_out.kept.values()])
    short = any(not _mean(own, held_out.kept_selection[name], loss) < target for name, target in targets.items())
    steps = 0
    if short and grid.repair:
        config = TrainConfig(
            steps=grid.repair,
            rate=grid.repair_rate,
            eps=EPS,
            evaluate_every=max(1, grid.repair // LOOKS),
            until=dict(targets),
        )
        sample = _on(own, stream(kept, grid.examples, seed=seed))
        try:
            evaluate = held_out.kept_selection
            history = train(own, sample, config, evaluate=evaluate, loss=loss, rules=rules, seed=seed, progress=False)
        except FloatingPointError as error:
            raise WrongValue(
                f"`repair_rate` {grid.repair_rate} makes training diverge ({error}); use a smaller one"
            ) from error
        steps = int(history.of("step")[-1])
    after = np.array([_mean(own, batch, loss) for batch in held_out.kept.values()])
    return Repaired(own, steps, before, after)


def sample_of(data: Data, attack: Sequence[Subtask], kept: Sequence[Subtask], grid: Grid, **drawn: Any) -> Sample:
    """Return the training examples of each step of an attack.

    Args:
        data: what is trained on.
        attack: the attacked subtasks.
        kept: the kept ones.
        grid: the settings.
        drawn: `seed`, and `size`: number of different examples per subtask; None = fresh ones at every step.
    """
    size = FEW if data == "few" and drawn["size"] is None else drawn["size"]
    parts = {"mixed": [attack, kept], "kept": [kept]}.get(data, [attack])
    streams = [stream(subtasks, grid.examples, seed=drawn["seed"], pool=size) for subtasks in parts]
    return streams[0] if len(streams) == 1 else lambda step: joined([sample(step) for sample in streams])


def attack_all(
    models: Sequence[nn.Module],
    sample: Sample | None,
    held_out: HeldOut,
    grid: Grid,
    *,
    rate: float,
    seed: int,
    mask: Mask | None = None,
) -> Iterator[tuple[int, Run]]:
    """Train a copy of each model, and measure it at every budget; yield what is done.

    Args:
        models: they are left as they were.
        sample: the training examples of each step; None if nothing is trained.
        held_out: what is measured.
        grid: the settings.
        rate: of Adam.
        seed: of what a model draws (dropout).
        mask: held at zero, if given.
    """
    batches = [held_out.selection, *held_out.folds, *held_out.kept.values()]

    # One pass over everything: with small networks, each call costs more than its examples.
    whole = joined(batches) if models and face_of(models[0]).chain is not None else None
    ends = np.cumsum([len(batch) for batch in batches])[:-1].tolist()

    def look(model: nn.Module) -> list[float]:
        if whole is None:
            return [_mean(model, batch, grid.metric) for batch in batches]
        return [float(part.mean()) for part in torch.tensor_split(losses(model, whole, grid.metric), ends)]

    if sample is None:
        yield from ((i, _run_of([look(model.eval())], grid, len(held_out.folds))) for i, model in enumerate(models))
        return
    config = TrainConfig(steps=grid.budgets[-1], rate=rate, eps=EPS, evaluate_at=grid.budgets)
    rules = None if mask is None else lambda model: [keep(model, mask)]
    # A rate that diverges is not the attacker's best; what was seen before stands.
    copies, sample = map(_trainable, models), _on(models[0], sample)
    for i, seen in retrain(copies, sample, config, look, loss=grid.metric, rules=rules, seed=seed, go_on=True):
        yield i, _run_of(seen, grid, len(held_out.folds))


def _run_of(seen: Sequence[Sequence[float]], grid: Grid, folds: int) -> Run:
    table = np.full((len(grid.steps), len(seen[0])), np.nan)
    table[: len(seen)] = seen
    selection, report, kept = np.split(table, [1, 1 + folds], axis=1)
    return Run(selection[:, 0], report, kept)


def _trainable(model: nn.Module) -> nn.Module:
    """Return a copy of which everything is trained."""
    return face_of(model).copy().requires_grad_(True)


def _mean(model: nn.Module, batch: Examples, loss: Loss) -> float:
    return float(losses(model, batch, loss).mean())


def _on(model: nn.Module, sample: Sample) -> Sample:
    """Put the examples where the model is."""
    device = next(model.parameters()).device
    return lambda step: sample(step).to(device)
