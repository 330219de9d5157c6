"""What a circuit is judged by: areas as in MIB, shuffled labels, halves, stability, interchange."""

import numpy as np
import pytest
import test_ladder
import torch

import skilloc as sk
from skilloc.circuits.areas import area_from_one, area_under
from skilloc.circuits.judging import halves, interchange, stability, with_shuffled_labels
from skilloc.tasks import IGNORE


def literal(percentages, faithfulnesses):
    """The two numbers as the benchmark's own evaluation adds them up, trapezoid by trapezoid."""
    area_under, area_from_1 = 0.0, 0.0
    for i in range(len(faithfulnesses) - 1):
        x_1, x_2 = percentages[i], percentages[i + 1]
        area_from_1 += (x_2 - x_1) * (abs(1.0 - faithfulnesses[i]) + abs(1.0 - faithfulnesses[i + 1])) / 2
        area_under += (x_2 - x_1) * (faithfulnesses[i] + faithfulnesses[i + 1]) / 2
    return area_under, area_from_1


@pytest.mark.parametrize("seed", range(5))
def test_areas_are_those_of_the_benchmark(seed):
    percentages = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    shares = np.append(np.random.default_rng(seed).normal(0.7, 0.5, size=9), 1.0)
    sizes = [round(1000 * p) for p in percentages]
    wanted = literal(percentages, shares.tolist())
    for known in (slice(None), slice(0, 9)):  # the whole model keeps everything, whether it was measured or not
        found = [area(sizes[known], shares[known], units=1000) for area in (area_under, area_from_one)]
        assert found == pytest.approx(wanted)


def test_areas_refuse_what_is_no_curve():
    for sizes, shares in (((2, 1), (0.1, 0.2)), ((1, 2), (0.1,)), ((), ()), ((1, 20), (0.1, 0.2))):
        with pytest.raises(ValueError, match="sizes that rise"):
            area_under(sizes, shares, units=10)


def test_shuffled_labels_are_the_same_labels_elsewhere():
    own, _ = test_ladder.experiment("previous", "resample")
    other = with_shuffled_labels(own, subtask="skill", seed=1)
    before, after = own.examples["skill"], other.examples["skill"]
    assert torch.equal(before.tokens, after.tokens)
    scored = before.targets != IGNORE
    assert torch.equal(scored, after.targets != IGNORE)
    assert torch.equal(before.targets[scored].sort().values, after.targets[scored].sort().values)
    assert not torch.equal(before.targets, after.targets)
    assert torch.equal(own.held.values["act"], other.held.values["act"])
    assert other.baseline.mean() > own.baseline.mean() + 1


@pytest.mark.parametrize("reference", ["zero", "resample", "paired"])
def test_halves_are_the_whole(reference):
    own, _ = test_ladder.experiment("induction", reference)
    mask = sk.Mask(own.units, np.arange(len(own.units)) % 2 == 0)
    parts = halves(own, subtask="skill")
    both = np.concatenate([part.losses(mask) for part in parts])
    assert both == pytest.approx(own.losses(mask), rel=1e-6)


def test_stability_counts_circuits():
    units = sk.units_of(sk.MLP(6, 2, width=2, depth=3))
    circuits = [sk.Mask(units, np.array(keep, dtype=bool)) for keep in ([1, 1, 0, 0], [1, 0, 1, 0])]
    assert stability(circuits).tolist() == [1, 0.5, 0.5, 0]
    with pytest.raises(ValueError, match="at least one"):
        stability([])


@pytest.mark.parametrize("rung", ["induction", "previous", "fact"])
def test_patching_the_planted_circuit_alone_moves_the_answer(rung):
    own, planted = test_ladder.experiment(rung, "zero")
    circuit = sk.Mask(own.units, planted)
    curve = interchange(own, [circuit, ~circuit], subtask="skill", draws=5)
    assert curve.completeness(0).value == pytest.approx(1, abs=1e-4)
    assert curve.completeness(1).value == pytest.approx(0, abs=1e-4)
    assert curve.random_completeness(0).value < 0.9


def test_interchange_needs_twins():
    own, planted = test_ladder.experiment("counter", "zero")
    examples = own.examples["skill"]
    alone = sk.Experiment(own.model, {"skill": sk.Examples(examples.inputs, examples.targets)}, ("head", "neuron"))
    with pytest.raises(ValueError, match="no twins"):
        interchange(alone, [sk.Mask(own.units, planted)], subtask="skill")
