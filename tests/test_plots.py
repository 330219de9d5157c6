import sys
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from skilloc import plots
from skilloc.locality.intervals import Interval
from skilloc.plots.style import RC, short, signed_ticks
from skilloc.plots.units import BINS, SINGLE, _edges

NAMES = ("python", "cpp", "english")


@pytest.fixture
def axes():
    with plots.style():
        figure, ax = plots.figure()
        yield ax
        figure.canvas.draw()  # whatever was drawn can be rendered


def boxes(labels, figure):
    renderer = FigureCanvasAgg(figure).get_renderer()
    return [label.get_window_extent(renderer) for label in labels if label.get_text() and label.get_visible()]


def overlapping(labels, figure):
    found = boxes(labels, figure)
    return [(a, b) for i, a in enumerate(found) for b in found[i + 1 :] if a.overlaps(b)]


@pytest.mark.parametrize(("low", "high"), [(0.016, 0.45), (1.0, 5.0), (1.0, 3.0), (0.21, 0.78), (1e-6, 0.1)])
def test_labels_of_a_narrow_logarithmic_axis_do_not_overlap(low, high):
    with plots.style():
        figure, axes = plots.figure(2, 3, height=2.5)
        for ax in axes.flat:
            ax.loglog([low, high], [low, high])
        axes[0, 0].set(xlabel="steps", ylabel="loss")
        figure.draw(FigureCanvasAgg(figure).get_renderer())
    for ax in axes.flat:
        for axis in (ax.xaxis, ax.yaxis):
            left, right = axis.get_view_interval()
            labels = [label for label in axis.get_ticklabels(which="both") if label.get_text()]
            shown = [one for one in labels if left <= one.get_position()[int(axis is ax.yaxis)] <= right]
            assert not overlapping(shown, figure)
            assert len(shown) >= 2


def test_all_labels_of_a_logarithmic_axis_stay_where_there_is_room():
    with plots.style():
        figure, ax = plots.figure()
        ax.semilogx([1.0, 5.0], [0.0, 1.0])
        figure.draw(FigureCanvasAgg(figure).get_renderer())
    shown = [label.get_text() for label in ax.get_xticklabels(which="both")]
    assert {"10⁰", "2×10⁰", "3×10⁰", "4×10⁰"} <= set(shown)


def test_no_state_is_left_behind():
    before = {name: matplotlib.rcParams[name] for name in RC}
    with plots.style():
        plots.figure()
        assert matplotlib.rcParams["font.size"] == RC["font.size"] != before["font.size"]
    assert {name: matplotlib.rcParams[name] for name in RC} == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_unit_map_shows_each_units_effect_in_its_layer(axes):
    values = np.array([[0.1, -0.5, 0.0, 2.0], [0.2, 0.0, -3.0, 1.0]])
    layers = np.array([0, 0, 1, 1])
    norm = plots.effect_norm(values, noise=0.01)
    assert plots.unit_map(axes, values, layers, norm=norm) is axes
    first, second = (np.asarray(mesh.get_array()).reshape(2, 2) for mesh in axes.collections)
    # In the order of the largest |effect| on any subtask: unit 1 before unit 0, and unit 2 before unit 3.
    np.testing.assert_array_equal(first, values[:, [1, 0]])
    np.testing.assert_array_equal(second, values[:, [2, 3]])


def test_a_unit_map_in_own_order_keeps_the_order_and_hides_what_was_not_measured(axes):
    values = np.array([[0.1, np.nan, 0.3]])
    plots.unit_map(axes, values, np.zeros(3, int), norm=plots.effect_norm(values, noise=0.0), ordered=False)
    shown = axes.collections[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(shown).ravel(), [False, True, False])
    np.testing.assert_array_equal(shown.compressed(), [0.1, 0.3])


@pytest.mark.parametrize("width", [1, 24, 48, 49, 512, 1536, 46_080])
def test_every_unit_of_a_wide_layer_is_in_one_column(width):
    edges = _edges(width)
    assert (edges[0], edges[-1]) == (0, width)
    counts = np.diff(edges)
    assert (counts >= 1).all()
    assert len(counts) <= SINGLE + BINS
    assert (counts[: min(width, SINGLE)] == 1).all()


