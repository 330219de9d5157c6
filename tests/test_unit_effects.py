import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

import unit_effects
from _frame import Cells
from _parity import ParityTraining, network_of, train_parity, world_of
from _worlds import nonlocality_network
from skilloc import plots, store
from skilloc.effects import Effects
from skilloc.experiment import losses
from skilloc.plots.learning import examples_axis, interval_rows, learned_dots, ratio_dots, survival_curve
from skilloc.plots.neurons import effect_image, effect_scatter, paired_dots
from skilloc.units import Units, neurons
from unit_effects import EXAMPLES, effects_of, locality_of, over_seeds

TINY = ParityTraining(
    n=6,
    sets=((0,), (1,), (2,), (3,), (4,), (5,)),
    composites=((0, 1, 2), (3, 4, 5)),
    examples=50,
    width=12,
    steps=200,
    rate=1e-2,
    evaluate_every=100,
)
NAMES = ("parity_0", "parity_1", "parity_2", "parity_3", "composite_01", "composite_23")


@pytest.fixture
def result(tmp_path: Path) -> store.Result:
    spec = {"cell": "_parity:train_parity", "threads": 1, **asdict(TINY)}
    store.write(tmp_path / "cell", spec, *train_parity(TINY))
    return store.read(tmp_path / "cell")


