"""A whole curve of circuits as two numbers: those of the MIB benchmark.

With circuits of sizes s_1 < ... < s_n, x_i = s_i / number of units, and f_i the faithfulness of the i-th,

    area under    sum over i of (x_{i+1} - x_i) (f_i + f_{i+1}) / 2                          more is better
    area from 1   sum over i of (x_{i+1} - x_i) (|1 - f_i| + |1 - f_{i+1}|) / 2              less is better

[Mueller et al. 2504.13151, "integrated circuit performance ratio" and "integrated circuit-model distance"]. The curve
ends at the whole model, x = 1 and f = 1, and begins at its first size: nothing is added below. The two add up to
1 - x_1 where no f_i is above 1.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from skilloc.mistakes import WrongValue


def area_under(sizes: Sequence[int], shares: Sequence[float] | Float[np.ndarray, " size"], *, units: int) -> float:
    """Return the area under a curve of faithfulness over the share of units that are kept.

    Args:
        sizes: numbers of units, rising.
        shares: the faithfulness of each circuit.
        units: number of all units; the curve goes on from its last size to 1 there.

    Raises:
        ValueError: if sizes do not rise, or there is not one share for each.
    """
    x, f = _curve(sizes, shares, units)
    return float(np.trapezoid(f, x))


def area_from_one(sizes: Sequence[int], shares: Sequence[float] | Float[np.ndarray, " size"], *, units: int) -> float:
    """Return the area between a curve of faithfulness and 1, on either side; see `area_under`."""
    x, f = _curve(sizes, shares, units)
    return float(np.trapezoid(np.abs(1 - f), x))


def _curve(
    sizes: Sequence[int], shares: Sequence[float] | Float[np.ndarray, " size"], units: int
) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]]:
    x, f = np.asarray(sizes, dtype=float), np.asarray(shares, dtype=float)
    if len(x) == 0 or x.shape != f.shape or (np.diff(x) <= 0).any() or not 0 < x[0] <= x[-1] <= units:
        raise WrongValue(
            f"`sizes` is {tuple(sizes)} with {f.shape} shares; pass one share for each of some sizes that rise, "
            f"from 1 to at most {units}"
        )
    if x[-1] < units:
        x, f = np.append(x, units), np.append(f, 1.0)
    return x / units, f
