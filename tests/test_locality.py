import re
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skilloc import locality
from skilloc.locality.entanglement import _mean_ranks
from skilloc.locality.uncertainty import mean_of, t_quantile

COUNTS = ("effective_number", "entropy_number", "k50", "k90")
SHARES = ("locality", "hoyer", "gini", "top_share", "negative_share")


def heavy_tailed(rng, n=2000):
    """Lognormal magnitudes, three in ten negative."""
    return np.where(rng.random(n) < 0.7, 1, -1) * np.exp(1.5 * rng.standard_normal(n))


def measure(rng, effects, noise, folds=8):
    """Fold values whose mean has noise of standard deviation `noise`."""
    return effects + noise * np.sqrt(folds) * rng.standard_normal((folds, *effects.shape))


# One subtask: the definitions


def test_scores_of_a_small_example_worked_out_by_hand():
    found = locality.plain(np.array([1.0, -1, 3, 0]), top=1)
    assert found["mass"] == 4
    assert found["effective_number"] == pytest.approx(16 / 10)
    assert found["entropy_number"] == pytest.approx(4 / 3**0.75)  # exp of ¾ log 4/3 + ¼ log 4
    assert found["locality"] == pytest.approx(1 - np.log(1.6) / np.log(4))
    assert found["hoyer"] == pytest.approx(2 - np.sqrt(1.6))
    assert found["gini"] == pytest.approx(2 / 3 * (3 + 4 + 4) / 4 - 1)
    assert found["top_share"] == pytest.approx(3 / 4)
    assert (found["k50"], found["k90"]) == (1, 2)
    assert found["negative_share"] == pytest.approx(1 / 5)


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_one_unit_is_local_and_even_units_are_not(n):
    one, even = locality.plain(3.0 * np.eye(n)[n // 2], top=1), locality.plain(np.full(n, 0.2), top=1)
    for name in ("locality", "hoyer", "gini"):
        assert one[name] == pytest.approx(1)
        assert even[name] == pytest.approx(0, abs=1e-12)
    assert [one[name] for name in COUNTS] == pytest.approx([1, 1, 1, 1])
    assert [even[name] for name in COUNTS] == pytest.approx([n, n, np.ceil(n / 2), np.ceil(0.9 * n)])
    assert even["top_share"] == pytest.approx(1 / n)


def test_chance_is_what_a_random_direction_scores():
    n = 200_000
    drawn = locality.plain(np.random.default_rng(0).standard_normal(n), top=500)
    expected = locality.chance(n, top=500)
    for name in (*COUNTS, *SHARES):
        assert expected[name] == pytest.approx(drawn[name], rel=0.02), name


# One subtask: noise


def test_without_noise_scores_are_the_definitions_and_intervals_vanish():
    effects = heavy_tailed(np.random.default_rng(0), 300)
    expected = locality.plain(effects)
    for folds in (3, 4, 5, 6, 7, 8, 13):
        for name, score in locality.scores(np.tile(effects, (folds, 1))).items():
            if (name, folds) == ("k90", 3):
                assert np.isnan(score.value)  # its interval does not cover with so few folds
                continue
            assert score[:3] == pytest.approx((expected[name],) * 3, rel=1e-6), (folds, name)


@pytest.mark.parametrize(("noise", "needed"), [(0.5, 1.0), (1.0, 1.0), (2.0, 1.0), (0.1, 0.05)])
def test_noise_biases_the_plain_number_of_units_but_not_the_debiased_one(noise, needed):
    rng = np.random.default_rng(1)
    plain, debiased = [], []
    for _ in range(8):
        effects = heavy_tailed(rng) * (rng.random(2000) < needed)
        table = measure(rng, effects, noise)
        truth = locality.plain(effects)["effective_number"]
        plain.append(locality.plain(table.mean(axis=0))["effective_number"] / truth - 1)
        debiased.append(locality.scores(table)["effective_number"].value / truth - 1)
    assert min(plain) > 0
    assert abs(np.mean(debiased)) < np.mean(plain) / 3


def test_null_units_do_not_add_to_the_mass():
    rng = np.random.default_rng(2)
    found = [locality.scores(measure(rng, np.zeros(500), 1.0))["mass"] for _ in range(40)]
    values = np.array([score.value for score in found])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))  # E|noise| would be 500 · 0.4 = 200
    assert values.std() < 40
    assert np.mean([score.low <= 0 <= score.high for score in found]) >= 0.9