def test_binned_columns_show_means(axes):
    values = np.linspace(1, 0.1, 500)[None]
    plots.unit_map(axes, values, np.zeros(500, int), norm=plots.effect_norm(values, noise=0.01))
    edges = _edges(500)
    expected = [values[0, a:b].mean() for a, b in pairwise(edges)]
    np.testing.assert_allclose(axes.collections[0].get_array().ravel(), expected)


def test_the_effect_scale_is_symmetric_and_covers_all_values():
    norm = plots.effect_norm(np.array([-0.02, 3.0, np.nan]), noise=1e-3)
    assert norm(0.0) == pytest.approx(0.5)
    assert norm(1.5) + norm(-1.5) == pytest.approx(1.0)
    assert norm(3.0) == pytest.approx(1.0)
    assert norm(0.5) > norm(0.05) > norm(0.005) > 0.5


@pytest.mark.parametrize("values", [np.zeros(3), np.full(3, np.nan)])
def test_the_effect_scale_survives_nothing_to_show(values):
    assert plots.effect_norm(values, noise=0.0)(0.0) == pytest.approx(0.5)


@pytest.mark.parametrize(("linear", "largest"), [(1e-6, 10.0), (1e-3, 2e-3), (1e-4, 0.9), (0.5, 1e4)])
def test_signed_ticks_are_symmetric_inside_the_scale_and_have_room(linear, largest):
    ticks, labels = signed_ticks(linear, largest, most=2)
    assert ticks == [-tick for tick in reversed(ticks)]
    assert 0.0 in ticks
    assert max(ticks) <= largest
    assert all(abs(tick) >= linear for tick in ticks if tick)
    with plots.style():
        figure, ax = plots.figure(1, 1, width=plots.NARROW, height=2.5)
        effects = np.array([-largest / 2, largest / 2])
        plots.calibration_scatter(
            ax, np.stack([effects, effects]), drawn=np.ones(2, bool), linear=linear, colour="black"
        )
        figure.canvas.draw()
        assert not overlapping(ax.get_xticklabels(), figure)
        assert not overlapping(ax.get_yticklabels(), figure)
    assert len(labels) == len(ticks)


def test_a_calibration_scatter_has_the_agreeing_points_on_the_line(axes):
    exact, estimate = np.array([0.1, 0.2, np.nan, -1.0]), np.array([0.1, 0.3, 0.4, -1.0])
    drawn = np.array([True, False, True, False])
    plots.calibration_scatter(axes, np.stack([estimate, exact]), drawn=drawn, linear=0.01, colour="red")
    points = {tuple(xy) for line in axes.lines if line.get_marker() == "o" for xy in line.get_xydata()}
    assert points == {(0.1, 0.1), (0.2, 0.3), (-1.0, -1.0)}  # the unit without an exact effect is left out


def test_matrices_say_the_number_the_interval_and_the_control(axes):
    value = np.array([[1.5, 0.25], [np.nan, 0.031]])
    plots.removal_matrix(axes, Interval(value, value - 0.01, value + 0.01, np.full((2, 2), 0.125)), NAMES[:2])
    texts = [text.get_text() for text in axes.texts]
    assert [t for t in texts if t in ("1.5", "0.25", "–", "0.031")] == ["1.5", "0.25", "–", "0.031"]
    assert "[0.24, 0.26]" in texts
    assert texts.count("random 0.12") == 3  # not where there is nothing to compare
    assert [label.get_text() for label in axes.get_xticklabels()] == list(NAMES[:2])


@pytest.mark.parametrize("n", [2, 5, 6, 12])
def test_the_labels_of_a_matrix_do_not_overlap(n):
    names = [f"subtask {i}" for i in range(n)]
    with plots.style():
        figure, ax = plots.figure(1, 1, width=plots.NARROW, height=3.2)
        value = np.random.default_rng(0).random((n, n))
        plots.entanglement_matrix(ax, Interval(value, value, value, value), names)
        figure.canvas.draw()
        numbers = [text for text in ax.texts if text.get_fontweight() == "bold"]
        assert len(numbers) == n * n
        assert not overlapping(numbers, figure)
        assert not overlapping(ax.get_yticklabels(), figure)


