import json

import numpy as np
import pytest

import smollm2_corpora as analysis
from _frame import Cells
from skilloc import plots
from skilloc.ablation import ablation_effects
from skilloc.attribution import attribution_effects
from skilloc.experiment import Experiment
from skilloc.models.language import open_model
from skilloc.study.draws import subtasks_of


@pytest.mark.slow
def test_the_quick_scale_is_measured_and_drawn(tmp_path):
    specs = analysis.SCALES["quick"][:1]
    cells = Cells(tmp_path)
    found = json.loads(json.dumps(analysis.measure(specs, cells)))
    (spec,) = specs
    opened = open_model(spec.model)
    subtasks = subtasks_of(opened, {name: name for name in analysis.CORPORA}, length=spec.length)
    plain = Experiment(opened.model, subtasks, ("neuron",), count=spec.examples, folds=spec.folds)
    (result,) = cells(analysis.measure_reference, specs)
    estimate = attribution_effects(plain, curvature=spec.curvature)
    assert result.arrays["estimate"].values == pytest.approx(estimate.values, abs=1e-6)

    # What is exact is measured on the split that chose nothing.
    exact = result.arrays["exact"].values
    known = np.isfinite(exact).all(axis=(0, 1))
    assert spec.top <= known.sum() <= spec.sample + 3 * spec.top
    further = Experiment(opened.model, subtasks, ("neuron",), count=spec.checked, folds=spec.folds, split="selection")
    wanted = ablation_effects(further, select=known).values
    assert exact[:, :, known] == pytest.approx(wanted[:, :, known], abs=1e-6)
    told = found["references"]["zero"]
    assert set(told["scores"]) == set(analysis.CORPORA)
    assert np.array(told["removal"]["excess"]["value"]).shape == (3, 3)
    with plots.style():
        analysis.draw(found).savefig(tmp_path / "drawn.svg")
