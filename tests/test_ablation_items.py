"""Items of a measurement and what they cost, by sums that can be done on paper."""

import numpy as np
import pytest

from skilloc.ablation.cost import FLOPS_PER_ITEM, Sizes, attribution_sweep, exact_sweep
from skilloc.ablation.items import Hands, Item, Job, measured_items
from skilloc.ablation.routes import CLOSED, lay_trunk
from skilloc.experiment import Experiment
from skilloc.models.language import open_model
from skilloc.study.draws import subtasks_of

SMALL = Sizes(depth=2, weights=100.0, d_model=4, outputs=10, tokens=6, length=3)


def test_operations_on_paper():
    block, outputs = 2 * 100 + 4 * 3 * 4, 10 * (2 * 4 + 20)
    assert SMALL.flops(2) == 6 * (2 * block + outputs)
    assert SMALL.closed() == 6 * 10 * 20
    # One neuron and one head in each of two layers; the last neuron has a closed form.
    found = exact_sweep(SMALL, neurons=1, heads=1)
    assert found.flops == SMALL.flops(1) + SMALL.flops(2) + SMALL.closed() + SMALL.flops(1)
    assert (found.units, found.items) == (4, 4)
    assert found.hours(pace=found.flops / 7200) == pytest.approx(2.0)
    assert attribution_sweep(SMALL, curvature=1) == 5 * SMALL.flops(2)
    assert SMALL.memory(1000) == 4 * 200 + 4 * (6 * 4 * 3 + 4 * 1000)


@pytest.mark.parametrize(("flops", "units"), [(1.0, 16), (FLOPS_PER_ITEM / 5, 5), (FLOPS_PER_ITEM, 1), (1e15, 1)])
def test_an_item_has_as_many_units_as_it_can_do_in_half_a_minute(flops, units):
    assert SMALL.per_item(flops, 16) == units


def test_the_forecast_of_a_model_is_the_sum_over_its_units():
    opened = open_model("embedded")
    experiment = Experiment(opened.model, subtasks_of(opened, {"python": "python"}, length=16), count=2, folds=2)
    trunk = lay_trunk(experiment)
    assert CLOSED in trunk.routes.values()
    units, sizes = experiment.units, trunk.sizes
    assert (sizes.depth, sizes.tokens, sizes.length) == (4, 32, 16)
    total = sum(parameter.numel() for parameter in opened.model.parameters())
    assert sizes.weights * sizes.depth + sizes.others == total
    found = exact_sweep(sizes, neurons=512, heads=6)
    assert found.units == len(units)
    assert found.flops == pytest.approx(sum(trunk.cost(bank.name) * bank.width for bank in units.banks))
    assert trunk.memory > 4 * total


def test_long_work_is_forecast_before_it_begins_and_short_work_is_not(capsys):
    items = [Item({"x": x}, cost=30.0) for x in range(4)]

    def run(pace: float) -> str:
        job = Job("trying", lambda: lambda item: np.array([item.spec["x"]]), pace=pace, memory=2e9)
        assert [int(found[0]) for _, found in measured_items(items, job, Hands())] == [0, 1, 2, 3]
        return capsys.readouterr().err

    assert "trying: 4 items, about 2 min 0 s of one core or device; each process needs some 2.0 GB" in run(1.0)
    assert "about" not in run(100.0)
