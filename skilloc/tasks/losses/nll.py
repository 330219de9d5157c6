"""The negative log-likelihood of targets, its sums, and its gradients: the only place that knows cross-entropy."""

import math

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn import functional

from skilloc.tasks.examples import IGNORE, Examples

CACHED = 2**18
"""Logits that are worked on at a time: 1 MB in float32, which stays in a core's cache."""


def wide(device: torch.device) -> torch.dtype:
    """Return the type that sums are taken in: float64, or float32 on a device that has no other (MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64


def mean_nll(logits: Float[Tensor, "row *pos out"], targets: Int[Tensor, "row *pos"]) -> Float64[Tensor, " row"]:
    """Return the mean over the scored positions t of -log softmax(logits[r, t])[targets[r, t]], in nats.

    The mean is taken in float64: in float32 it is wrong by about 1e-5 nats, a noticeable part of the effect of one
    neuron. A row without a scored position has 0.
    """
    flat = targets.reshape(-1, 1)
    scored = flat != IGNORE
    scores = logits.reshape(len(flat), -1)
    rows = max(1, CACHED // scores.shape[1])
    nll = torch.cat([token_nll(scores[i : i + rows], flat[i : i + rows]) for i in range(0, len(flat), rows)])
    total = (nll.to(wide(nll.device)) * scored).view(len(targets), -1).sum(dim=1)
    return total / scored.view(len(targets), -1).sum(dim=1).clamp(min=1)


def token_nll(scores: Float[Tensor, "token out"], targets: Int[Tensor, "token 1"]) -> Float[Tensor, "token 1"]:
    """Return -log p(target) of each token, in nats; a target of IGNORE stands for token 0."""
    scores = scores.float()
    chosen = scores.gather(1, targets.where(targets != IGNORE, 0))
    if scores.requires_grad:
        return scores.logsumexp(dim=1, keepdim=True) - chosen
    highest = scores.amax(dim=1, keepdim=True)
    # On a CPU, exp2 costs a third of the exponential inside cross_entropy.
    total = (scores - highest).mul_(math.log2(math.e)).exp2_().sum(dim=1, keepdim=True)
    return total.log() + highest - chosen


def nll_sum(logits: Float[Tensor, "row *pos out"], targets: Int[Tensor, "row *pos"]) -> Float[Tensor, ""]:
    """Return the sum over all scored positions of -log p(target), in nats, differentiable: what training descends."""
    return functional.cross_entropy(
        logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )


def log_normaliser(logits: Float[Tensor, "*_"], dim: int = -1) -> Float[Tensor, "*_"]:
    """Return the log of the sum of the exponentials of the logits along an axis: -log p(v) is this minus logit v."""
    return logits.logsumexp(dim=dim, keepdim=True)


def nll_error(
    logits: Float[Tensor, "*net out example"], targets: Int[Tensor, "*net 1 example"]
) -> tuple[Float[Tensor, "*net 1 example"], Float[Tensor, "*net out example"]]:
    """Return log p(target), and the gradient of -log p(target) with respect to the logits: softmax - one hot.

    For backward passes by hand, with examples on the last axis; the logits are not needed afterwards.
    """
    error = logits.log_softmax(dim=-2)
    right = error.gather(-2, targets)
    error.exp_().scatter_add_(-2, targets, error.new_full((), -1.0).expand(targets.shape))
    return right, error


def margin_nll(margin: Float[Tensor, "*_"]) -> Float[Tensor, "*_"]:
    """Return -log p(target) of two classes from the other class's logit minus the target's, written over it."""
    return torch.logaddexp(margin, margin.new_zeros(()), out=margin)


def nll_slopes(
    logits: Float[Tensor, "row *pos out"], examples: Examples, targets: Int[Tensor, "row *pos"]
) -> Float[Tensor, "row *pos out"]:
    """Return the gradient, with respect to the logits, of the mean negative log-likelihood of each example."""
    # d(-log softmax(z)[y]) / dz = softmax(z) - onehot(y): the loss itself need not be run.
    scored = (targets != IGNORE)[..., None].to(logits.dtype)
    slopes = logits.softmax(dim=-1) * scored
    slopes.scatter_add_(-1, targets.where(targets != IGNORE, 0)[..., None], -scored)
    each = scored.reshape(len(scored), -1).sum(dim=1).clamp(min=1)
    return slopes / each.view(-1, *[1] * (slopes.ndim - 1)) / _rows_each(examples, slopes)


def _rows_each(examples: Examples, like: Tensor) -> Tensor | int:
    """Return, for each row, how many rows its example has, as it broadcasts: their mean is the example's loss."""
    if examples.owner is None:
        return 1
    counts = examples.per_example(torch.ones(len(examples.owner), device=like.device))
    return counts[examples.owner].view(-1, *[1] * (like.ndim - 1))


def of_rows(examples: Examples, per_row: Tensor) -> Tensor:
    """Return the mean over the rows of each example."""
    if examples.owner is None:
        return per_row
    return examples.per_example(per_row) / examples.per_example(torch.ones_like(per_row))
