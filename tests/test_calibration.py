from dataclasses import replace

import numpy as np
import pytest

from skilloc.attribution.calibration import calibrate
from skilloc.attribution.sampling import chances, draw_sample
from skilloc.attribution.weighted import counted_ranks
from skilloc.effects import Effects
from skilloc.units import Units, neurons


def effects(values, exact=True):
    n = values.shape[-1]
    values = values.reshape(-1, 1, n)
    units = Units((neurons("blocks.0.mlp.hook_post", n, 0),))
    return Effects(values, np.ones(values.shape[:2]), ("a",), units, np.full(n, exact), {})


def heavy(seed, n=2000, folds=4):
    rng = np.random.default_rng(seed)
    return np.repeat(rng.standard_t(2, size=(1, n)), folds, axis=0)


def test_a_perfect_estimate():
    truth = heavy(0)
    drawn = np.arange(2000) < 100
    found = calibrate(effects(truth, False), effects(np.where(drawn, truth, np.nan)), drawn=drawn)["a"]
    assert np.isnan(found.pearson.value)  # the largest effects may lie among what was not drawn
    assert calibrate(effects(truth, False), effects(truth), drawn=np.ones(2000, bool))[
        "a"
    ].pearson.value == pytest.approx(1)
    assert found.spearman.value == pytest.approx(1)
    assert found.relative_error.value == pytest.approx(0)
    whole = calibrate(effects(truth, False), effects(truth), drawn=drawn)["a"]
    assert whole.recall["50 in 100"].value == 1


def test_an_estimate_that_knows_nothing():
    found = calibrate(effects(heavy(1), False), effects(heavy(0)), drawn=np.arange(2000) < 500)["a"]
    drawn = np.arange(2000) < 500
    part = calibrate(effects(heavy(1), False), effects(np.where(drawn, heavy(0), np.nan)), drawn=drawn)["a"]
    assert part.spearman.low < 0 < part.spearman.high
    assert abs(found.spearman.value) < 0.1
    assert found.relative_error.value > 1
    assert found.recall["50 in 100"].value < 0.2
    assert found.missed_mass["100"].value > 0.8


def test_values_worked_out_by_hand():
    truth = np.array([[8.0, 4, 2, 1, -1, -2, 1, 1, 1, 1]])
    guess = np.array([[9.0, 1, 3, 1, -1, -2, 0, 0, 0, 0]])
    found = calibrate(effects(guess, False), effects(truth), drawn=np.ones(10, bool), recalls=((2, 2), (2, 5)))["a"]
    # The largest two are units 0 and 1; the estimate's top two are 0 and 2, and unit 1 comes fourth at the latest.
    assert found.recall["2 in 2"].value == 0.5
    assert found.recall["2 in 5"].value == 1
    # Positive mass: 8 + 4 + 2 + 1 + 4 = 19, of which 8 + 2 lie in the top two.
    assert found.missed_mass["2"].value == pytest.approx(9 / 19)
    assert found.relative_error.value == pytest.approx((1 + 3 + 1 + 4) / (8 + 4 + 2 + 1 + 1 + 2 + 4))


def test_recall_and_missed_mass_from_a_sample_agree_with_the_full_answer_on_average():
    truth = heavy(0)
    guess = truth + np.random.default_rng(5).normal(size=(1, 2000))
    whole = calibrate(effects(guess, False), effects(truth), drawn=np.ones(2000, bool))["a"]
    top = np.zeros(2000, bool)
    top[np.argsort(-np.abs(guess[0]))[:100]] = True
    recalls, missed, covered = [], [], 0
    for seed in range(40):
        drawn = np.zeros(2000, bool)
        drawn[np.random.default_rng(seed).choice(2000, 200, replace=False)] = True
        part = np.where(drawn | top, truth, np.nan)
        found = calibrate(effects(guess, False), effects(part), drawn=drawn, seed=seed)["a"]
        recalls.append(found.recall["50 in 100"].value)
        missed.append(found.missed_mass["100"].value)
        covered += found.missed_mass["100"].low <= whole.missed_mass["100"].value <= found.missed_mass["100"].high
        assert "50 in 200" not in found.recall  # its top 200 was not measured
    assert np.mean(recalls) == pytest.approx(whole.recall["50 in 100"].value, abs=0.05)
    assert np.mean(missed) == pytest.approx(whole.missed_mass["100"].value, abs=0.03)
    assert covered >= 33


def test_noise_does_not_count_as_missed_mass():
    truth = np.zeros((8, 1000))
    truth[:, :20] = 5.0
    debiased, plain = [], []
    for seed in range(30):
        noisy = truth + np.random.default_rng(seed).normal(size=truth.shape)
        found = calibrate(effects(truth + 1e-9, False), effects(noisy), drawn=np.ones(1000, bool), recalls=((20, 20),))[
            "a"
        ]
        debiased.append(found.missed_mass["20"].value)
        positive = np.maximum(noisy.mean(axis=0), 0)
        plain.append(positive[20:].sum() / positive.sum())
    assert np.mean(plain) > 0.5
    assert abs(np.mean(debiased)) < 0.05


def test_ranks_are_counted_by_weight_and_share_ties():
    values, weights = np.array([3.0, 1, 3, 2]), np.array([[1.0, 1, 1, 1], [2, 1, 2, 3]])
    np.testing.assert_array_equal(counted_ranks(values, weights), [[3, 0.5, 3, 1.5], [6, 0.5, 6, 2.5]])


def test_units_that_were_drawn_must_be_measured():
    truth = heavy(0)
    truth[:, 3] = np.nan
    with pytest.raises(ValueError, match="measure at least 8 random units exactly"):
        calibrate(effects(heavy(0), False), effects(truth), drawn=np.arange(2000) < 100)


def test_an_estimate_of_another_loss_is_refused():
    truth = heavy(0)
    with pytest.raises(ValueError, match="measure both on one experiment"):
        calibrate(replace(effects(truth, False), unit="logits"), effects(truth), drawn=np.ones(2000, bool))


def test_chances_are_known_and_what_is_large_or_in_doubt_is_likelier():
    rng = np.random.default_rng(0)
    estimate = rng.normal(size=(8, 1, 500)) * 0.1
    estimate[:, 0, :20] += 5.0  # large
    estimate[:, 0, 20:40] += rng.normal(size=(8, 20)) * 5  # in doubt
    certain, candidates = np.arange(500) < 10, np.arange(500) < 480
    chance = chances(estimate, count=40, certain=certain, candidates=candidates)
    assert chance.sum() == pytest.approx(50)
    assert (chance[certain] == 1).all()
    assert (chance[~candidates] == 0).all()
    assert chance[10:40].min() > 3 * np.median(chance[40:480])
    assert chance[40:480].min() > 0.4 * 40 / 480  # no unit stands for more than twice as many as in an even sample
    drawn = np.mean([draw_sample(chance, seed=seed).drawn for seed in range(2000)], axis=0)
    assert drawn == pytest.approx(chance, abs=0.06)
    assert {int(draw_sample(chance, seed=seed).drawn.sum()) for seed in range(50)} == {50}


def test_where_all_can_be_drawn_all_are_certain():
    chance = chances(np.zeros((1, 1, 9)), count=20, certain=np.arange(9) < 2, candidates=np.arange(9) < 7)
    assert chance.tolist() == [1.0] * 7 + [0.0] * 2
