"""Exchanges: swap units of a circuit for others, as long as the loss on the same examples falls.

Learned gates are binary in the end, and what was best for gates in between need not be best then. Which units to swap
is read off the gradient with respect to the gates *at the binary circuit*: of units inside, those whose removal seems
to cost least; of units outside, those whose return seems to gain most. More are swapped at once while that helps, then
fewer, down to one; every swap is kept only if the measured loss is lower. Then, since gradients say little about whole
heads, the best few of both kinds are tried one by one, exactly.
"""

import numpy as np
from jaxtyping import Bool, Float64

from skilloc.circuits.gated import Gated

Keep = Bool[np.ndarray, " unit"]

FIRST = 4
"""Units that are swapped together at first: twice as many after every success, half as many after every failure."""

SMALL, EXACT_ROUNDS = 50, 3
"""Units of a circuit up to which single swaps are tried exactly, and how often."""


def exchanged(model: Gated, keep: Keep, examples: list[slice], *, rounds: int, exact: int) -> tuple[Keep, float]:
    """Return a circuit of the same size with a loss that is no higher, and that loss.

    Args:
        model: the gated loss.
        keep: the circuit.
        examples: on which losses are compared; not those that the result is stated on.
        rounds: gradients that are taken at most.
        exact: of a circuit of at most `SMALL` units, candidates of either kind that are tried one by one, exactly,
            after that; 0 for none.
    """
    if keep.all() or not keep.any():
        return keep, model.loss(keep.astype(float), examples)
    keep, loss, slopes = _by_gradient(model, keep, examples, rounds)
    for _ in range(EXACT_ROUNDS if exact and keep.sum() <= SMALL else 0):
        tried, found = _one_exact(model, keep, loss, slopes, examples, exact)
        if found >= loss:
            break
        keep = tried
        loss, slopes = model.slopes(keep.astype(float), examples)
    return keep, loss


def _by_gradient(
    model: Gated, keep: Keep, examples: list[slice], rounds: int
) -> tuple[Keep, float, Float64[np.ndarray, " unit"]]:
    loss, slopes = model.slopes(keep.astype(float), examples)
    most = FIRST
    for _ in range(rounds):
        out, into = _candidates(keep, slopes, most)
        worth = slopes[out] > slopes[into]  # dropping costs -slope, adding gains -slope
        out, into = out[worth], into[worth]
        if not len(out):
            break
        tried = _swapped(keep, out, into)
        new_loss, new_slopes = model.slopes(tried.astype(float), examples)
        if new_loss < loss:
            keep, loss, slopes, most = tried, new_loss, new_slopes, 2 * len(out)
        elif len(out) == 1:
            break
        else:
            most = len(out) // 2
    return keep, loss, slopes


def _one_exact(
    model: Gated, keep: Keep, loss: float, slopes: Float64[np.ndarray, " unit"], examples: list[slice], exact: int
) -> tuple[Keep, float]:
    """Return the best of some single swaps: each drop and each return is measured, then the best pairs together."""
    out, into = _candidates(keep, slopes, exact)
    none = np.arange(0)
    costs = [model.loss(_swapped(keep, np.array([u]), none).astype(float), examples) - loss for u in out]
    gains = [model.loss(_swapped(keep, none, np.array([u])).astype(float), examples) - loss for u in into]
    pairs = sorted((costs[i] + gains[j], out[i], into[j]) for i in range(len(out)) for j in range(len(into)))
    best = keep, loss
    for expected, a, b in pairs[: max(1, exact // 2)]:
        if expected >= 0:
            break
        tried = _swapped(keep, np.array([a]), np.array([b]))
        found = model.loss(tried.astype(float), examples)
        best = (tried, found) if found < best[1] else best
    return best


def _candidates(keep: Keep, slopes: Float64[np.ndarray, " unit"], most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the members that seem cheapest to drop and the others that seem to gain most, as many of each."""
    inside, outside = np.flatnonzero(keep), np.flatnonzero(~keep)
    count = min(most, len(inside), len(outside))
    out = inside[np.argsort(-slopes[inside], kind="stable")[:count]]
    into = outside[np.argsort(slopes[outside], kind="stable")[:count]]
    return out, into


def _swapped(keep: Keep, out: np.ndarray, into: np.ndarray) -> Keep:
    found = keep.copy()
    found[out], found[into] = False, True
    return found