def test_curves_show_every_subtask_its_band_and_the_control(axes):
    counts = np.array([10, 30, 100])
    values = np.array([[0.1, 0.2, 0.4], [0.0, 0.1, 0.1]])
    plots.removal_curves(axes, counts, Interval(values, values - 0.05, values + 0.05, values / 10), NAMES[:2])
    drawn = [line.get_ydata() for line in axes.lines]
    for row in (*values, *(values / 10)):
        assert any(np.array_equal(row, line) for line in drawn)
    assert len(axes.collections) == 2
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10", "30", "100"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["python", "cpp", "random units"]


def test_sorted_curves_also_show_harmful_units_and_the_noise(axes):
    ranks = np.array([1.0, 2.0, 30.0])
    values = np.array([[1.0, 0.1, -0.05]])
    plots.sorted_curves(axes, ranks, Interval(values, values - 0.01, values + 0.01), NAMES[:1], noise=np.array([0.02]))
    low, high = axes.get_ylim()
    assert low < -0.05
    assert high > 1.0
    assert any(np.allclose(line.get_ydata(), 0.02) for line in axes.lines)


def test_score_dots_have_dot_interval_and_chance_in_their_places(axes):
    value, low, high = np.array([[0.5, np.nan]]), np.array([[0.4, 0.0]]), np.array([[0.6, 1.0]])
    plots.score_dots(axes, ["gini"], Interval(value, low, high, np.array([0.7])), NAMES[:2])
    segments = [tuple(line.get_xdata()) for line in axes.lines]
    assert segments == [(0.7, 0.7), (0.4, 0.6), (0.5,), (0.0, 1.0), pytest.approx((np.nan,), nan_ok=True)]


def test_few_units_are_counted_in_plain_numbers(axes):
    value, low, high = np.array([[2.0]]), np.array([[1.0]]), np.array([[6.0]])
    plots.score_dots(axes, ["effective number"], Interval(value, low, high, np.array([2.5])), NAMES[:1], log=True)
    axes.figure.canvas.draw()
    labels = [*axes.get_xticklabels(), *axes.get_xticklabels(minor=True)]
    left, right = axes.get_xlim()
    assert [one.get_text() for one in labels if one.get_text() and left <= one.get_position()[0] <= right] == list(
        "125"
    )


def test_the_legend_of_sorted_curves_lies_on_no_band(axes):
    values = np.ones((3, 2))
    plots.sorted_curves(
        axes, np.array([1.0, 6.0]), Interval(values, -9 * values, 9 * values), NAMES, noise=np.full(3, 0.1)
    )
    axes.figure.canvas.draw()
    assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1


def test_a_subtask_has_one_colour_in_all_pictures(axes):
    values = np.array([[0.1, 0.2], [0.3, 0.4]])
    plots.removal_curves(axes, np.array([1, 2]), Interval(values, values, values, values), NAMES[:2])
    assert {line.get_color() for line in axes.lines if line.get_marker() == "o"} == {
        plots.colour_of(0),
        plots.colour_of(1),
    }
    axes.clear()
    plots.subtask_legend(axes, NAMES[:2])
    colours = [handle.get_color() for handle in axes.get_legend().legend_handles]
    assert colours == [plots.colour_of(0), plots.colour_of(1)]
    assert len({plots.colour_of(i) for i in range(8)}) == 8


def test_the_same_picture_is_the_same_file(tmp_path):
    files = []
    for name in ("a.svg", "b.svg"):
        with plots.style():
            figure, ax = plots.figure()
            values = np.array([[0.1, 0.2]])
            plots.removal_curves(ax, np.array([1, 2]), Interval(values, values, values, values), NAMES[:1])
            figure.savefig(tmp_path / name, metadata={"Date": None})
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    assert b"units removed" in files[0]  # text stays text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0012, "0.0012"),
        (0.125, "0.12"),
        (1.25, "1.2"),
        (12.4, "12"),
        (0.998, "1.0"),
        (1234.5, "1,234"),
        (-0.5, "−0.50"),
        (np.nan, "–"),
    ],
)
def test_numbers_are_short(value, text):
    assert short(value) == text