def made_up(rows: dict[str, dict[int, float]], units: int = 20) -> Effects:
    """Effects of 8 folds with little noise: by subtask, the units that it needs."""
    values = np.random.default_rng(0).normal(0, 1e-3, (8, len(NAMES), units))
    for name, needed in rows.items():
        for unit, effect in needed.items():
            values[:, NAMES.index(name), unit] += effect
    axis = Units(tuple(neurons(f"layers.{i}.hook_post", units // 2, i) for i in (0, 1)))
    return Effects(values, np.ones((8, len(NAMES))), NAMES, axis, np.ones(units, bool))


PLANTED = {
    "parity_0": {0: 1.0},
    "parity_1": {1: 1.0},
    "parity_2": {2: 1.0},
    "parity_3": {3: 1.0},
    "composite_01": {0: 1.0, 1: 1.0, 10: 1.0, 11: 1.0},
    "composite_23": {10: 1.0, 11: 1.0},
}


def test_effects_are_signed_losses_on_held_out_examples_without_each_neuron(result: store.Result) -> None:
    effects = effects_of(result)
    assert effects.subtasks == tuple(world_of(TINY))
    assert effects.values.shape == (8, 8, 24)
    assert effects.exact.all()
    # By hand: neuron 3 of the first layer without its outgoing weights, on the report split.
    model = network_of(result)
    batch = world_of(TINY)["composite_012"].draw(EXAMPLES, split="report", seed=0)
    before = float(losses(model, batch).mean())
    model.layers[1].weight.data[:, 3] = 0
    assert effects.mean("composite_012")[3] == pytest.approx(float(losses(model, batch).mean()) - before, abs=1e-5)


def test_planted_units_are_counted_and_pairs_told_apart() -> None:
    found = locality_of(made_up(PLANTED), NAMES)
    assert found["atoms"]["effective_number"] == pytest.approx(1, abs=0.05)
    assert found["atoms"]["locality"] == pytest.approx(1, abs=0.02)
    assert found["composites"]["effective_number"] == pytest.approx((4 + 2) / 2, abs=0.1)
    # A random direction in the space of 20 units.
    assert found["chance"]["effective_number"] == pytest.approx(20 / np.pi)
    overlap = found["overlap"]
    # The composites share 2 of 4 units, and composite 01 has 1 of its 4 in common with each of its atoms.
    assert overlap["two composites"] == pytest.approx(0.5 / 1.5, abs=0.02)
    assert overlap["composite and own atom"] == pytest.approx((2 * 0.25 / 1.75 + 0) / 4, abs=0.02)
    assert overlap["two atoms"] == pytest.approx(0, abs=0.02)
    assert overlap["composite and other atom"] == pytest.approx(0, abs=0.02)
    assert 0 < overlap["chance"] < 0.3


def test_subtasks_that_do_not_count_are_left_out() -> None:
    found = locality_of(made_up(PLANTED), NAMES[:5])
    assert found["composites"]["effective_number"] == pytest.approx(4, abs=0.1)
    assert found["overlap"]["two composites"] is None
    assert set(found["scores"]) == set(NAMES[:5])


def test_over_seeds_pairs_networks_and_leaves_out_what_is_missing() -> None:
    records = [locality_of(made_up(PLANTED), names) for names in (NAMES, NAMES[:5], NAMES[:4])]
    summary = over_seeds(records)["effective_number"]
    assert summary["atoms"]["networks"] == 3
    assert summary["composites"]["networks"] == summary["composites - atoms"]["networks"] == 2
    assert summary["composites"]["value"] == pytest.approx((3 + 4) / 2, abs=0.1)
    difference = np.array(
        [one["composites"]["effective_number"] - one["atoms"]["effective_number"] for one in records[:2]]
    )
    assert summary["composites - atoms"]["value"] == pytest.approx(difference.mean())
    # Two networks: half the distance times t(1) = 12.706
    half = abs(difference[0] - difference[1]) / 2 * 12.706
    assert summary["composites - atoms"]["high"] - difference.mean() == pytest.approx(half, rel=1e-3)
    assert over_seeds(records[2:])["overlap"]["two composites"] == dict(value=None, low=None, high=None, networks=0)


def test_the_papers_networks_are_the_papers() -> None:
    network = nonlocality_network(256, 3)
    assert (network.n, network.width, network.depth, network.seed) == (18, 256, 3, 3)
    assert (network.examples, network.steps, network.rate) == (2000, 20_000, 1e-3)
    assert list(world_of(network)) == [*(f"parity_{i}" for i in range(6)), "composite_012", "composite_345"]


@pytest.mark.slow
def test_the_analysis_is_measured_and_drawn(tmp_path: Path) -> None:
    # Unequal training, so that the first network has learned and the second has not.
    networks = [replace(TINY, seed=0), replace(TINY, seed=1, steps=1)]
    found = json.loads(json.dumps(unit_effects.measure(networks, Cells(tmp_path)), allow_nan=False))
    assert found["networks"][1]["learned"]["composites"]["gini"] is None
    assert found["over_seeds"]["learned"]["gini"]["atoms"]["networks"] == 1
    assert np.array(found["shown"]["values"]).shape == (8, 24)
    with plots.style():
        unit_effects.draw(found).savefig(tmp_path / "drawn.svg")
    bits = found["networks"][0]["bits"]["composite_345"]
    assert f"composite 345: {bits:.2f} bits" in (tmp_path / "drawn.svg").read_text()


@pytest.fixture
def axes():
    with plots.style():
        figure, ax = plots.figure()
        yield ax
        figure.canvas.draw()  # whatever was drawn can be rendered


def texts(labels):
    return [label.get_text() for label in labels]


def overlapping(labels, figure):
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    found = [label.get_window_extent(renderer) for label in labels if label.get_text()]
    return [(a, b) for i, a in enumerate(found) for b in found[i + 1 :] if a.overlaps(b)]


@pytest.mark.parametrize(
    ("low", "high", "some"),
    [
        (2.5e5, 3e6, ["500 k", "1 M", "2 M"]),
        (1e5, 1e7, ["100 k", "300 k", "1 M"]),
        (2.5e6, 2e9, ["10 M", "100 M", "1 G"]),
    ],
)
def test_an_examples_axis_has_few_labels_that_do_not_collide(axes, low, high, some):
    examples_axis(axes, low, high, label="training examples")
    labels = texts(axes.get_xticklabels())
    assert set(some) <= set(labels)
    assert not axes.get_xticklabels(minor=True)
    axes.figure.set_size_inches(2.3, 2)
    assert not overlapping(axes.get_xticklabels(), axes.figure)


def test_a_survival_curve_goes_on_until_the_last_run_was_given_up(axes):
    curve = {"time": [0.0, 10.0, 20.0], "fraction": [1.0, 0.5, 0.25], "low": [1.0, 0.2, 0.1], "high": [1.0, 0.8, 0.6]}
    survival_curve(axes, curve, end=50.0, colour="red")
    x, y = axes.lines[0].get_data()
    assert (list(x), list(y)) == ([0, 10, 20, 50], [1, 0.5, 0.25, 0.25])
    assert axes.lines[0].get_drawstyle() == "steps-post"


def test_learned_dots_are_where_the_fractions_are_with_counts_beside(axes):
    fractions = [{"value": 0.75, "low": 0.5, "high": 0.9}, {"value": 0.0, "low": 0.0, "high": 0.3}]
    learned_dots(axes, ("a", "b"), fractions, colours=("red", "grey"), runs=[20, 10])
    assert texts(axes.texts) == ["15 of 20", "0 of 10"]
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"] == [0.75, 0.0]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row is at the top


def test_an_infinite_ratio_has_no_dot_and_a_bar_to_the_edge(axes):
    ratios = [{"value": 4.0, "low": 3.0, "high": 6.0}, {"value": np.inf, "low": 8.0, "high": np.inf}]
    ratio_dots(axes, ("a", "b"), ratios, colours=("red", "red"))
    assert texts(axes.texts) == ["4.0 ×", "> 8.0 ×"]
    assert len([line for line in axes.lines if line.get_marker() == "o"]) == 1
    bar = next(line for line in axes.lines if list(line.get_ydata()) == [1, 1] and line.get_xdata()[0] == 8)
    assert bar.get_xdata()[1] == axes.get_xlim()[1] == 12


def test_rows_are_written_in_their_colours(axes):
    interval_rows(axes, ["a"], [{"value": 1.0, "low": 0.0, "high": 2.0}], colours=["#d55e00"], beside=["x"])
    assert axes.get_yticklabels()[0].get_color() == "#d55e00"


def test_a_scatter_shows_each_unit_in_one_column_by_its_largest_effect(axes):
    values = np.array([[0.1, 5.0, 0.0], [2.0, -1.0, 0.0]])
    effect_scatter(axes, values, colours=("red", "blue"), large=(True, False), linear=0.01, ends=(-2.0, 10.0))
    small, large = (line for line in axes.lines if line.get_marker() == "o")  # large ones are drawn on top
    assert large.get_color() == "red"
    np.testing.assert_array_equal(large.get_ydata(), [5.0, 0.1, 0.0])
    np.testing.assert_array_equal(small.get_ydata(), [-1.0, 2.0, 0.0])
    assert axes.get_yscale() == "symlog"
    assert all(-2 <= tick <= 10 for tick in axes.get_yticks())


def test_an_image_keeps_the_order_of_units_and_names_every_row(axes):
    values = np.arange(8.0).reshape(2, 4)
    effect_image(axes, values, np.array([0, 0, 1, 1]), ("a", "b"), norm=plots.effect_norm(values, noise=0.01))
    first, second = (np.asarray(mesh.get_array()).reshape(2, 2) for mesh in axes.collections)
    np.testing.assert_array_equal(first, values[:, :2])
    np.testing.assert_array_equal(second, values[:, 2:])
    assert texts(axes.get_yticklabels()) == ["a", "b", "a", "b"]


def test_pairs_are_joined_and_those_with_a_gap_left_out(axes):
    first, second = np.array([1.0, 2.0]), np.array([3.0, np.nan])
    means = [{"value": 1.5, "low": 1.0, "high": 2.0}, {"value": 3.0, "low": 2.0, "high": 4.0}]
    paired_dots(axes, np.stack([first, second]), ("a", "b"), means=means, chance=5.0, colours=("grey", "black"))
    joined = [line.get_ydata().tolist() for line in axes.lines[:2]]
    assert joined[0] == [1.0, 3.0]
    assert np.isnan(joined[1][1])
    assert texts(axes.get_xticklabels()) == ["a", "b"]