def test_pure_noise_has_no_signal_where_the_plain_score_is_confident():
    rng = np.random.default_rng(3)
    signals = 0
    for trial in range(60):
        spread = np.exp(rng.standard_normal(500))  # some units are noisier than others
        table = spread * rng.standard_normal(((4, 8, 16)[trial % 3], 500))
        assert 10 < locality.plain(table.mean(axis=0))["effective_number"] < 200
        score = locality.scores(table)["effective_number"]
        if np.isnan(score.value):
            assert (score.low, score.high) == pytest.approx((1, 500))
        else:
            signals += 1
    assert signals <= 3


def test_intervals_cover_at_their_nominal_rate():
    rng = np.random.default_rng(4)
    names = (*COUNTS, *SHARES, "mass")
    inside, widths = {name: [] for name in names}, []
    for trial in range(120):
        effects = heavy_tailed(rng)
        noise = (0.5, 1.0, 2.0)[trial % 3] * np.median(np.abs(effects))  # of the mean over folds
        table = measure(rng, effects, noise, folds=(8, 16)[trial % 2])
        truth, found = locality.plain(effects), locality.scores(table)
        for name in names:
            inside[name].append(found[name].low <= truth[name] <= found[name].high)
        number = found["effective_number"]
        widths.append((number.high - number.low) / number.value)
    coverage = {name: np.mean(hits) for name, hits in inside.items()}
    assert min(coverage.values()) >= 0.90, coverage
    assert np.median(widths) < 0.6  # intervals without end would cover too


def test_intervals_cover_when_whole_folds_are_off():
    rng = np.random.default_rng(5)
    inside = []
    for _ in range(60):
        effects = heavy_tailed(rng, 300)
        table = measure(rng, effects, 0.2) * (1 + 0.3 * rng.standard_normal((8, 1)))
        score = locality.scores(table)["mass"]
        inside.append(score.low <= np.maximum(effects, 0).sum() <= score.high)
    assert 0.88 <= np.mean(inside) <= 1


def test_a_scale_per_fold_moves_the_mass_but_not_the_shape():
    rng = np.random.default_rng(11)
    found = locality.scores(heavy_tailed(rng, 300) * (1 + 0.05 * rng.standard_normal((8, 1))))
    width = {name: (found[name].high - found[name].low) / found[name].value for name in locality.NAMES}
    assert width["mass"] > 0.03
    assert width["effective_number"] < 0.1 * width["mass"]
    assert width["entropy_number"] < 0.05 * width["mass"]


def test_a_planted_unit_is_found_under_noise():
    rng = np.random.default_rng(6)
    found = locality.scores(measure(rng, np.eye(1000)[17], 1e-4), top=1)
    assert found["locality"].value > 0.98
    assert found["locality"].low > 0.9 > found["locality"].chance
    assert found["top_share"].value > 0.95
    assert (found["k50"].value, found["k90"].value) == (1, 1)


def test_a_big_unit_over_noise_that_may_hide_others_keeps_a_wide_interval():
    found = locality.scores(measure(np.random.default_rng(7), 20 * np.eye(3000)[5], 1.0))
    assert found["mass"].low < 0
    assert found["effective_number"].low == 1
    assert 1 < found["effective_number"].high < 500
    assert np.isnan(found["gini"].value)
    assert (found["gini"].low, found["gini"].high) == (0, 1)


@pytest.mark.parametrize("effects", [np.zeros((4, 6)), -np.ones((4, 6))])
def test_effects_that_no_unit_is_needed_for_have_no_scores(effects):
    found = locality.scores(effects)
    assert found["mass"][:3] == (0, 0, 0)
    assert all(np.isnan(found[name].value) for name in locality.NAMES if name != "mass")
    assert found["locality"][1:3] == pytest.approx((0, 1), abs=1e-12)


