"""Two ways to learn gates: proximal steps on gates in [0, 1], and hard-concrete gates, which are random.

Both minimise

    loss(gates) + price * number of open gates

by steps that are scaled per gate as Adam scales them, and both let a controller find the price, at each step anew, at
which as many gates stay open as are wanted. With m the mean gradient of late, v the mean square, and
step[u] = rate / (sqrt(v[u]) + eps),

    proximal        gate[u]  <- clip(gate[u] - step[u] (m[u] + price), 0, 1)                 with sum of gates = wanted
    hard concrete   logit[u] <- logit[u] - step[u] (m[u] + price)          with sum of the chances to be open = wanted

The first line is the proximal map of price * gate on [0, 1] in Adam's own metric, and has exact zeros and ones. A gate
of the second is clip(1.2 sigmoid((logit + noise) / (2/3)) - 0.1, 0, 1) with logistic noise [Louizos et al. 1712.01312],
and open with the chance sigmoid(logit - 2/3 log(0.1 / 1.1)). In both the price acts through the step of its own gate:
one shift that is the same for all would close the gates of large gradient first, heads before neurons.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64

MEAN_OVER, SQUARES_OVER, EPS = 0.9, 0.99, 1e-8
LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3
OPEN_SHIFT = TEMPERATURE * float(np.log(-LOW / HIGH))
SURE = 3.0
"""Logit of a hard-concrete gate that stands open; its negative for closed."""

FURTHEST = 6.0
"""Where logits end, so that no gate is closed for good."""

NEAR, TRIES = 1e-9, 200
"""The price is found when the number of open gates is as near to the wanted one, or after so many tries."""

PerGate = Float64[np.ndarray, " unit"]


@runtime_checkable
class Solver(Protocol):
    """What learns gates."""

    price: float

    def draw(self) -> PerGate:
        """Return the gates to be tried now."""

    def step(self, slopes: PerGate, wanted: float) -> None:
        """Move the gates along the gradient of the loss with respect to those just tried, so that so many are open."""

    def scores(self) -> PerGate:
        """Return how open each gate is: the largest are the circuit."""

    def exchange(self, opened: Bool[np.ndarray, " unit"], closed: Bool[np.ndarray, " unit"]) -> None:
        """Open and close some gates at once."""


class _Steps:
    """Adam's two moments of each gate's gradient."""

    def __init__(self, count: int, rate: float) -> None:
        self._mean, self._square, self._rate, self._taken = np.zeros(count), np.zeros(count), rate, 0

    def __call__(self, slopes: PerGate) -> tuple[PerGate, PerGate]:
        """Return the mean gradient and the step size of each gate."""
        self._taken += 1
        self._mean += (1 - MEAN_OVER) * (slopes - self._mean)
        self._square += (1 - SQUARES_OVER) * (slopes**2 - self._square)
        corrected = self._square / (1 - SQUARES_OVER**self._taken)
        return self._mean / (1 - MEAN_OVER**self._taken), self._rate / (np.sqrt(corrected) + EPS)


class Proximal:
    """Gates in [0, 1] with exact zeros and ones."""

    def __init__(self, count: int, rate: float) -> None:
        self.price, self._gates, self._steps = 0.0, np.ones(count), _Steps(count, rate)

    def draw(self) -> PerGate:
        """Return the gates."""
        return self._gates

    def step(self, slopes: PerGate, wanted: float) -> None:
        """Take a proximal step to gates that sum to `wanted`."""
        mean, step = self._steps(slopes)
        free = self._gates - step * mean
        self.price = price_of(lambda price: float(np.clip(free - step * price, 0, 1).sum()), wanted, free, step)
        self._gates = np.clip(free - step * self.price, 0, 1)

    def scores(self) -> PerGate:
        """Return the gates."""
        return self._gates

    def exchange(self, opened: Bool[np.ndarray, " unit"], closed: Bool[np.ndarray, " unit"]) -> None:
        """Set some gates to 1 and some to 0."""
        self._gates = np.where(opened, 1.0, np.where(closed, 0.0, self._gates))


class HardConcrete:
    """Random gates that are often exactly 0 or 1."""

    def __init__(self, count: int, rate: float, *, seed: int) -> None:
        self.price, self._steps = 0.0, _Steps(count, rate)
        self._logits, self._raw = np.full(count, SURE), np.ones(count)
        self._random = np.random.default_rng(seed)

    def draw(self) -> PerGate:
        """Draw gates."""
        noise = self._random.logistic(size=len(self._logits))
        self._raw = _sigmoid((self._logits + noise) / TEMPERATURE) * (HIGH - LOW) + LOW
        return self._raw.clip(0, 1)

    def step(self, slopes: PerGate, wanted: float) -> None:
        """Take a step to logits whose gates are open `wanted` times in the mean."""
        part = (self._raw - LOW) / (HIGH - LOW)
        inside = (self._raw > 0) & (self._raw < 1)
        mean, step = self._steps(slopes * inside * (HIGH - LOW) * part * (1 - part) / TEMPERATURE)
        free = self._logits - step * mean

        def shifted(price: float) -> PerGate:
            moved: PerGate = (free - step * price).clip(-FURTHEST, FURTHEST)
            return moved

        self.price = price_of(lambda price: float(_sigmoid(shifted(price) - OPEN_SHIFT).sum()), wanted, free, step)
        self._logits = shifted(self.price)

    def scores(self) -> PerGate:
        """Return the chances of the gates to be open."""
        return _sigmoid(self._logits - OPEN_SHIFT)

    def exchange(self, opened: Bool[np.ndarray, " unit"], closed: Bool[np.ndarray, " unit"]) -> None:
        """Make some gates surely open and some surely closed."""
        self._logits = np.where(opened, SURE, np.where(closed, -SURE, self._logits))


def price_of(open_at: Callable[[float], float], wanted: float, free: PerGate, step: PerGate) -> float:
    """Return the price at which as many gates are open as are wanted; they fall as it rises.

    Secants between the ends of a bracket [Dowell and Jarratt's Illinois rule]; where one has not halved the bracket,
    the next try is its middle.
    """
    low = float(((free - FURTHEST - 1) / step).min())
    high = float(((free + FURTHEST + 1) / step).max())
    above, below = open_at(low) - wanted, open_at(high) - wanted
    last, halve = 0, True
    for _ in range(TRIES):
        length = high - low
        middle = (low + high) / 2 if halve or above == below else (above * high - below * low) / (above - below)
        found = open_at(middle) - wanted
        if abs(found) <= NEAR or not low < middle < high:
            return middle
        if found > 0:
            low, above = middle, found
            below *= 0.5 if last > 0 else 1
        else:
            high, below = middle, found
            above *= 0.5 if last < 0 else 1
        last, halve = 1 if found > 0 else -1, high - low > length / 2
    return high


def _sigmoid(x: PerGate) -> PerGate:
    return 0.5 * (1 + np.tanh(x / 2))
