"""Losses per example, and their means per fold: the one path that base and ablated losses both take."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn
from torch.nn import functional

from skilloc.models.mlp import MLP
from skilloc.tasks import IGNORE, Batch

CACHED = 2**18
"""Logits that are worked on at a time: 1 MB in float32, which stays in a core's cache."""


def example_losses(logits: Float[Tensor, "example *pos out"], targets: Int[Tensor, "example *pos"]) -> Tensor:
    """Return the loss of each example, in nats per scored target.

    loss[e] = mean over the scored positions t of -log softmax(logits[e, t])[targets[e, t]], the mean taken in float64:
    in float32 it is wrong by about 1e-5 nats, a noticeable part of the effect of one neuron.

    Shapes: the result is float64 on `example`.
    """
    flat = targets.reshape(-1, 1)
    scored = flat != IGNORE
    scores = logits.reshape(len(flat), -1)
    rows = max(1, CACHED // scores.shape[1])
    nll = torch.cat([_nll(scores[i : i + rows], flat[i : i + rows]) for i in range(0, len(flat), rows)])
    return (nll.double() * scored).view(len(targets), -1).sum(dim=1) / scored.view(len(targets), -1).sum(dim=1)


def _nll(scores: Float[Tensor, "token out"], targets: Int[Tensor, "token 1"]) -> Float[Tensor, "token 1"]:
    scores = scores.float()
    highest = scores.amax(dim=1, keepdim=True)
    # On a CPU, exp2 costs a third of the exponential inside cross_entropy.
    total = (scores - highest).mul_(math.log2(math.e)).exp2_().sum(dim=1, keepdim=True)
    return total.log() + highest - scores.gather(1, targets.where(targets != IGNORE, 0))


def logits_of(output: Any) -> Tensor:
    """Return the logits of a model's output, which is the logits or an object that has them."""
    return output if isinstance(output, Tensor) else output.logits


@dataclass(frozen=True)
class Folded:
    """Batches of several subtasks as one batch, and where each fold lies in it.

    Attributes:
        batch: the examples of all subtasks, one after the other; shorter sequences are padded on the right, where a
            causal model's earlier positions cannot see it.
        subtasks: names on the subtask axis.
        rows: the examples of each fold of each subtask, first by fold and then by subtask.
        digests: the hash of each subtask's own examples.
    """

    batch: Batch
    subtasks: tuple[str, ...]
    rows: tuple[tuple[slice, ...], ...]
    digests: Mapping[str, str]

    @property
    def folds(self) -> int:
        """Number of folds."""
        return len(self.rows)

    def mean(self, per_example: Float[np.ndarray, "example *rest"]) -> Float64[np.ndarray, "fold subtask *rest"]:
        """Return the mean of per-example values over each fold of each subtask."""
        return np.array([[per_example[part].mean(axis=0, dtype=np.float64) for part in parts] for parts in self.rows])

    def to(self, device: torch.device | str) -> "Folded":
        """Return the same with the batch on `device`."""
        return Folded(self.batch.to(device), self.subtasks, self.rows, self.digests)


def fold(batches: Mapping[str, Batch], folds: int) -> Folded:
    """Put the batches of all subtasks together and cut each into folds of consecutive examples.

    Raises:
        ValueError: if there are no batches, a batch has fewer examples than folds, or the kinds of input differ.
    """
    if not batches:
        raise ValueError("`batches` is empty; pass at least one subtask with its batch")
    if folds < 1:
        raise ValueError(f"`folds` is {folds}; use at least 1, and 3 or more for intervals")
    for name, batch in batches.items():
        if len(batch) < folds:
            raise ValueError(
                f'subtask "{name}" has {len(batch)} examples for {folds} folds; draw more, or use fewer folds'
            )
    ranks = {(b.inputs.ndim, b.targets.ndim, b.inputs.dtype) for b in batches.values()}
    if len(ranks) > 1:
        raise ValueError(f"`batches` mix kinds of input {sorted(map(str, ranks))}; measure them one kind at a time")
    lengths = sorted({b.inputs.shape[1] for b in batches.values()})
    if len(lengths) > 1 and next(iter(batches.values())).inputs.is_floating_point():
        raise ValueError(f"`batches` have inputs of widths {lengths}; draw them from subtasks of one world")
    longest = max(b.inputs.shape[1] for b in batches.values())
    stacked = Batch(
        torch.cat([_pad(b.inputs, longest, 0) for b in batches.values()]),
        torch.cat([_pad(b.targets, longest, IGNORE) if b.targets.ndim > 1 else b.targets for b in batches.values()]),
    )
    rows, first = [], 0
    for batch in batches.values():
        parts = np.array_split(np.arange(first, first + len(batch)), folds)
        rows.append([slice(int(part[0]), int(part[-1]) + 1) for part in parts])
        first += len(batch)
    return Folded(
        stacked, tuple(batches), tuple(zip(*rows, strict=True)), {name: b.digest for name, b in batches.items()}
    )


def _pad(tensor: Tensor, length: int, value: int) -> Tensor:
    return functional.pad(tensor, (0, length - tensor.shape[1]), value=value)


def check_model(model: nn.Module, batch: Batch) -> None:
    """Refuse a model that cannot be measured on a batch.

    Raises:
        ValueError: if the model is in training mode, a sequence is longer than its context, a token is not in its
            vocabulary, or an `MLP` has other inputs or classes.
    """
    if model.training:
        raise ValueError("`model` is in training mode, where dropout is random; call model.eval() first")
    if isinstance(model, MLP):
        _check_mlp(model, batch)
    cfg = getattr(model, "cfg", None)
    if cfg is None or batch.inputs.is_floating_point():
        return
    length, context = batch.inputs.shape[1], getattr(cfg, "n_ctx", None)
    if context and length > context:
        raise ValueError(
            f"sequences have {length} tokens but the context of `model` is {context}; use a shorter `length`"
        )
    highest, vocabulary = int(batch.inputs.max()), getattr(cfg, "d_vocab", None)
    if vocabulary and vocabulary > 0 and highest >= vocabulary:
        raise ValueError(
            f"the batch holds token {highest} but `model` has {vocabulary} tokens; use the tokenizer of this model"
        )


def _check_mlp(model: MLP, batch: Batch) -> None:
    d_in, d_out = model.cfg.d_in, model.cfg.d_out
    if not batch.inputs.is_floating_point() or batch.inputs.shape[1] != d_in:
        raise ValueError(
            f"`model` is an MLP with {d_in} inputs but the batch has {batch.inputs.dtype} inputs of width "
            f"{batch.inputs.shape[1]}; draw from the subtasks that it was trained on"
        )
    if batch.targets.ndim != 1 or not 0 <= int(batch.targets.min()) <= int(batch.targets.max()) < d_out:
        raise ValueError(
            f"`model` is an MLP with {d_out} outputs but the batch has targets of shape {tuple(batch.targets.shape)} "
            f"from {int(batch.targets.min())} to {int(batch.targets.max())}; pass one class per example"
        )


def check_losses(losses: Float64[np.ndarray, "fold subtask"], subtasks: tuple[str, ...]) -> None:
    """Refuse a model whose loss is not finite.

    Raises:
        ValueError: naming the subtask.
    """
    for s in np.flatnonzero(~np.isfinite(losses).all(axis=0)):
        raise ValueError(
            f'`model` has loss {losses[:, s].mean()} on subtask "{subtasks[s]}"; look for NaN or infinite weights'
        )
