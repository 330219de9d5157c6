import json
from dataclasses import replace

import numpy as np
import pytest

import smollm2_circuits as analysis
from _behaviours import facts_of, opened_once
from _frame import Cells
from skilloc import plots
from skilloc.ablation import mask_effects
from skilloc.experiment import Experiment
from skilloc.masks import Mask
from skilloc.models.makers import units_of


@pytest.mark.slow
def test_the_quick_scale_is_measured_and_drawn(tmp_path):
    scale = replace(analysis.SCALES["quick"], subtasks=("python",))
    cells = Cells(tmp_path)
    found = json.loads(json.dumps(analysis.measure(scale, cells)))
    told = found["subtasks"]["python"]
    sizes = list(scale.settings.sizes)
    assert told["sizes"] == sizes

    # What is kept, told by hand: the circuits of one way, on the examples that are stated on.
    spec = replace(scale.settings, subtask="python")
    opened = opened_once("embedded")
    chosen, stated = analysis.examples_of_halves(opened, spec)
    units = units_of(opened.model, kinds=("neuron", "head"))
    plain = Experiment(opened.model, {"python": stated}, reference="mean", other={"python": chosen}, folds=1)
    (result,) = cells(analysis.measure_curve, [spec])
    keep = result.arrays["keep"].values.astype(bool)
    assert keep.sum(axis=2).tolist() == [sizes] * len(analysis.WAYS)
    masks = [Mask(units, np.zeros(len(units), dtype=bool)), *(Mask(units, one) for one in keep[0])]
    effects, _ = mask_effects(plain, masks)
    wanted = 1 - effects[1:, 0, 0] / effects[0, 0, 0]
    kept = [one["value"] for one in told["ways"][analysis.LEARNED]["kept"]]
    assert kept == pytest.approx(wanted.tolist(), abs=1e-5)
    with plots.style():
        analysis.draw(found).savefig(tmp_path / "drawn.svg")


def test_facts_that_choose_and_facts_that_are_stated_on_share_no_subject():
    opened = opened_once("embedded")
    items = facts_of(opened)
    some = [*items["capital"], *items["continent"], *items["capital"]]
    chosen, stated = analysis.halved(some)
    early, late = ({item.subject for item in half} for half in (chosen, stated))
    assert not early & late
    assert abs(len(early) - len(late)) <= 1
    assert len(chosen) + len(stated) == len(some)

    known = tuple((name, tuple(range(len(items[name])))) for name in ("capital", "continent"))
    spec = analysis.Curve("facts", known=known, model="embedded", folds=4)
    first, second = analysis.examples_of_halves(opened, spec)
    assert len(second) % spec.folds == 0
    assert len(items["capital"]) + len(items["continent"]) - len(first) - len(second) < spec.folds