def test_a_single_unit_is_neither_local_nor_spread():
    found = locality.scores(np.full((3, 1), 2.0))
    assert found["effective_number"].value == 1
    assert np.isnan(found["locality"].value)


def test_units_that_were_not_measured_do_not_count():
    table = measure(np.random.default_rng(8), heavy_tailed(np.random.default_rng(9), 50), 0.1)
    gaps = np.insert(table, [0, 20, 20, 50], np.nan, axis=1)
    assert locality.scores(gaps) == locality.scores(table)


tables = st.integers(0, 2**32 - 1).map(
    lambda seed: measure(
        np.random.default_rng(seed), heavy_tailed(np.random.default_rng(seed), 12), 0.3, folds=3 + seed % 6
    )
)


@settings(deadline=None, max_examples=15)
@given(tables, st.sampled_from([1e-200, 1e-8, 3.0, 1e200]))
def test_scale_and_order_change_nothing(table, scale):
    rng = np.random.default_rng(0)
    expected = locality.scores(table)
    changed = locality.scores(scale * rng.permutation(rng.permutation(table, axis=1), axis=0))
    for name in locality.NAMES:
        unit = scale if name == "mass" else 1
        found, wanted = np.array(changed[name][:4]) / unit, np.array(expected[name][:4])
        assert found == pytest.approx(wanted, rel=1e-6, nan_ok=True), name


@settings(deadline=None, max_examples=15)
@given(tables)
def test_scores_stay_where_they_are_possible(table):
    for name, (value, low, high, *_) in locality.scores(table).items():
        if name in SHARES:
            assert 0 <= low <= high <= 1
        if name in COUNTS:
            assert 1 <= low <= high <= 12
        assert np.isnan(value) or low <= value <= high


def test_the_table_names_its_subtasks():
    effects = np.random.default_rng(10).standard_normal((8, 2, 40)) + 1
    found = locality.table(effects, ["python", "english"], top=3)
    assert list(found) == ["python", "english"]
    assert repr(found["english"]) == repr(locality.scores(effects[:, 1], top=3))
    with pytest.raises(ValueError, match="one name for each"):
        locality.table(effects, ["python"])


def test_bad_effects_are_refused_with_the_cure():
    good = np.ones((4, 5))
    partly, infinite = good.copy(), good.copy()
    partly[1, 2], infinite[1, 2] = np.nan, np.inf
    for effects, cure in (
        (good[:2], "in more folds"),
        (partly, "measure a unit everywhere"),
        (infinite, "measure those units again"),
        (good * np.nan, "measure some units"),
    ):
        with pytest.raises(ValueError, match=cure):
            locality.scores(effects)
    with pytest.raises(ValueError, match="at least 1 unit"):
        locality.scores(good, top=0)


# Between subtasks


def related(rng, n=1500):
    """Two heavy-tailed subtasks that share six units in ten."""
    first, other = heavy_tailed(rng, n), heavy_tailed(rng, n)
    return np.stack([first, np.where(rng.random(n) < 0.6, first, other)])


def ruzicka(effects):
    p, q = (np.maximum(row, 0) / np.maximum(row, 0).sum() for row in effects)
    return np.minimum(p, q).sum() / np.maximum(p, q).sum()


def test_overlap_without_noise_is_the_definition():
    effects = related(np.random.default_rng(0), 200)
    found = locality.overlap(np.tile(effects, (5, 1, 1)))
    assert found.value == pytest.approx(np.array([[1, ruzicka(effects)], [ruzicka(effects), 1]]), rel=1e-9)
    assert found.high == pytest.approx(found.low)
    disjoint = locality.overlap(np.tile(np.eye(2), (3, 1, 1)))
    assert disjoint.value[0, 1] == 0


