"""Circuits of atoms and of their composite, in a world that a small network learns in a second."""

import json
from dataclasses import replace

import numpy as np
import pytest
from answered import Answered

import circuit_hierarchy
from circuit_hierarchy import CircuitHierarchy, measure_hierarchy
from skilloc import store

pytestmark = pytest.mark.long

EASY = CircuitHierarchy(
    n=6, sets=((0,), (1,), (2,), (3,)), examples=50, width=14, steps=800, evaluate_every=100, rate=1e-2, held_out=200,
    tops=(4, 16), draws=3, folds=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def cells():
    return [measure_hierarchy(replace(EASY, seed=seed)) for seed in range(2)]


def test_a_cell_keeps_what_it_says(cells):
    for metrics, arrays in cells:
        assert max(metrics["bits"].values()) < 0.1
        for circuit in metrics["circuits"].values():
            # Chosen to keep 0.95 on the selection split.
            assert circuit["faithfulness"] > 0.85
            assert circuit["baseline"] < circuit["loss"] + 1e-6
        assert arrays["effects_report"].values.shape == (4, 5, 28)
        for n, found in metrics["tops"].items():
            table = np.array(found["mass"])
            effects = arrays["effects_selection"].values.mean(axis=0)
            report = arrays["effects_report"].values.mean(axis=0)
            for a, b in ((0, 4), (4, 0), (3, 4)):
                units = np.argsort(-effects[a], kind="stable")[: int(n)]
                wanted = report[b][units].clip(0).sum() / report[b].clip(0).sum()
                assert table[a, b] == pytest.approx(wanted)
            assert (np.diag(table) > np.diag(found["mass_chance"])).all()


def test_the_same_spec_gives_the_same_numbers():
    spec = replace(EASY, width=6, steps=200, tops=(2,))
    (first, arrays), (again, others) = (measure_hierarchy(spec) for _ in range(2))
    assert json.dumps(again) == json.dumps(first)
    np.testing.assert_array_equal(others["effects_report"].values, arrays["effects_report"].values)


def test_the_figure_and_its_record(cells, tmp_path):
    run = Answered(answer=lambda cell, specs: [store.Result({}, *cell) for cell in cells])
    found = json.loads(json.dumps(circuit_hierarchy.measure(2, run)))
    assert found["learned"] == found["seeds"] == 2
    table = np.array([metrics["tops"]["16"]["mass"] for metrics, _ in cells])
    one = found["reuse"]["16"]["mass: of the composite, on units of its atoms"]
    assert one["value"] == pytest.approx(table[:, :3, 4].mean())
    circuit_hierarchy.draw(found).savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000
