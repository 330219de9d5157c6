"""What recovery curves show."""

import numpy as np

from skilloc import plots
from skilloc.locality.intervals import Interval
from skilloc.plots.style import CONTROL

STEPS = (0, 1, 4, 16)
NAMES = ("original", "never trained", "small")
VALUE = np.array([[0.1, 0.1, 0.1, 0.1], [0.7, 0.7, 0.69, 0.6], [0.6, 0.4, 0.2, 0.1]])


def drawn(**settings):
    _, ax = plots.figure()
    low, high = VALUE - 5, VALUE + 5
    low[0], high[0] = np.nan, np.nan
    return plots.recovery_curves(ax, STEPS, Interval(VALUE, low, high), NAMES, **settings)


def test_curves_hold_the_values_with_step_0_to_the_left_of_all():
    ax = drawn()
    lines = {line.get_label(): line for line in ax.lines}
    for name, value in zip(NAMES, VALUE, strict=True):
        np.testing.assert_array_equal(lines[name].get_ydata(), value)
        place = lines[name].get_xdata()
        assert 0 < place[0] < place[1] == 1
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "4", "16"]


def test_controls_are_grey_and_apart_from_each_other():
    colours = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in drawn().lines}
    assert colours["never trained"][0] == CONTROL
    assert colours["original"][0] == "black"
    assert colours["small"][0] == plots.colour_of(0)


def test_curves_decide_what_is_seen_not_bands_and_chance_only_where_it_is_near():
    bottom, top = drawn().get_ylim()
    assert -0.1 < bottom < 0.1 < 0.7 < top < 0.9
    assert len(drawn(chance=0.7).lines) == len(drawn(chance=7.0).lines) + 1
    assert drawn(chance=7.0).get_ylim() == (bottom, top)