def test_overlap_is_not_lost_in_noise():
    rng = np.random.default_rng(1)
    plain, debiased, inside = [], [], []
    for _ in range(10):
        effects = related(rng)
        table = measure(rng, effects, 1.0)
        found = locality.overlap(table, draws=1)
        truth = ruzicka(effects)
        plain.append(ruzicka(table.mean(axis=0)) - truth)
        debiased.append(found.value[0, 1] - truth)
        inside.append(found.low[0, 1] <= truth <= found.high[0, 1])
    assert np.mean(plain) < -0.03
    assert abs(np.mean(debiased)) < 0.02
    assert np.mean(inside) >= 0.85


def test_the_same_effects_overlap_fully_however_noisy():
    rng = np.random.default_rng(2)
    effects = np.stack([heavy_tailed(rng)] * 2)
    table = measure(rng, effects, 1.0)
    found = locality.overlap(table)
    assert ruzicka(table.mean(axis=0)) < 0.9 < found.value[0, 1]
    assert found.high[0, 1] == 1


def test_overlap_at_chance_when_units_are_unrelated():
    rng = np.random.default_rng(3)
    found = locality.overlap(measure(rng, np.stack([heavy_tailed(rng), heavy_tailed(rng)]), 0.3), draws=5)
    assert found.low[0, 1] < found.chance[0, 1] < found.high[0, 1]
    again = locality.overlap(np.ones((3, 2, 4)), seed=1)
    assert again.chance[0, 1] == again.value[0, 1] == 1  # even effects overlap in any order


def test_overlap_with_noise_is_unknown():
    rng = np.random.default_rng(4)
    found = locality.overlap(measure(rng, np.stack([heavy_tailed(rng), np.zeros(2000)]), 1.0))
    assert np.isnan(found.value[0, 1])
    assert (found.low[0, 1], found.high[0, 1]) == (0, 1)


@pytest.mark.parametrize(("n", "k"), [(5, 2), (6, 4), (40, 10)])
def test_jaccard_chance_is_exact(n, k):
    found = locality.top_jaccard(np.tile(np.arange(n) + 1.0, (3, 1, 1)), top=k)
    if comb(n, k) < 100:
        sets = [set(np.flatnonzero([m >> i & 1 for i in range(n)])) for m in range(2**n) if bin(m).count("1") == k]
        exact = np.mean([len(x & y) / len(x | y) for x in sets for y in sets])
        assert found.chance[0, 0] == pytest.approx(exact)
    assert found.chance[0, 0] == pytest.approx(k / (2 * n - k), rel=0.2)
    assert found.value[0, 0] == 1


def test_jaccard_of_half_shared_units_and_its_ceiling():
    first, second = np.zeros(400), np.zeros(400)
    first[:10], second[5:15] = 1, 1
    rng = np.random.default_rng(5)
    exact = locality.top_jaccard(np.tile(np.stack([first, second]), (4, 1, 1)), top=10)
    assert exact.value == pytest.approx(np.array([[1, 1 / 3], [1 / 3, 1]]))
    noisy = locality.top_jaccard(measure(rng, np.stack([first, second]), 0.3), top=10)
    assert noisy.value[0, 1] < noisy.value[0, 0] < 1  # the diagonal shows what noise leaves of full agreement
    with pytest.raises(ValueError, match="fewer than all"):
        locality.top_jaccard(np.ones((3, 1, 5)), top=5)


def test_ranks_share_ties():
    assert _mean_ranks(np.array([5.0, 1, 5, 0, 5])).tolist() == [3, 1, 3, 0, 3]


def test_rank_correlation_undoes_noise():
    rng = np.random.default_rng(6)
    plain, corrected, inside = [], [], []
    for _ in range(25):
        effects = related(rng, 1000)
        table = measure(rng, effects, 1.0)
        truth, seen = (
            np.corrcoef(_mean_ranks(rows[0]), _mean_ranks(rows[1]))[0, 1] for rows in (effects, table.mean(0))
        )
        found = locality.rank_correlation(table)
        plain.append(seen - truth)
        corrected.append(found.value[0, 1] - truth)
        inside.append(found.low[0, 1] <= truth <= found.high[0, 1])
    assert np.mean(plain) < -0.1
    assert abs(np.mean(corrected)) < 0.02
    assert np.mean(inside) >= 0.84


