"""What lies under the noise, and units that were picked as the largest."""

from statistics import NormalDist

import numpy as np
import pytest

from skilloc import locality
from skilloc.locality.deconvolution import t_cdf
from skilloc.locality.uncertainty import skewed_mean


def test_the_t_distribution_is_that_of_the_books():
    assert t_cdf(np.array([12.706, 0.0]), 1) == pytest.approx([0.975, 0.5], abs=1e-5)
    assert t_cdf(np.array(4.303), 2) == pytest.approx(0.975, abs=1e-4)
    assert t_cdf(np.array(2.365), 7) == pytest.approx(0.975, abs=1e-4)
    assert t_cdf(np.array(1.0), 60) == pytest.approx(NormalDist().cdf(1.0), abs=3e-3)


def sparse(rng, n=600):
    effects = np.where(rng.random(n) < 0.03, np.exp(rng.standard_normal(n)), 0.0)
    return effects, effects + 0.5 * np.sqrt(8) * rng.standard_normal((8, n))


def test_picked_units_pay_for_having_been_picked():
    rng = np.random.default_rng(0)
    face, paid, false, expected, seen, left, true = [], [], [], [], [], [], []
    for _ in range(25):
        effects, table = sparse(rng)
        found = locality.picked(table, top=15)
        truth = effects[found.units]
        plain = 2.36 * table[:, found.units].std(axis=0, ddof=1) / np.sqrt(8)
        face.append(np.abs(found.seen - truth) <= plain)
        paid.append((found.low <= truth) & (truth <= found.high))
        false.append((truth <= 0).sum())
        expected.append(found.false)
        seen.append(found.seen.mean()), left.append(found.value.mean()), true.append(truth.mean())
    assert np.mean(face) < 0.75 < 0.9 <= np.mean(paid)
    assert np.mean(expected) == pytest.approx(np.mean(false), rel=0.25)
    assert abs(np.mean(left) - np.mean(true)) < abs(np.mean(seen) - np.mean(true)) / 3


def test_without_noise_nothing_is_left_to_pay():
    effects = np.array([5.0, -1, 0, 3, np.nan, 0.2])
    found = locality.picked(np.tile(effects, (4, 1)), top=3)
    assert found.units.tolist() == [0, 3, 5]
    assert found.value == pytest.approx([5, 3, 0.2], rel=1e-3)
    assert found.doubt == pytest.approx(0, abs=1e-6)


def test_the_bulk_counts_what_is_below_the_noise():
    rng = np.random.default_rng(1)
    effects = rng.exponential(size=2000)
    effects[:10] = 20.0
    table = effects + 3 * np.sqrt(8) * rng.standard_normal((8, 2000))
    expected, found = locality.plain(effects), locality.bulk(table)
    assert found.mass == pytest.approx(expected["mass"], rel=0.25)
    assert found.k90 == pytest.approx(expected["k90"], rel=0.5)
    assert found.hidden > 0.5


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        locality.picked(np.ones((4, 5)), top=0)
    with pytest.raises(ValueError, match="more folds"):
        locality.bulk(np.ones((2, 5)))


def test_means_of_skewed_folds_are_covered():
    rng = np.random.default_rng(2)
    for s, truth in ((0.2, np.exp(0.02)), (1.0, np.exp(0.5))):
        found = skewed_mean(np.exp(s * rng.standard_normal((8, 4000))))
        assert 0.92 <= np.mean((found.low <= truth) & (truth <= found.high)) <= 0.98
    negative = skewed_mean(-np.exp(rng.standard_normal((8, 4000))))
    assert np.mean((negative.low <= -np.exp(0.5)) & (-np.exp(0.5) <= negative.high)) >= 0.92
