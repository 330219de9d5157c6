import json

import numpy as np
import pytest

import smollm2_behaviours as analysis
from _frame import Cells
from skilloc import plots


@pytest.mark.slow
def test_the_quick_scale_is_measured_and_drawn(tmp_path):
    found = analysis.measure(analysis.SCALES["quick"], Cells(tmp_path))
    again = json.loads(json.dumps(found))
    assert set(analysis.CORPORA) <= set(again["subtasks"])
    assert set(again["subtasks"]) | set(again["refused"]) == {*analysis.CORPORA, *analysis.MAKERS}
    size = len(again["subtasks"])
    assert np.array(again["removal"]["value"]).shape == (size, size)
    assert all(one["accuracy"] < 1 for one in again["refused"].values())
    with plots.style():
        analysis.draw(again).savefig(tmp_path / "drawn.svg")