def test_rank_correlation_with_noise_is_unknown():
    rng = np.random.default_rng(7)
    table = measure(rng, np.stack([heavy_tailed(rng, 500), np.zeros(500)]), 1.0)
    assert locality.reliability(table).low[0] > 0.3 > abs(locality.reliability(table).value[1])
    found = locality.rank_correlation(table)
    assert np.isnan(found.value[0, 1])
    assert (found.low[0, 1], found.high[0, 1]) == (-1, 1)


def test_selectivity_names_whose_unit_it_is():
    first = np.array([2.0, 0, 3, -1, 1, -1, np.nan])
    second = np.array([0.0, 2, 1, 4, 1, -1, np.nan])
    found = locality.selectivity(np.tile(first, (3, 1)), np.tile(second, (3, 1)))
    assert found.value == pytest.approx(np.array([1, -1, 0.5, -1, 0, np.nan, np.nan]), nan_ok=True)
    assert found.low[:5] == pytest.approx(found.high[:5])
    with pytest.raises(ValueError, match="same folds"):
        locality.selectivity(np.ones((3, 2)), np.ones((3, 1)))


def test_selectivity_intervals_cover_and_noise_spans_most_of_them():
    rng = np.random.default_rng(8)
    first, second = np.abs(rng.standard_normal((2, 3000))) + 1
    found = locality.selectivity(measure(rng, first, 0.2), measure(rng, second, 0.2))
    truth = (first - second) / (first + second)
    assert 0.92 <= np.mean((found.low <= truth) & (truth <= found.high)) <= 0.98
    null = locality.selectivity(rng.standard_normal((8, 500)), rng.standard_normal((8, 500)))
    seen = ~np.isnan(null.value)
    assert np.median((null.high - null.low)[seen]) > 1


def test_between_has_all_matrices():
    found = locality.between(np.random.default_rng(9).standard_normal((4, 3, 30)) + 1, top=5, draws=1)
    assert {name: matrix.value.shape for name, matrix in found.items()} == {
        "overlap": (3, 3),
        "top_jaccard": (3, 3),
        "rank_correlation": (3, 3),
    }


# Joint removal

LOSSES = np.array([[2.0, 1.0, 0.0], [0.5, 3.0, 0.5], [0.0, 0.2, 1.0]])
RANDOM = np.array([0.1, 0.2, 0.4])


def removed(rng, noise, folds=8, draws=4):
    """Fold values of `LOSSES` and of random masks, which also differ from draw to draw."""
    masks = RANDOM + noise * (rng.standard_normal((draws, 1, 3)) + rng.standard_normal((draws, folds, 3)))
    return LOSSES + noise * rng.standard_normal((folds, 3, 3)), masks


def test_removal_scores_worked_out_by_hand():
    found = locality.removal_scores(*removed(np.random.default_rng(0), 0.0))
    assert found["loss_increase"].value == pytest.approx(LOSSES)
    assert found["loss_increase"].chance == pytest.approx(np.tile(RANDOM, (3, 1)))
    assert found["excess"].value == pytest.approx(LOSSES - RANDOM)
    assert found["share"].value[0] == pytest.approx([1, 0.5, 0])
    assert found["share"].chance[0] == pytest.approx([1, 2, 4])
    assert found["specificity"].value == pytest.approx([2 / 0.5, 3 / 0.5, 1 / 0.1])
    assert found["specificity"].chance == pytest.approx([0.1 / 0.3, 0.2 / 0.25, 0.4 / 0.15])
    assert found["hierarchy"].value[0, 1] == 0.5  # without 0's units, 1 loses more than the other way round
    norm_minus, norm_plus = 2 * (0.5**2 + 0.3**2), 4 * (2**2 + 3**2 + 1) + 2 * (1.5**2 + 0.7**2)
    assert found["asymmetry"].value == pytest.approx(np.sqrt(norm_minus / norm_plus))


