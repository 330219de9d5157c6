"""How far scores and ranks move between references."""

import numpy as np
import pytest

from skilloc import locality


def test_a_unit_that_only_one_reference_makes_large_has_moved():
    rng = np.random.default_rng(0)
    effects = np.exp(rng.standard_normal(200))
    other = effects.copy()
    unit = int(effects.argmin())
    other[unit] = 50.0
    noise = 0.01 * rng.standard_normal((3, 8, 200))
    tables = {"zero": effects + noise[0], "mean": effects + noise[1], "flat mean": other + noise[2]}
    found = locality.reference_spread(tables)
    assert found.moved[0].unit == unit
    assert (found.moved[0].first, found.moved[0].ranks[:2]) == ("flat mean", (1, 1))
    assert found.range("effective_number") > 5
    place = locality.NAMES.index("mass")
    assert found.low[place] < effects.sum() < effects.sum() + 40 < found.high[place]


def test_noise_alone_moves_nothing():
    rng = np.random.default_rng(1)
    effects = np.exp(rng.standard_normal(200))
    tables = {name: effects + rng.standard_normal((8, 200)) for name in ("zero", "mean")}
    assert len(locality.reference_spread(tables).moved) <= 1


def test_one_reference_is_none():
    with pytest.raises(ValueError, match="at least 2"):
        locality.reference_spread({"zero": np.ones((4, 5))})
    with pytest.raises(ValueError, match="same units"):
        locality.reference_spread({"zero": np.ones((4, 5)), "mean": np.ones((4, 6))})
