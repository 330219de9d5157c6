"""How an estimate of effects goes with exact ones, over a sample of units, with intervals that cover.

Magnitudes of effects have heavy tails: the correlation of the numbers themselves is that of the few largest, and no
interval from a sample covers it. So it is stated only where all units were measured, as a fact about them; ranks and
logarithms have intervals from the jackknife, on Fisher's scale.
"""

from typing import Any

import numpy as np

from skilloc.locality.intervals import Interval, proportion_interval

ALMOST = 1 - 1e-9


def correlation(x: np.ndarray, y: np.ndarray) -> Interval:
    """Return Pearson's correlation over units, with an interval from leaving out one unit at a time.

    The jackknife's spread of atanh(r) [Efron and Stein 1981], widened by 1 + 6 / units, which few units of heavy tails
    need: the coverage is tested.

    Args:
        x: a number per unit.
        y: another.
    """
    n = len(x)
    if n < 8 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Interval(float("nan"), -1.0, 1.0)
    x, y = x - x.mean(), y - y.mean()
    parts = np.stack([x, y, x * x, y * y, x * y])
    whole = parts.sum(axis=1, keepdims=True)
    value, z = float(_from_sums(whole, n)[0]), np.arctanh(_from_sums(whole - parts, n - 1))
    spread = float(np.sqrt((n - 1) / n * ((z - z.mean()) ** 2).sum()))
    half, middle = 1.96 * (1 + 6 / n) * spread, float(np.arctanh(np.clip(value, -ALMOST, ALMOST)))
    return Interval(value, float(np.tanh(middle - half)), float(np.tanh(middle + half)))


def _from_sums(sums: np.ndarray, n: int) -> np.ndarray:
    """Return correlations from sums of x, y, x^2, y^2 and x y over n units."""
    x, y, xx, yy, xy = sums / n
    scale = np.sqrt(np.maximum(xx - x * x, 0) * np.maximum(yy - y * y, 0))
    found: np.ndarray = np.clip(
        np.divide(xy - x * y, scale, out=np.zeros_like(scale), where=scale > 0), -ALMOST, ALMOST
    )
    return found


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / scale) if scale > 0 else 0.0


def ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks, of which equal values share the mean."""
    order = values.argsort(kind="stable")
    sorted_values = values[order]
    first = np.r_[True, sorted_values[1:] != sorted_values[:-1]]
    group = first.cumsum() - 1
    means = np.bincount(group, np.arange(len(values))) / np.bincount(group)
    found = np.empty(len(values))
    found[order] = means[group]
    return found


def agreement(estimate: np.ndarray, exact: np.ndarray, *, whole: bool) -> dict[str, Any]:
    """Return how magnitudes of an estimate go with those of exact effects. JSON only.

    Args:
        estimate: on `unit`.
        exact: on `unit`.
        whole: whether these are all units there are.

    Returns:
        "ranks" and "logs", correlations with intervals; "linear", a number where all units were measured, else None;
        "recall": share of the tenth of the units with the largest exact effects that is among the fifth with the
        largest estimates, with its interval; "zeros": units that have no logarithm, which "logs" leaves out.
    """
    a, b = np.abs(estimate), np.abs(exact)
    there = (a > 0) & (b > 0)
    return {
        "ranks": correlation(ranks(a), ranks(b)).record(),
        "logs": correlation(np.log(a[there]), np.log(b[there])).record(),
        "linear": _pearson(a, b) if whole else None,
        "recall": recall(a, b).record(),
        "zeros": int((~there).sum()),
        "units": len(a),
    }


def recall(estimate: np.ndarray, exact: np.ndarray) -> Interval:
    """Return the share of the tenth of units with the largest exact effects that is in the fifth by the estimate.

    Each of the tenth is found or not: the interval is Wilson's.
    """
    tenth, fifth = max(1, len(exact) // 10), max(1, len(exact) // 5)
    largest, found = np.argsort(-exact, kind="stable")[:tenth], np.argsort(-estimate, kind="stable")[:fifth]
    return proportion_interval(int(np.isin(largest, found).sum()), tenth)
