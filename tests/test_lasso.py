"""Group norms, penalties and proximal maps against values worked out by hand, finite differences and brute force."""

import math

import numpy as np
import pytest
import torch

from skilloc.lasso import group_norms, penalty
from skilloc.lasso.penalties import shrunk, slope
from skilloc.models.makers import units_of, zeroed
from skilloc.models.mlp import MLP

KINDS = ("lasso", "half", "hoyer", "l1")


def hand_network():
    """Two hidden layers of two neurons; the third of the four neurons has no weights at all.

    L0N0: incoming 2 -1, bias 2, outgoing 0 4:   norm sqrt(4 + 1 + 4 + 0 + 16) = 5
    L0N1: incoming 0 0, bias 0, outgoing 0 3:    norm 3
    L1N0: incoming 0 0, bias 0, outgoing 0 0:    norm 0
    L1N1: incoming 4 3, bias 0, outgoing 12 0:   norm 13
    """
    model = MLP(2, 2, 2, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.layers[0].weight[0] = torch.tensor([2.0, -1.0])
        model.layers[0].bias[0] = 2
        model.layers[1].weight[1] = torch.tensor([4.0, 3.0])
        model.out.weight[0, 1] = 12
        model.out.bias += 100  # belongs to no unit
    return model


def test_norms_by_hand():
    model = hand_network()
    np.testing.assert_allclose(group_norms(model, units_of(model)), [5, 3, 0, 13])


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("lasso", 5 + 3 + 0 + 13),
        ("half", math.sqrt(5) + math.sqrt(3) + math.sqrt(13)),
        ("hoyer", (5 + 3) ** 2 / (25 + 9) + 1),
        # Weights between the hidden layers count twice: (2 + 1 + 2 + 4) + 3 + 0 + (4 + 3 + 12).
        ("l1", 9 + 3 + 19),
    ],
)
def test_penalties_by_hand(kind, value):
    model = hand_network()
    assert penalty(model, units_of(model), kind).item() == pytest.approx(value)


def test_the_norm_is_that_of_the_weights_that_silence_a_unit(any_model):
    """Zeroing a unit takes norm^2 from the sum of squares of all weights: for heads, neurons, gated or not, fused."""
    units = units_of(any_model)
    norms = group_norms(any_model, units)
    # A fused matrix holds the projections that were split off it once more.
    own = [p.detach() for name, p in any_model.named_parameters() if ".qkv." not in name]
    whole = sum(float(p.double().square().sum()) for p in own)
    for unit in (0, 3, len(units) // 2, len(units) - 1):
        hook, place = units.locate(unit)
        with zeroed(any_model, hook, place):
            rest = sum(float(p.double().square().sum()) for p in own)
        assert norms[unit] == pytest.approx(math.sqrt(whole - rest), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_differences(kind):
    model = MLP(5, 3, (4, 6), 3, seed=1).double()
    units = units_of(model)
    penalty(model, units, kind).backward()
    for parameter in model.parameters():
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for place in range(0, parameter.numel(), 3):
            ends = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    parameter.view(-1)[place] += step
                    ends.append(penalty(model, units, kind).item())
                    parameter.view(-1)[place] -= step
            assert found.view(-1)[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-6)


def test_gradients_on_a_language_model_are_finite_differences(llama):
    units = units_of(llama)
    parameter = llama.blocks[1].mlp.gate.weight
    (gradient,) = torch.autograd.grad(penalty(llama, units, "lasso"), parameter)
    norms = group_norms(llama, units)[units.span("blocks.1.mlp.hook_post")]
    np.testing.assert_allclose(gradient.numpy(), parameter.detach().numpy() / norms[:, None], rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_at_a_group_of_zeros_are_zero(kind):
    model = hand_network()
    penalty(model, units_of(model), kind).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert (model.layers[1].bias.grad[0], model.layers[1].weight.grad[0, 1]) == (0, 0)
    assert model.layers[0].bias.grad[0] != 0


def test_hoyer_does_not_depend_on_scale_and_counts_equal_units():
    model = MLP(4, 2, 8, 3)
    units = units_of(model)
    before = penalty(model, units, "hoyer").item()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 7
        assert penalty(model, units, "hoyer").item() == pytest.approx(before, rel=1e-6)
        assert 2 < before <= 16
        for parameter in model.parameters():
            parameter.fill_(1)
        assert penalty(model, units, "hoyer").item() == pytest.approx(16)


def brute(r, step, cost):
    """argmin over x >= 0 of (x - r)^2 / (2 step) + cost(x), on a fine grid."""
    x = np.linspace(0, 2 * r + 2 * step, 400_001)
    return x[np.argmin((x - r) ** 2 / (2 * step) + cost(x))]


@pytest.mark.parametrize("step", [0.01, 0.2, 1.5])
def test_proximal_maps_minimise(step):
    norms = torch.tensor([0.0, 1e-6, 0.05, 0.3, 0.51, 0.9, 1.9, 2.2, 7.0], dtype=torch.float64)
    steps = torch.full_like(norms, step)
    tangent = slope(norms).numpy()
    for kind, costs in (
        ("lasso", [lambda x: x] * 9),
        ("half", [np.sqrt] * 9),
        ("hoyer", [lambda x, c=c: c * x for c in tangent]),
    ):
        found = shrunk(norms, steps, kind).numpy()
        wanted = [brute(r, step, cost) for r, cost in zip(norms.tolist(), costs, strict=True)]
        np.testing.assert_allclose(found, wanted, atol=1e-4, err_msg=kind)
        assert found[0] == 0


def test_half_thresholding_jumps_where_zero_becomes_better():
    step = torch.tensor([0.3, 0.3], dtype=torch.float64)
    edge = 1.5 * 0.3 ** (2 / 3)
    low, high = shrunk(torch.tensor([edge - 1e-9, edge + 1e-9], dtype=torch.float64), step, "half").tolist()
    assert low == 0
    assert high == pytest.approx(2 / 3 * edge, abs=1e-6)  # both cost the same there


def test_the_slope_is_the_derivative_of_hoyer():
    norms = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    (norms.sum() ** 2 / norms.square().sum()).backward()
    torch.testing.assert_close(slope(norms.detach()), norms.grad)
    assert slope(torch.zeros(3)).tolist() == [0, 0, 0]


def test_the_plain_l1_has_no_map_of_norms():
    with pytest.raises(ValueError, match="use lasso, half or hoyer"):
        shrunk(torch.ones(2), torch.ones(2), "l1")
