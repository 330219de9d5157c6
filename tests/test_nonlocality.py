from dataclasses import dataclass, field, replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import pruning_nonlocality
import width_and_seed
from _frame import Cells
from _nonlocality import (
    KEPT,
    OTHER,
    VARIANTS,
    Nonlocality,
    count_at,
    curves,
    line_of,
    magnitudes,
    measure_nonlocality,
)
from _parity import network_of, open_network
from skilloc import plots, store
from skilloc.relearning import NEVER, ORIGINAL, PLAIN, RANDOM, UNSEEN

SPARSITIES = (0.0, 0.5, 0.9)


@dataclass(frozen=True)
class Remembering(Cells):
    """Runs cells, and remembers their results."""

    results: list[store.Result] = field(default_factory=list)

    def __call__(self, cell, specs):
        results = super().__call__(cell, specs)
        self.results.extend(results)
        return results


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Remembering(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def scale():
    quick = pruning_nonlocality.SCALES["quick"]
    return quick._replace(
        networks=[replace(network, steps=60) for network in quick.networks[:2]],
        pruning=replace(quick.pruning, sparsities=SPARSITIES, steps=5, finetuning=10, held_out=200),
        attack=replace(quick.attack, rates=(1e-2,), budgets=(4,), repair=5),
    )


@pytest.fixture(scope="module")
def nonlocality(scale, run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning_nonlocality, "LEARNED", 2.0)  # bits, more than any network here
        return pruning_nonlocality.measure(scale, run)


@pytest.fixture(scope="module")
def widths(scale, run, nonlocality):
    quick = width_and_seed.SCALES["quick"]
    return width_and_seed.measure(quick._replace(widths={16: scale.networks}, pruning=scale.pruning), run)


@pytest.fixture(scope="module")
def network(run, nonlocality):
    """The key of the first network."""
    return store.key(run.results[0].spec)


@pytest.fixture(scope="module")
def cells(run, network):
    """The cells of the first network, by variant."""
    return {
        one.spec["variant"]: one for one in run.results if one.spec.get("network") == network and "variant" in one.spec
    }


def test_what_is_pruned_is_as_large_as_asked(cells):
    assert set(cells) == set(VARIANTS)
    for cell in cells.values():
        sizes = np.array(cell.metrics["widths_at"]).sum(axis=1)
        assert sizes.tolist() == [count_at(sum(cell.metrics["widths"]), share) for share in SPARSITIES]
    # The never-trained control has the shapes that pruning by effects leaves.
    assert cells["never trained"].metrics["widths_at"] == cells["as trained"].metrics["widths_at"]
    assert cells["random units"].metrics["widths_at"] != cells["as trained"].metrics["widths_at"]


@pytest.mark.parametrize(("units", "share", "kept"), [(128, 0.0, 128), (128, 0.5, 64), (10, 0.29, 8), (100, 0.29, 71)])
def test_numbers_of_units_at_a_sparsity(units, share, kept):
    assert count_at(units, share) == kept


def test_unpruned_networks_start_where_training_left_them(cells):
    for variant in ("as trained", "random units", "plain finetuning", "group lasso"):
        cell = cells[variant]
        assert tuple(cell.arrays["losses"].coords["batch"]) == ("selection", KEPT, OTHER)
        start = cell.arrays["losses"].values[:, 0, 0]  # attack sparsity step batch
        wanted = [cell.metrics["before"][name] for name in cell.arrays["losses"].coords["batch"]]
        np.testing.assert_allclose(start, [wanted, wanted], atol=1e-5)
    same = [cells[v].arrays["losses"].values[:, 0] for v in ("as trained", "random units")]
    np.testing.assert_allclose(*same, atol=1e-5)
    never = cells["never trained"].arrays["losses"].values[:, 0, 0]
    assert np.abs(never - cells["as trained"].arrays["losses"].values[:, 0, 0]).max() > 1e-3


def test_only_the_attacked_composite_is_trained(cells):
    """Each attack lowers the loss on its own composite: on the same pruned networks, more than the other attack."""
    losses = cells["as trained"].arrays["losses"].values
    own = losses[[0, 1], :, 1, [1, 2]] - losses[[0, 1], :, 0, [1, 2]]
    crossed = losses[[1, 0], :, 1, [1, 2]] - losses[[1, 0], :, 0, [1, 2]]
    assert own.mean() < crossed.mean()


def test_scores_are_magnitudes_of_effects_on_the_selection_split(run, network):
    model, world, seed = open_network(run.folder, network)
    found = magnitudes(model, world, 50, seed)
    batch = world[KEPT].draw(50, split="selection", seed=seed)

    def loss():
        return torch.nn.functional.cross_entropy(model(batch.inputs), batch.targets).item()

    with torch.no_grad():
        whole, wanted = loss(), []
        for layer in range(len(model.layers)):
            after = model.layers[layer + 1] if layer + 1 < len(model.layers) else model.out
            for unit in range(len(model.layers[layer].bias)):
                column = after.weight[:, unit].clone()
                after.weight[:, unit] = 0
                wanted.append(abs(loss() - whole))
                after.weight[:, unit] = column
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_lasso_and_plain_finetuning_differ_by_the_penalty_alone(cells, run, network):
    plain, lasso = cells["plain finetuning"], cells["group lasso"]
    assert {k: v for k, v in plain.spec.items() if k != "variant"} == {
        k: v for k, v in lasso.spec.items() if k != "variant"
    }
    norms = [
        sum(float(np.square(a.values).sum()) for name, a in cell.arrays.items() if name.startswith("model.layers"))
        for cell in (plain, lasso)
    ]
    assert norms[1] < norms[0]
    trained = network_of(store.read(run.folder / network)).state_dict()
    for name, value in trained.items():
        np.testing.assert_array_equal(cells["as trained"].arrays[f"model.{name}"].values, value.numpy())


def test_the_probe_has_all_controls(nonlocality, run):
    probe = nonlocality["probe"]
    assert set(probe["models"]) == {ORIGINAL, NEVER, UNSEEN, RANDOM, PLAIN, "naive pruning", "group lasso"}
    for units in nonlocality["units"]:
        assert units[NEVER] == units[RANDOM] == units["naive pruning"]
        assert units[ORIGINAL] == units[UNSEEN] == units[PLAIN] == 32
    assert str(run.folder) not in str(nonlocality)
    assert not any(str(run.folder) in str(result.spec) for result in run.results)


def test_networks_that_did_not_learn_are_left_out(scale, run, nonlocality, monkeypatch):
    assert (nonlocality["seeds"], nonlocality["left_out"]) == ([0, 1], [])
    worst = [max(one.metrics["bits"][name] for name in (KEPT, OTHER)) for one in run.results[:2]]
    monkeypatch.setattr(pruning_nonlocality, "LEARNED", sum(worst) / 2)
    found = pruning_nonlocality.measure(scale, run)
    assert (found["seeds"], found["left_out"]) == (([0], [1]) if worst[0] < worst[1] else ([1], [0]))
    monkeypatch.setattr(pruning_nonlocality, "LEARNED", 0.0)
    with pytest.raises(ValueError, match="take more seeds"):
        pruning_nonlocality.measure(scale, run)


def test_the_line_is_chosen_on_the_selection_split(nonlocality):
    values = np.zeros((2, 3, 2, 3))
    values[0, :, 1, 0] = [0.99, 0.98, 0.97]
    assert line_of(SPARSITIES, curves(values)) == 0.5
    values[0, :, 1, 0] = [0.99, 0.97, 0.98]  # the last one, not the first that is below
    assert line_of(SPARSITIES, curves(values)) == 0.9
    values[0, :, 1, 0] = 0.5
    values[0, :, 1, 1:] = 1.0
    assert line_of(SPARSITIES, curves(values)) is None
    assert set(nonlocality["lines"]) == {"as trained", "group lasso"}


def test_curves_are_of_each_composite_under_its_own_retraining_on_the_report_split(cells):
    accuracies = cells["as trained"].arrays["accuracies"]
    assert accuracies.dims == ("attack", "sparsity", "step", "batch")
    shown = curves(accuracies.values)
    for place, name in enumerate((KEPT, OTHER)):
        batch = accuracies.coords["batch"].index(name)
        wanted = [[row[step][batch] for row in accuracies.values[place].tolist()] for step in (0, 1)]
        assert shown["kept" if name == KEPT else "other"] == wanted


def test_widths_have_a_line_per_seed_or_none(scale, widths):
    assert {(r["width"], r["seed"], r["variant"]) for r in widths["records"]} == {
        (16, seed, variant) for seed in (0, 1) for variant in ("as trained", "random units", "never trained")
    }
    lines = widths["lines"]["16"]
    assert lines["seeds"] == [
        r["seed"] for r in widths["records"] if r["variant"] == "as trained" and max(r["selection"]) >= 0.98
    ]
    records = [
        {
            "width": 16,
            "seed": seed,
            "variant": variant,
            "selection": [1.0, 0.99, 0.5] if seed else [0.9, 0.9, 0.9],
            "other": [[0.5] * 3, [0.9, level, 0.5]],
        }
        for seed in (0, 1, 2)
        for variant, level in (("as trained", 0.8), ("random units", 0.7), ("never trained", 0.55))
    ]
    found = width_and_seed._lines(width_and_seed.Scale({16: []}, scale.pruning), records)["16"]
    assert found["seeds"] == [1, 2]
    assert found["by_seed"]["sparsity"] == [0.5, 0.5]
    assert found["mean"]["as trained - never trained"]["value"] == pytest.approx(0.25)


def test_both_are_drawn_from_their_records(nonlocality, widths, tmp_path):
    with plots.style():
        for analysis, record, panels in ((pruning_nonlocality, nonlocality, 6), (width_and_seed, widths, 2)):
            figure = analysis.draw(record)
            figure.savefig(tmp_path / f"{analysis.__name__}.png")
            plt.close(figure)
            assert len(figure.axes) >= panels


def test_an_unknown_variant_is_refused(run):
    with pytest.raises(ValueError, match="use one of as trained, random units"):
        Nonlocality("", variant="pruned")
    with pytest.raises(RuntimeError, match="variants"):
        run(measure_nonlocality, [{"network": "", "variants": "as trained"}])
