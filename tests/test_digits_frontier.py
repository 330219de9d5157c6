from dataclasses import replace

import matplotlib.pyplot as plt
import pytest

import digits_frontier
from _digits import LargeNetwork, NarrowNetwork, narrow, settings_for, train_large
from _frame import Cells
from _tuning import FIRST_SEED, Rungs, Tried, halve
from digits_frontier import METHODS, SCALES, Scale
from skilloc import store


def test_halving_keeps_what_is_best_and_counts_everything():
    truth = {"a": [3.0, 1.0, 2.0, 4.0], "b": [1.0, 5.0, 6.0, 7.0]}
    asked = []

    def run(pairs):
        asked.append(pairs)
        return [Tried(score + 0.01 * seed, 10, 100, 0.5) for score, seed in pairs]

    best, spent = halve(truth, run, Rungs((4, 2, 1), (1, 2, 4)))
    assert best == {"a": 1.0, "b": 1.0}
    for method in truth:
        assert spent[method].settings == 4
        assert spent[method].runs == 4 * 1 + 2 * 1 + 1 * 2
        assert spent[method].steps == 10 * spent[method].runs
        assert spent[method].examples == 100 * spent[method].runs
    assert {score for score, _ in asked[1]} == {1.0, 2.0, 5.0}
    assert min(seed for pairs in asked for _, seed in pairs) == FIRST_SEED


def test_a_method_with_more_settings_is_refused():
    with pytest.raises(ValueError, match="give each method 2"):
        halve({"a": [1, 2, 3]}, lambda pairs: [], Rungs((2, 1), (1, 2)))


def test_all_methods_have_the_same_rates_and_batches_to_choose_from():
    drawn = {method: settings_for(method, 8) for method in METHODS}
    shared = [[(one["rate"], one["examples"]) for one in some] for some in drawn.values()]
    assert all(one == shared[0] for one in shared)
    assert {batch for _, batch in shared[0]} == {16, 64}
    assert min(rate for rate, _ in shared[0]) < 6e-4
    assert max(rate for rate, _ in shared[0]) > 1e-2


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    run = Cells(tmp_path_factory.mktemp("runs"))
    (found,) = run(train_large, [LargeNetwork(16, small=True, steps=500, rate=5e-3)])
    return run.folder, store.key(found.spec), found


def test_the_large_network_knows_the_digits(large):
    assert large[2].metrics["accuracies"]["even"] > 0.85


@pytest.mark.parametrize("method", METHODS)
def test_a_run_counts_examples_and_arrives_at_its_size(large, method):
    folder, key, _ = large
    settings = NarrowNetwork(
        key, method, 12, rate=1e-2, examples=32, strength=0.05, threshold=0.75, most=9600, every=320
    )
    found = narrow(settings, folder)
    scored = 512 if method in ("attribution", "pruned, distilled") else 0
    assert found["examples"] == found["steps"] * 32 + scored
    assert found["kept"] == 12
    assert found["reached"]
    assert found["accuracy"]["report"] >= 0.75
    assert found["path"][-1][0] == found["examples"]


def test_every_method_is_tuned_as_much_and_the_figure_is_drawn(tmp_path):
    quick = SCALES["quick"]
    scale = Scale(replace(quick.large, steps=60), replace(quick.run, most=256, every=128), (12, 24), 2, quick.rungs, 1)
    found = digits_frontier.measure(scale, Cells(tmp_path))
    (spent,) = found["spent"].values()
    assert set(spent) == set(METHODS)
    assert len({(one["settings"], one["runs"]) for one in spent.values()}) == 1
    assert all(one["settings"] == quick.rungs.settings[0] for one in spent.values())
    figure = digits_frontier.draw(found)
    assert len(figure.axes) == 3
    plt.close(figure)