def test_removal_intervals_cover():
    rng = np.random.default_rng(1)
    truth = locality.removal_scores(*removed(rng, 0.0))
    inside = {name: [] for name in truth}
    for _ in range(80):
        for name, found in locality.removal_scores(*removed(rng, 0.1)).items():
            aim = truth[name].value
            inside[name].append(np.mean((found.low <= aim + 1e-9) & (aim - 1e-9 <= found.high)))
    assert {name: 0.9 <= np.mean(hits) <= 0.99 for name, hits in inside.items()} == dict.fromkeys(inside, True)


def test_noise_does_not_look_like_asymmetry():
    rng = np.random.default_rng(2)
    plain, debiased = [], []
    for _ in range(50):
        removal = LOSSES + LOSSES.T + 2.0 * rng.standard_normal((8, 3, 3))
        mean = removal.mean(axis=0)
        plain.append(np.linalg.norm(mean - mean.T) / np.linalg.norm(mean + mean.T))
        found = locality.removal_scores(removal, np.zeros((2, 8, 3)))["asymmetry"]
        debiased.append(found.value**2)
        assert found.low < 0.2
    assert np.mean(plain) > 0.1
    assert abs(np.mean(debiased)) < np.mean(np.square(plain)) / 2


def test_a_removal_that_hurts_nobody_else_is_specific_without_bound():
    rng = np.random.default_rng(3)
    removal = np.diag([1.0, 1.0]) + 0.01 * rng.standard_normal((8, 2, 2))
    found = locality.removal_scores(removal, np.zeros((2, 8, 2)))["specificity"]
    assert (found.high == np.inf).all()
    assert (found.low > 30).all()
    nothing = locality.removal_scores(0.01 * rng.standard_normal((8, 2, 2)), np.zeros((2, 8, 2)))["specificity"]
    assert np.isnan(nothing.value).any()


def test_few_random_draws_widen_the_excess():
    rng = np.random.default_rng(4)
    removal, masks = removed(rng, 0.1, draws=20)
    few, many = (locality.removal_scores(removal, masks[:draws])["excess"] for draws in (2, 20))
    assert np.median(few.high - few.low) > 1.2 * np.median(many.high - many.low)


def test_bad_removals_are_refused_with_the_cure():
    for removal, random, cure in (
        (np.ones((4, 2, 3)), np.ones((2, 4, 3)), "for the units of every subtask"),
        (np.ones((4, 2, 2)), np.ones((1, 4, 2)), "at least 2 draws"),
        (np.ones((4, 2, 2)), np.ones((3, 3, 2)), "same folds and targets"),
        (np.ones((2, 2, 2)), np.ones((3, 2, 2)), "in more folds"),
    ):
        with pytest.raises(ValueError, match=cure):
            locality.removal_scores(removal, random)


def test_backup_units_interact():
    rng = np.random.default_rng(5)
    noise = 0.01 * rng.standard_normal((3, 8, 2))
    joint, first, second = np.array([[1.0, 0.2], [0.1, 0.1], [0.1, 0.1]])[:, None] + noise
    found = locality.interaction(joint, first, second)
    assert found.low[0] > 0.7
    assert found.low[1] < 0 < found.high[1]
    with pytest.raises(ValueError, match="same pairs"):
        locality.interaction(joint, first, second[:, :1])


# The ground


def test_t_quantiles_from_the_book():
    book = {1: 12.706, 3: 3.182, 5: 2.571, 7: 2.365, 9: 2.262, 12: 2.179, 20: 2.086, 31: 2.040, 60: 2.000, 1e9: 1.960}
    assert t_quantile(np.array(list(book))) == pytest.approx(list(book.values()), abs=0.02)


def test_mean_of_some_folds():
    table = np.random.default_rng(0).standard_normal((6, 9))
    assert mean_of(table, [1, 4, 5]) == pytest.approx(table[[1, 4, 5]].mean(axis=0))


def test_docstrings_name_every_score():
    for name in locality.NAMES:
        assert re.search(rf"\b{name}\b", locality.plain.__doc__), name
