"""The one type of a number with its interval, and how both are written; intervals over seeds: of proportions and their
differences, of a mean, of the time to what may never happen."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from skilloc.mistakes import WrongValue

_DOF = (1, 2, 3, 4, 5, 6, 8, 10, 15, 30, np.inf)
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.306, 2.228, 2.131, 2.042, 1.960)
_Z95 = _T95[-1]


class Interval(NamedTuple):
    """A number, or an array of numbers of one kind, with a 95 % interval.

    Numbers that cannot be told from noise have `value` NaN and, as interval, all that is possible. Where nobody asked
    for `chance` or `reliability`, they are None.

    Attributes:
        value: the number or numbers.
        low: lower ends.
        high: upper ends.
        chance: the same where there is no structure.
        reliability: how much of the number is not noise, 0 to 1.
    """

    value: Any
    low: Any
    high: Any
    chance: Any = None
    reliability: Any = None

    def at(self, *place: Any) -> "Interval":
        """Return one of an array of numbers: `scores.at(0, 1)`, or a part of it."""
        return Interval(*(None if part is None else np.asarray(part)[place] for part in self))

    def record(self) -> dict[str, Any]:
        """Return the parts that are there as numbers or nested lists."""
        return {name: np.asarray(part).tolist() for name, part in self._asdict().items() if part is not None}


class Survival(NamedTuple):
    """The fraction of runs in which an event has not happened yet, after each time at which it happened in some.

    Attributes:
        time: 0, and then the times of events, rising.
        fraction: of runs without the event just after that time.
        low: lower end of its 95 % interval.
        high: upper end.
    """

    time: Float[np.ndarray, " event"]
    fraction: Float[np.ndarray, " event"]
    low: Float[np.ndarray, " event"]
    high: Float[np.ndarray, " event"]


def t_quantile(dof: int | Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Two-sided 95 % quantile of Student's t, from a table that is almost straight in 1 / dof (error below 0.005)."""
    return np.asarray(np.interp(1 / np.asarray(dof), 1 / np.array(_DOF)[::-1], _T95[::-1]))


def proportion_interval(successes: int, trials: int) -> Interval:
    """Return a proportion with Wilson's interval, which stays within 0 and 1 and is not empty at 0 of n [Wilson 1927].

    Raises:
        ValueError: if there are no trials, or not between 0 and all of them are successes.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise WrongValue(
            f"`successes` is {successes} of `trials` {trials}; pass at least one trial, and 0 to all of them"
        )
    found, z2 = successes / trials, _Z95**2
    centre = (found + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 / (1 + z2 / trials) * np.sqrt(found * (1 - found) / trials + z2 / (4 * trials**2))
    # At the ends, rounding would leave the end itself out.
    low = 0.0 if successes == 0 else float(centre - half)
    return Interval(found, low, 1.0 if successes == trials else float(centre + half))


def paired_difference(first: Bool[np.ndarray, " run"], second: Bool[np.ndarray, " run"]) -> Interval:
    """Return the difference p - q of two proportions of the same runs, with its square-and-add interval.

        d - sqrt(a^2 - 2 r a b + b^2)  to  d + sqrt(c^2 - 2 r c e + e^2),    d = p - q,
        a = p - p_low,  b = q_high - q,  c = p_high - p,  e = q - q_low

    with Wilson's intervals of both, and r the correlation of the two outcomes, corrected for continuity where it is
    positive, and 0 where one of them is the same in all runs [Newcombe 1998, Statistics in Medicine 17, 2635, method
    10]. The interval is not empty where all runs agree.

    Args:
        first: outcomes behind p.
        second: those behind q, of the same runs in the same order.

    Raises:
        ValueError: if there are no runs, or the two differ in length.
    """
    n = len(first)
    if not n or n != len(second):
        raise WrongValue(f"`first` has {n} runs and `second` {len(second)}; pass both for each run")
    p, q = (proportion_interval(int(outcomes.sum()), n) for outcomes in (first, second))
    alike = float((first & second).sum() * (~first & ~second).sum() - (first & ~second).sum() * (~first & second).sum())
    spread = n**2 * np.sqrt(p.value * (1 - p.value) * q.value * (1 - q.value))
    r = (max(alike - n / 2, 0.0) if alike > 0 else alike) / spread if spread else 0.0
    found, a, b, c, e = p.value - q.value, p.value - p.low, q.high - q.value, p.high - p.value, q.value - q.low
    below, above = np.sqrt(a**2 - 2 * r * a * b + b**2), np.sqrt(c**2 - 2 * r * c * e + e**2)
    return Interval(found, float(found - below), float(found + above))


def mean_interval(values: Float[np.ndarray, " seed"]) -> Interval:
    """Return mean +- t(seeds - 1) * sd / sqrt(seeds); with one seed the interval is endless.

    Raises:
        ValueError: if there are no values.
    """
    if not len(values):
        raise WrongValue("`values` is empty; pass at least one value")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, -np.inf, np.inf)
    half = float(t_quantile(len(values) - 1)) * float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return Interval(mean, float(mean - half), float(mean + half))


def survival(times: Float[np.ndarray, " run"], happened: Bool[np.ndarray, " run"]) -> Survival:
    """Return the product-limit estimate of the fraction without the event [Kaplan & Meier 1958].

        fraction(t) = product over event times u <= t of 1 - events at u / runs still watched at u

    Its interval is Greenwood's on the log(-log) scale, so that it stays within 0 and 1.

    Args:
        times: when the event happened, or, where it did not, until when the run was watched.
        happened: whether the event happened; a run without it is censored, not dropped.

    Raises:
        ValueError: if there are no runs, or the two differ in length.
    """
    if not len(times) or len(times) != len(happened):
        raise WrongValue(f"`times` has {len(times)} runs and `happened` {len(happened)}; pass both for each run")
    events = np.unique(times[happened])
    watched = np.array([(times >= t).sum() for t in events], dtype=np.float64)
    count = np.array([(times[happened] == t).sum() for t in events], dtype=np.float64)
    fraction = np.cumprod(1 - count / watched)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(np.cumsum(count / (watched * (watched - count)))) / np.abs(np.log(fraction))
        low, high = (fraction ** np.exp(sign * _Z95 * error) for sign in (1, -1))
    nothing_left = fraction == 0
    low, high = np.where(nothing_left, 0.0, low), np.where(nothing_left, np.append(1.0, high)[:-1], high)
    start = np.ones(1)
    return Survival(np.append(0.0, events), np.append(start, fraction), np.append(start, low), np.append(start, high))


def number(value: float, figures: int = 2) -> str:
    """Return a number with so many figures, and all those before the point: 0.0012, 0.12, 1.2, 123, 1,234.

    At most six stand after the point; what is smaller is 0.
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if abs(value) < 5e-7:  # no figure is left of it
        return "0"
    if value in (-1, 1):
        return f"{value:.0f}".replace("-", "−")
    rounded = float(f"{value:.{figures - 1}e}")  # 0.999 has as many figures before the point as 1
    digits = max(0, figures - 1 - math.floor(math.log10(abs(rounded))))
    return f"{value:,.{min(digits, 6)}f}".replace("-", "−")


def said(score: Interval | None, figures: int = 2) -> str:
    """Return a number with its interval, `0.63 [0.58, 0.67]`; a dash for one that cannot be told from noise."""
    if score is None or math.isnan(score.value):
        return "–"
    value = number(score.value, figures)
    known = score.low != score.high and not math.isnan(score.low) and not math.isnan(score.high)
    return f"{value} [{number(score.low, figures)}, {number(score.high, figures)}]" if known else value
