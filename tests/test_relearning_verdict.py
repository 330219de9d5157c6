"""The number behind a verdict, and the rules, on synthetic losses whose truth is known."""

import numpy as np
import pytest

from skilloc.intervals import Interval
from skilloc.relearning import NEVER, ORIGINAL, UNSEEN, Relearning, area, envelope, information_removed, verdict
from skilloc.relearning.result import DIMS
from skilloc.relearning.verdict import Removed, reference_of, word_for

STEPS = (0, 1, 4, 16)
CHANCE = 1.0


def made(curves, *, seeds=4, folds=5, noise=0.0, seed=0, kept=0.1):
    """Losses of models at `STEPS`, with noise over seeds, folds and both."""
    rng = np.random.default_rng(seed)
    shape = {"model": len(curves), "start": 2, "size": 1, "rate": 1, "step": len(STEPS), "seed": seeds, "fold": folds}
    shape |= {"subtask": 1, "stage": 2}
    arrays = {name: np.full([shape[dim] for dim in dims], kept) for name, dims in DIMS.items()}
    mean = np.array([curves[name] for name in curves], dtype=float)[:, None, None, None, :, None]
    over_seeds = noise * rng.standard_normal((len(curves), 1, 1, 1, 1, seeds))
    over_folds = noise * rng.standard_normal((1, 1, 1, 1, 1, 1, folds))
    arrays["selection"][:] = mean + over_seeds
    arrays["report"][:] = (mean + over_seeds)[..., None] + over_folds
    arrays["repair_steps"][:] = 0
    axes = {"models": tuple(curves), "sizes": (None,), "rates": (1e-3,), "steps": STEPS, "subtasks": ("other",)}
    return Relearning(**arrays, **axes, chance=CHANCE, made={"report": "this"})


def half(**changes):
    """A model from which half is back at the last step, when a never-trained one is still at chance."""
    return made({ORIGINAL: [0, 0, 0, 0], NEVER: [1, 1, 1, 1], "pruned": [1, 1, 0.8, 0.5]}, **changes)


def test_information_removed_is_what_the_formula_says_at_the_worst_budget():
    found = half()
    removed = information_removed(found, envelope(found), "pruned")
    assert removed.share[:3] == pytest.approx((0.5, 0.5, 0.5))
    assert (removed.step, removed.last) == (3, 3)
    assert verdict(found, "pruned").word == "partly removed"
    assert "50% [50%, 50%] (after 16)" in verdict(found, "pruned").sentence


def test_budgets_count_only_while_the_original_leads():
    late = {ORIGINAL: [0, 0, 0, 0], NEVER: [1, 0.9, 0.5, 0.1], "pruned": [1, 1, 0.9, 0.05]}
    removed = information_removed(made(late), envelope(made(late)), "pruned")
    assert removed.last == 2
    assert removed.share.value == 1


def test_chance_is_the_worst_there_is():
    found = made({ORIGINAL: [0, 0, 0, 0], NEVER: [9, 9, 9, 9], "pruned": [5, 5, 5, 0.5]})
    assert information_removed(found, envelope(found), "pruned").share.value == pytest.approx(0.5)
    assert area(found, envelope(found), ORIGINAL, 0).tolist() == [1, 1, 1, 1]
    assert area(found, envelope(found), NEVER, 0).tolist() == [0, 0, 0, 0]


def test_a_network_that_never_saw_the_subtask_is_the_better_reference():
    curves = {ORIGINAL: [0, 0, 0, 0], NEVER: [1, 1, 1, 1], UNSEEN: [1, 1, 0.8, 0.5], "pruned": [1, 1, 0.8, 0.5]}
    assert reference_of(made(curves)) == UNSEEN
    assert verdict(made(curves), "pruned").word == "removed"


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    inside = []
    for seed in range(300):
        found = half(noise=0.08, seed=seed)
        share = information_removed(found, envelope(found), "pruned").share
        inside.append(share.low <= 0.5 <= share.high)
    assert np.mean(inside) > 0.92  # on the safe side: noise common to all models cancels, but is counted
    assert any(not there for there in inside)


def test_a_lead_within_noise_is_undecidable():
    equal = made({ORIGINAL: [0.5] * 4, NEVER: [0.52] * 4, "pruned": [0.9] * 4}, noise=0.2)
    word = verdict(equal, "pruned")
    assert word.word == "undecidable"
    assert np.isnan(word.removed.share.value)


@pytest.mark.parametrize(
    ("share", "damage", "word"),
    [
        ((0.1, 0.0, 0.2), 0.0, "not removed"),
        ((0.1, 0.0, 0.2), 0.9, "not removed"),
        ((0.9, 0.8, 1.0), 0.0, "removed"),
        ((0.9, 0.8, 1.0), 0.2, "damaged"),
        ((0.5, 0.1, 0.9), 0.0, "partly removed"),
        ((0.5, 0.0, 0.9), 0.0, "undecidable"),
        ((0.9, 0.7, 1.0), 0.0, "undecidable"),
    ],
)
def test_the_first_rule_that_holds(share, damage, word):
    removed = Removed(Interval(*share), 0, 1, 1, "")
    assert word_for(removed, Interval(damage, damage, damage)) == word
    assert word_for(removed._replace(why="nobody leads"), Interval(0, 0, 0)) == "undecidable"
