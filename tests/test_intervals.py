from math import comb, exp, log, sqrt

import numpy as np
import pytest

from skilloc.locality.intervals import (
    Interval,
    mean_interval,
    number,
    paired_difference,
    proportion_interval,
    survival,
    t_quantile,
)

Z = 1.96


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Of 0 of n the upper end is z² / (n + z²) = 3.8416 / 43.8416; of 8 of 10 it is the textbook's example.
    [(0, 40, 0.0, 0.0876), (40, 40, 0.9124, 1.0), (8, 10, 0.4902, 0.9433), (27, 40, 0.5202, 0.7992)],
)
def test_wilsons_interval_has_its_known_values(successes: int, trials: int, low: float, high: float) -> None:
    found = proportion_interval(successes, trials)
    assert found.value == successes / trials
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


def test_wilsons_ends_are_the_proportions_that_a_score_test_just_accepts() -> None:
    found = proportion_interval(7, 23)
    for end in (found.low, found.high):
        assert abs(found.value - end) == pytest.approx(Z * sqrt(end * (1 - end) / 23))


def test_wilsons_interval_covers_at_its_nominal_rate() -> None:
    # No simulation: the coverage is a sum over all outcomes. It oscillates about 95 % as the true proportion moves.
    ends = [proportion_interval(k, 40) for k in range(41)]
    covered = [
        sum(comb(40, k) * p**k * (1 - p) ** (40 - k) for k, end in enumerate(ends) if end.low <= p <= end.high)
        for p in np.linspace(0.03, 0.97, 189)
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.008)
    assert min(covered) > 0.9


def outcomes(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes of runs that succeeded both times, only the first time, only the second time, and never."""
    counts = (both, first, second, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    # Newcombe's own example (correlation below 0); one with it above 0, by hand: r = (26 * 5 - 7 * 2 - 20) / sqrt(33 *
    # 7 * 28 * 12) = 0.3446; and all alike, where the ends are those of two independent proportions.
    [
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((26, 7, 2, 5), -0.0273, 0.2738),
        ((40, 0, 0, 0), -0.0876, 0.0876),
    ],
)
def test_the_paired_difference_has_its_known_values(counts: tuple[int, ...], low: float, high: float) -> None:
    first, second = outcomes(*counts)
    found = paired_difference(first, second)
    assert found.value == pytest.approx((counts[1] - counts[2]) / sum(counts))
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-4)
    turned = paired_difference(second, first)
    assert (-turned.value, -turned.high, -turned.low) == pytest.approx(found[:3])


@pytest.mark.parametrize("rates", [(0.6, 0.2, 0.05, 0.15), (0.64, 0.16, 0.16, 0.04), (0.5, 0.05, 0.05, 0.4)])
def test_the_paired_difference_covers_at_its_nominal_rate(rates: tuple[float, ...]) -> None:
    # No simulation: the coverage is a sum over all tables of 20 runs.
    covered, n = 0.0, 20
    for a in range(n + 1):
        for b in range(n + 1 - a):
            for c in range(n + 1 - a - b):
                counts = (a, b, c, n - a - b - c)
                ways = comb(n, a) * comb(n - a, b) * comb(n - a - b, c)
                found = paired_difference(*outcomes(*counts))
                chance = ways * np.prod([rate**count for rate, count in zip(rates, counts, strict=True)])
                covered += chance * (found.low <= rates[1] - rates[2] <= found.high)
    assert 0.93 <= covered <= 0.995


def test_quantiles_of_student_lie_between_and_at_the_tables_entries() -> None:
    # 9 and 19 degrees of freedom are not in the table; the values are a textbook's.
    assert t_quantile(np.array([9.0, 10.0, 19.0])) == pytest.approx([2.262, 2.228, 2.093], abs=0.005)


def test_the_interval_of_a_mean_is_the_textbooks() -> None:
    found = mean_interval(np.array([1.0, 2.0, 3.0]))
    assert found.value == 2.0
    # sd 1, t with 2 degrees of freedom
    assert (found.low, found.high) == pytest.approx((2 - 4.303 / sqrt(3), 2 + 4.303 / sqrt(3)), abs=1e-6)


def test_the_interval_of_a_mean_covers_at_its_nominal_rate() -> None:
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(4000, 10))
    ends = [mean_interval(values) for values in draws]
    # 4000 draws: 0.95 ± 0.0035 (one standard error)
    assert np.mean([end.low <= 3 <= end.high for end in ends]) == pytest.approx(0.95, abs=0.012)


def test_one_seed_has_an_endless_interval() -> None:
    assert mean_interval(np.array([2.0])) == Interval(2.0, -np.inf, np.inf)


def test_survival_is_what_one_works_out_by_hand() -> None:
    # 6 runs. At 1, one of 6. At 2, one of 5, and another is given up. At 3, one of the 3 that are left. Then two are
    # given up, at 4 and 5.
    times = np.array([1.0, 2, 2, 3, 4, 5])
    happened = np.array([True, True, False, True, False, False])
    found = survival(times, happened)
    assert found.time.tolist() == [0, 1, 2, 3]
    assert found.fraction == pytest.approx([1, 5 / 6, 4 / 6, 4 / 9])
    greenwood = [1 / (6 * 5), 1 / (6 * 5) + 1 / (5 * 4), 1 / (6 * 5) + 1 / (5 * 4) + 1 / (3 * 2)]
    for place, variance in enumerate(greenwood, start=1):
        s = found.fraction[place]
        factor = exp(Z * sqrt(variance) / abs(log(s)))
        assert found.low[place] == pytest.approx(s**factor)
        assert found.high[place] == pytest.approx(s ** (1 / factor))


def test_censored_runs_count_for_as_long_as_they_were_watched() -> None:
    happened = np.array([True, False, True, True])
    early, late = (survival(np.array([2.0, given_up, 3, 4]), happened).fraction for given_up in (1.0, 5.0))
    # Given up before any event, the run counts for nothing; watched to the end, it stays.
    assert early == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert late == pytest.approx([1, 3 / 4, 2 / 4, 1 / 4])


def test_survival_without_any_event_stays_one() -> None:
    found = survival(np.array([3.0, 4.0]), np.zeros(2, bool))
    assert [values.tolist() for values in found] == [[0], [1], [1], [1]]


def test_where_nothing_is_left_the_upper_end_stays_that_of_the_time_before() -> None:
    found = survival(np.array([1.0, 2.0, 3.0]), np.ones(3, bool))
    assert found.fraction == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert found.low[-1] == 0
    assert found.high[-1] == found.high[-2] > 1 / 3


def test_survivals_interval_covers_at_its_nominal_rate() -> None:
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(1500):
        event, given_up = generator.exponential(1.0, 40), generator.uniform(0, 3, 40)
        found = survival(np.minimum(event, given_up), event <= given_up)
        place = np.searchsorted(found.time, 0.7, side="right") - 1
        covered.append(found.low[place] <= exp(-0.7) <= found.high[place])
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("counts", [(0, 0), (-1, 3), (4, 3)])
def test_impossible_counts_are_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least one trial"):
        proportion_interval(*counts)


def test_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval(np.array([]))
    with pytest.raises(ValueError, match="pass both for each run"):
        survival(np.array([]), np.array([], bool))
    with pytest.raises(ValueError, match="pass both for each run"):
        paired_difference(np.array([], bool), np.array([], bool))


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (3e-9, "0"), (-3e-9, "0"), (1e-6, "0.000001"), (-1.0, "−1"), (0.0123, "0.012")]
)
def test_what_has_no_figure_left_is_0(value: float, text: str) -> None:
    assert number(value) == text
