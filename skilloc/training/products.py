"""Advice on the type of matrix products.

`TrainConfig.products` is a setting that is recorded, as it changes the numbers. Which type is faster depends on the
processor: with instructions for bfloat16 it is that, without them float32, by many times. So a measurement may
say so, and nothing more: a run that chose by it would give other numbers elsewhere.
"""

import time
from statistics import median
from typing import get_args

import torch

from skilloc.mistakes import WrongValue
from skilloc.training.settings import Products

ALIKE = 1.25
"""Ratios of times below this are no reason to prefer a type."""


def product_advice(*, rows: int = 2000, width: int = 128, seconds: float = 0.1) -> str:
    """Return a sentence on which type of product is faster here, for the layers of a network.

    Both types are timed in turn; the ratio is that of the medians.

    Args:
        rows: examples per product.
        width: of the layer, its inputs as its outputs.
        seconds: how long to measure, about.

    Raises:
        ValueError: if a number is not positive.
    """
    if min(rows, width) < 1 or seconds <= 0:
        raise WrongValue(f"`rows` is {rows}, `width` {width} and `seconds` {seconds}; use positive numbers")
    kinds = get_args(Products)
    for kind in kinds:
        _taken(kind, rows, width)  # the first of a shape takes its kernel as well
    found: dict[Products, list[float]] = {kind: [] for kind in kinds}
    while sum(map(sum, found.values())) < seconds or len(found["float32"]) < 3:
        for kind in kinds:
            found[kind].append(_taken(kind, rows, width))
    times = {kind: median(taken) for kind, taken in found.items()}
    fast, slow = sorted(kinds, key=times.__getitem__)
    what = f"products of {rows:,} × {width} by {width} × {width}"
    ratio = times[slow] / times[fast]
    if ratio < ALIKE:
        return f"On this processor, {what} take about as long in {kinds[1]} as in {kinds[0]}."
    return (
        f"On this processor, {what} take {ratio:.1f} times as long in {slow} as in {fast}: training with `products` "
        f'"{fast}" would be faster, and its numbers others. The setting stays as it was given.'
    )


def _taken(kind: Products, rows: int, width: int) -> float:
    """Return the seconds that one product takes."""
    left, right = (torch.ones(shape, dtype=getattr(torch, kind)) for shape in ((rows, width), (width, width)))
    start = time.perf_counter()
    torch.mm(left, right)
    return time.perf_counter() - start
