"""The number behind a verdict, and the rules, on synthetic losses whose truth is known."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from skilloc.locality.intervals import Interval
from skilloc.models.mlp import MLP
from skilloc.relearning import (
    NEVER,
    ORIGINAL,
    UNSEEN,
    Grid,
    Reading,
    Relearning,
    area,
    envelope,
    information_removed,
    plasticity,
    readings,
    relearn_probe,
    unseen_parity,
    verdict,
    with_plasticity,
)
from skilloc.relearning.brought import reference_of
from skilloc.relearning.result import DIMS
from skilloc.relearning.rules import is_damaged, is_doubted, words_for
from skilloc.relearning.ways import WAYS
from skilloc.tasks.parity import parity_subtasks

STEPS = (0, 1, 4, 16)
CHANCE = 1.0


def made(curves, *, seeds=4, folds=5, noise=0.0, seed=0, kept=0.1):
    """Losses of models at `STEPS`, with noise over seeds, folds and both."""
    rng = np.random.default_rng(seed)
    shape = {
        "model": len(curves),
        "way": 2,
        "learner": 2,
        "size": 1,
        "rate": 1,
        "step": len(STEPS),
        "seed": seeds,
        "fold": folds,
    }
    shape |= {"subtask": 1, "stage": 2}
    arrays = {name: np.full([shape[dim] for dim in dims], kept) for name, dims in DIMS.items()}
    mean = np.array([curves[name] for name in curves], dtype=float)[:, None, None, None, :, None]
    over_seeds = noise * rng.standard_normal((len(curves), 1, 1, 1, 1, seeds))
    over_folds = noise * rng.standard_normal((1, 1, 1, 1, 1, 1, folds))
    arrays["selection"][:] = mean + over_seeds
    arrays["report"][:] = (mean + over_seeds)[..., None] + over_folds
    arrays["repair_steps"][:] = 0
    arrays["learned"][:] = np.nan
    axes = {
        "models": tuple(curves),
        "ways": ("as it is", "repaired"),
        "sizes": (None,),
        "rates": (1e-3,),
        "steps": STEPS,
        "subtasks": ("other",),
    }
    return Relearning(**arrays, **axes, chance=CHANCE, made={"report": "this"})


def half(**changes):
    """A model from which half is back at the last step, when a never-trained one is still at chance."""
    return made({ORIGINAL: [0, 0, 0, 0], UNSEEN: [1, 1, 1, 1], "pruned": [1, 1, 0.8, 0.5]}, **changes)


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
    assert np.mean(inside) >= 0.92
    assert any(not there for there in inside)


def test_a_lead_within_noise_is_undecidable():
    equal = made({ORIGINAL: [0.5] * 4, UNSEEN: [0.52] * 4, "pruned": [0.9] * 4}, noise=0.2)
    word = verdict(equal, "pruned")
    assert word.word == "undecidable"
    assert np.isnan(word.removed.share.value)


def test_without_a_network_that_never_saw_it_nothing_is_comparable():
    found = made({ORIGINAL: [0, 0, 0, 0], NEVER: [1, 1, 1, 1], "pruned": [0, 0, 0, 0]})
    told = verdict(found, "pruned")
    assert told.word == "not comparable"
    assert "never_saw_like" in told.sentence


def read(*intervals):
    return [Reading(0, step, Interval(*interval)) for step, interval in enumerate(intervals)]


NOTHING, ALL, HALF = (0.0, -0.05, 0.1), (1.0, 0.9, 1.1), (0.5, 0.4, 0.6)
WIDE, NONE = (0.5, -0.5, 1.5), (np.nan, np.nan, np.nan)


@pytest.mark.parametrize(
    ("intervals", "words"),
    [
        ([NOTHING], ["removed"]),
        ([ALL, NOTHING, WIDE], ["not removed"] * 3),
        ([NOTHING, ALL], ["removed", "not removed"]),
        ([WIDE, NOTHING, WIDE, NONE], ["undecidable", "removed", "removed", "removed"]),
        ([NOTHING, (0.6, 0.2, 1.1)], ["removed", "partly removed"]),
        ([NOTHING, (0.4, 0.01, 0.8)], ["removed", "removed"]),
        ([HALF, NOTHING], ["partly removed", "partly removed"]),
        ([WIDE, (0.6, 0.2, 1.1)], ["undecidable", "undecidable"]),
    ],
)
def test_budgets_one_after_the_other(intervals, words):
    assert [word for word, _ in words_for(read(*intervals))] == words


def test_more_budget_never_blurs():
    rng = np.random.default_rng(0)
    clear = {"removed", "partly removed", "not removed"}
    for _ in range(2000):
        middle, half = rng.normal(0.4, 0.5, 6), rng.exponential(0.2, 6)
        ends = np.stack([middle, middle - half, middle + half], axis=1)
        for doubted in (False, True):
            for before, after in pairwise([word for word, _ in words_for(read(*ends.tolist()), doubted=doubted)]):
                assert before not in clear or after in clear
                assert before != "not removed" or after == "not removed"
                assert not doubted or after != "removed"


def test_the_best_of_many_noisy_runs_is_stated_on_other_runs():
    """Three seeds, forty ways that are equal but for noise that both splits of a run share."""
    rng = np.random.default_rng(0)
    # Away from chance, where skill cannot be negative and noise has a mean.
    plain = made({ORIGINAL: [0] * 4, UNSEEN: [0.7] * 4, "pruned": [0.4] * 4}, seeds=3)
    more = {"ways": tuple(map(str, range(40))), "kept": plain.kept[:, :1].repeat(40, axis=1)}
    shares = []
    for _ in range(300):
        run = rng.normal(0, 0.05, (3, 40, *plain.selection.shape[2:])).astype(plain.selection.dtype)
        selection, report = plain.selection[:, :1] + run, plain.report[:, :1] + run[..., None]
        found = replace(plain, selection=selection, report=report, **more)
        shares.append(readings(found, envelope(found), "pruned")[-1].back.value)
    assert np.mean(shares) == pytest.approx(3 / 7, abs=0.03)
    best = (1 - found.report).mean(axis=-1).max(axis=(1, 3, 4))  # chosen and stated on the same runs
    assert best[2].mean() > 0.6 + 0.05


@pytest.mark.parametrize("digests", ["one", "several"])
def test_a_model_that_never_saw_it_is_one_of_those_beside_it(digests):
    """Three trainings that never saw a subtask learn it more or less fast; a fourth is what it says about as often."""
    rng = np.random.default_rng(0)
    plain = made({ORIGINAL: [0] * 4, UNSEEN: [0.6] * 4, "pruned": [0.6] * 4}, seeds=3)
    of = {"pruned": ["a"] * 3 if digests == "one" else ["a", "b", "c"], UNSEEN: ["x", "y", "z"]}
    plain = replace(plain, made={**plain.made, "digests": of})
    covered, called = [], []
    for _ in range(2000):
        moved = rng.normal(0, 0.02, plain.selection.shape).astype(plain.selection.dtype)
        moved[1] += rng.normal(0, 0.05, 3)
        moved[2] += rng.normal(0, 0.05)
        found = replace(plain, selection=plain.selection + moved, report=plain.report + moved[..., None])
        back = readings(found, envelope(found), "pruned")[0].back
        if np.isfinite(back.value):
            covered.append(back.low <= 0 <= back.high)
        called.append(words_for([Reading(0, 0, back)])[0][0])
    assert len(covered) >= 0.9 * len(called)
    if digests == "one":
        assert np.mean(covered) >= 0.93
        assert np.mean([word in ("partly removed", "not removed") for word in called]) < 0.05
    else:  # Of several candidates, a mean is compared with a mean: these are one training in truth.
        assert np.mean(covered) < 0.85


@pytest.mark.parametrize(
    ("said", "damage", "plasticity", "word"),
    [
        ("not removed", (0.9, 0.8, 1.0), (0.0, 0.0, 0.1), "not removed"),
        ("removed", (0.2, 0.15, 0.25), (1.0, 0.9, 1.1), "damaged"),
        ("removed", (0.0975, 0.05, 0.15), (1.0, 0.9, 1.1), "undecidable"),
        ("removed", (0.0, 0.0, 0.0), (0.1, 0.0, 0.3), "damaged"),
        ("removed", (0.0, 0.0, 0.0), (0.5, 0.3, 0.7), "damaged"),
        ("removed", (0.0, 0.0, 0.0), (0.6, 0.4, 0.8), "undecidable"),
        ("removed", (0.0, 0.0, 0.0), (0.9, 0.6, 1.2), "undecidable"),
        ("removed", (0.0, 0.0, 0.0), (0.9, 0.8, 1.2), "removed"),
        ("removed", (0.0, 0.0, 0.0), (np.nan, np.nan, np.nan), "removed"),
        ("partly removed", (0.2, 0.15, 0.25), (np.nan, np.nan, np.nan), "damaged"),
        ("undecidable", (0.0, 0.0, 0.0), (np.nan, np.nan, np.nan), "undecidable"),
    ],
)
def test_damage_and_plasticity(said, damage, plasticity, word):
    about = Interval(*damage), Interval(*plasticity)
    intervals = {"not removed": ALL, "removed": NOTHING, "partly removed": HALF, "undecidable": WIDE}
    told = words_for(read(intervals[said]), doubted=is_doubted(*about))[0][0]
    assert ("damaged" if told != "not removed" and is_damaged(*about) else told) == word


def test_one_training_that_never_saw_it_says_nothing_of_others():
    found = half()
    for of, said in ((["x"] * 4, True), (["x", "y", "z", "u"], False)):
        told = verdict(replace(found, made={**found.made, "digests": {UNSEEN: of}}), "pruned").sentence
        assert ("how much such trainings differ is not in the interval" in told) == said


def test_a_parity_that_nobody_has_seen():
    def bits(one):
        return {bit for atom in one.made["code"] for bit in one.made["sets"][atom]}

    spare = parity_subtasks(16, atoms=3, k=3)
    new = unseen_parity(spare["parity_2"], list(spare.values()))
    assert (new.made["code"], bits(new)) == ([2], {9, 10, 11})
    full = parity_subtasks(18, atoms=6, k=3, composites=[(0, 1, 2), (3, 4, 5)])
    new = unseen_parity(full["composite_345"], list(full.values()))
    assert (new.made["code"], bits(new)) == ([3, 4, 5], {0, 3, 6})
    drawn = new.draw(50)
    controls, asked = drawn.first[:, :6], drawn.first[:, [6, 9, 12]]
    assert (controls == torch.tensor([0.0, 0, 0, 1, 1, 1])).all()
    assert torch.equal(asked.sum(dim=1).long() % 2, drawn.targets)
    single = parity_subtasks(3, atoms=3, k=1)
    assert unseen_parity(single["parity_1"], list(single.values())) is None


def test_who_has_learned_something_new_need_not_go_on(monkeypatch):
    world = parity_subtasks(4, atoms=3, k=1)
    models = {name: MLP(7, 2, width=16, depth=2, seed=place) for place, name in enumerate((ORIGINAL, NEVER, "pruned"))}
    grid = Grid(rates=(3e-2,), budgets=(1,), examples=32, held_out=64, folds=4, repair=0, ways=WAYS[:1])
    seeds = (0, 1)
    found = relearn_probe(models, [world["parity_0"]], world["parity_0"], grid, seeds)
    new = unseen_parity(world["parity_0"], list(world.values()))
    monkeypatch.setattr(plasticity, "BUDGETS", (300, 10**9))
    learned = with_plasticity(found, models, new, grid, seeds).learned[found.place("pruned")]
    assert (learned.mean(axis=-1) > 0.98 * found.chance).all()
    monkeypatch.setattr(plasticity, "BUDGETS", (1, 300))
    later = with_plasticity(found, models, new, grid, seeds).learned[found.place("pruned")]
    np.testing.assert_allclose(later, learned)
