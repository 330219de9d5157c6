"""Every measurement on MLPs, against the slow literal loop: a copy of the network per neuron."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from skilloc import ablation
from skilloc.ablation import ablation_effects, fused, mask_effects
from skilloc.attribution import attribution_effects, integrated_gradients_effects
from skilloc.experiment import (
    Experiment,
    Reference,
    flat_mean_reference,
    given_reference,
    hold,
    losses,
    mean_reference,
    read_activations,
    resample_reference,
    zero_reference,
)
from skilloc.masks import Mask, sample
from skilloc.models.makers import units_of, zeroed
from skilloc.models.mlp import MLP
from skilloc.tasks import Examples, fold
from skilloc.tasks.parity import parity_subtasks


def scaled(model, factor=3.0):
    """Larger weights, so that no neuron is without effect."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    return model


NETWORKS = {
    "two_classes": lambda: MLP(12, 2, 10, 3),
    "three_classes": lambda: MLP(12, 3, 10, 3),
    "one_hidden": lambda: MLP(12, 2, 10, 2),
    "deep_relu": lambda: MLP(12, 2, [16, 18, 20], 4),
    "deep_gelu": lambda: MLP(12, 2, [9, 10, 11], 4, activation="gelu"),
    "deep_five": lambda: MLP(12, 5, [9, 10, 11, 8], 5, activation="tanh"),
}


@pytest.fixture(params=list(NETWORKS))
def model(request):
    return scaled(NETWORKS[request.param]())


@pytest.fixture
def batches():
    subtasks = parity_subtasks(10, atoms=2, k=3, composites=[(0, 1)])
    return {name: subtask.draw(700 if name == "parity_0" else 600) for name, subtask in subtasks.items()}


def oracle(model, batches, units, reference, folds):
    """A copy per neuron, in float64, whose layers are written out; nothing clever."""
    wide = copy.deepcopy(model).double()
    values, start = np.zeros((folds, len(batches), len(units))), 0
    for s, batch in enumerate(batches.values()):
        here = slice(start, start := start + len(batch))

        def per_example(layer, position, batch=batch, here=here):
            x = batch.inputs.double()
            for i, linear in enumerate(wide.layers):
                x = wide.activation(functional.linear(x, linear.weight, linear.bias))
                if i == layer:
                    x = x.clone()
                    x[:, position] = reference.of(units.hooks[i], units.banks[i], position, here).double()
            logits = functional.linear(x, wide.out.weight, wide.out.bias)
            return functional.cross_entropy(logits, batch.targets, reduction="none")

        with torch.no_grad():
            base = per_example(None, None)
            for u in range(len(units)):
                change = (per_example(units.layers[u], units.locate(u)[1]) - base).numpy()
                values[:, s, u] = [part.mean() for part in np.array_split(change, folds)]
    return values


@pytest.mark.parametrize("kind", ["zero", "mean", "flat mean", "resample", "given"])
def test_sweep_equals_a_copy_per_neuron(model, batches, kind, monkeypatch):
    units = units_of(model)
    reference = {
        "zero": lambda: zero_reference(units),
        "mean": lambda: mean_reference(model, batches, units),
        "flat mean": lambda: flat_mean_reference(model, batches, units),
        "resample": lambda: resample_reference(model, batches, units, seed=0),
        "given": lambda: given_reference(units, np.linspace(-1, 1, len(units))),
    }[kind]()
    monkeypatch.setattr("skilloc.ablation.dense.CHUNK", 2**14)  # several chunks of neurons, and of rows
    effects = ablation_effects(Experiment(model, batches, units=units, reference=reference, folds=3))
    wanted = oracle(model, batches, units, reference, 3)
    assert (np.abs(wanted).max(axis=(0, 1)) > 1e-3).mean() > 0.8
    np.testing.assert_allclose(effects.values, wanted, atol=1e-6)
    assert effects.exact.all()


def test_ablation_equals_weight_surgery_and_holding(model, batches):
    units = units_of(model)
    effects = ablation_effects(Experiment(model, batches, units=units, folds=1))
    for u in np.flatnonzero(sample(units, 6, seed=0)):
        hook, position = units.locate(int(u))
        keep = np.arange(len(units)) != u
        for s, batch in enumerate(batches.values()):
            base = losses(model, batch)
            with zeroed(model, hook, position):
                gone = losses(model, batch)
            with hold(model, Mask(units, keep), zero_reference(units)):
                held = losses(model, batch)
            torch.testing.assert_close(gone, held)
            assert effects.values[0, s, u] == pytest.approx((gone - base).mean().item(), abs=1e-6)


def test_masks_of_one_and_of_all(model, batches, monkeypatch):
    units = units_of(model)
    reference = resample_reference(model, batches, units, seed=1)
    one, everything = ~sample(units, 1, seed=2), np.zeros(len(units), dtype=bool)
    masks = [Mask(units, one), Mask(units, everything)]
    effects, base = mask_effects(Experiment(model, batches, units=units, reference=reference, folds=2), masks)
    alone = ablation_effects(Experiment(model, batches, units=units, reference=reference, folds=2), select=~one)
    np.testing.assert_allclose(effects[0], alone.values[..., ~one][..., 0], atol=1e-6)
    np.testing.assert_allclose(base, alone.baseline, atol=1e-6)
    assert np.isnan(alone.values[..., one]).all()
    assert np.abs(effects[1]).max() > 1e-3
    monkeypatch.setattr("skilloc.models.losses.MAX_LOGITS", 500)
    np.testing.assert_allclose(
        mask_effects(Experiment(model, batches, units=units, reference=reference, folds=2), masks)[0],
        effects,
        atol=1e-6,
    )
    blocks = ablation_effects(Experiment(model, batches, units=units, reference=reference, folds=2))
    np.testing.assert_allclose(blocks.values[..., ~one], alone.values[..., ~one], atol=1e-6)


@pytest.mark.parametrize("kind", ["zero", "mean", "resample"])
def test_attribution_is_the_slope_of_the_ablation(model, batches, kind):
    units = units_of(model)
    reference = {
        "zero": lambda: zero_reference(units),
        "mean": lambda: mean_reference(model, batches, units),
        "resample": lambda: resample_reference(model, batches, units, seed=0),
    }[kind]()
    activations = read_activations(model, fold(batches, 1).examples, units)
    step = 1e-2
    moved = {h: v + step * (reference.on(h, slice(None)) - v) for h, v in activations.items()}
    model, near = model.double(), Reference("near", {h: v.double() for h, v in moved.items()}, per_row=True)
    batches = {name: Examples(batch.inputs.double(), batch.targets) for name, batch in batches.items()}
    exact = ablation_effects(Experiment(model, batches, units=units, reference=near, folds=1)).values
    first = attribution_effects(Experiment(model, batches, units=units, reference=near, folds=1), curvature=0).values
    assert np.corrcoef(first.ravel(), exact.ravel())[0, 1] > 0.999
    second = attribution_effects(Experiment(model, batches, units=units, reference=near, folds=1), curvature=2).values
    assert (second >= first - 1e-12).all()


def test_curvature_of_two_classes_by_hand():
    """One neuron, logits (0, h): p = sigmoid(h), and half the Gauss-Newton curvature along -h is p (1 - p) h^2 / 2."""
    model = MLP(1, 2, 1, 2)
    with torch.no_grad():
        model.layers[0].weight.fill_(1)
        model.layers[0].bias.fill_(0)
        model.out.weight.copy_(torch.tensor([[0.0], [1.0]]))
        model.out.bias.fill_(0)
    batch = Examples(torch.full((2000, 1), 2.0), torch.ones(2000, dtype=torch.long))
    units = units_of(model)
    p = 1 / (1 + np.exp(-2.0))
    first = attribution_effects(Experiment(model, {"a": batch}, units=units, folds=1), curvature=0).values.item()
    assert first == pytest.approx((1 - p) * 2.0, rel=1e-5)  # -h times the slope -(1 - p)
    drawn = attribution_effects(Experiment(model, {"a": batch}, units=units, folds=1), curvature=10).values.item()
    assert drawn - first == pytest.approx(p * (1 - p) * 4 / 2, rel=0.05)
    exact = ablation_effects(Experiment(model, {"a": batch}, units=units, folds=1)).values.item()
    assert exact == pytest.approx(np.log(2) + np.log(p), rel=1e-5)


def test_integrated_gradients_add_up_to_the_removal_of_a_layer(model, batches):
    effects = integrated_gradients_effects(Experiment(model, batches, folds=1), steps=16)
    np.testing.assert_allclose(effects.made["completeness"], 1, atol=0.15)


def test_resume_and_threads(batches, tmp_path, monkeypatch):
    model = scaled(MLP(12, 2, 130, 3))
    units = units_of(model)
    whole = ablation_effects(Experiment(model, batches, units=units, folds=2), workers=2)
    ablation_effects(Experiment(model, batches, units=units, folds=2), resume=tmp_path, select=units.in_layers([1]))
    calls = []
    real = ablation.LayersProber.effects
    monkeypatch.setattr(
        ablation.LayersProber, "effects", lambda p, hook, some: calls.append(hook) or real(p, hook, some)
    )
    resumed = ablation_effects(Experiment(model, batches, units=units, folds=2), resume=tmp_path)
    assert calls == ["layers.0.hook_post"] * 2
    np.testing.assert_allclose(resumed.values, whole.values, atol=1e-7)
    assert torch.get_num_threads() >= 1
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_a_neuron_at_its_reference_and_a_planted_one(batches):
    """Only neuron 3 of the first layer and neuron 5 of the second are connected."""
    model = scaled(MLP(12, 2, 10, 3))
    with torch.no_grad():
        model.layers[1].weight[:, torch.arange(10) != 3] = 0
        model.out.weight[:, torch.arange(10) != 5] = 0
        model.layers[0].bias[3] = model.layers[1].bias[5] = 5.0
        model.layers[1].weight[5, 3] = 2.0
    effects = ablation_effects(Experiment(model, batches, folds=1))
    assert set(np.flatnonzero(np.abs(effects.values).max(axis=(0, 1)) > 1e-7)) == {3, 15}


def test_models_batches_and_units_that_do_not_fit(batches):
    model = MLP(12, 2, 10, 3)
    units = units_of(model)
    wrong = {"a": Examples(torch.zeros(4, 11), torch.zeros(4, dtype=torch.long))}
    with pytest.raises(ValueError, match="subtasks that it was trained on"):
        ablation_effects(Experiment(model, wrong, units=units, folds=1))
    with pytest.raises(ValueError, match="one class per example"):
        ablation_effects(
            Experiment(model, {"a": Examples(torch.zeros(4, 12), torch.full((4,), 2))}, units=units, folds=1)
        )
    with pytest.raises(ValueError, match="one kind at a time"):
        ablation_effects(Experiment(model, {**batches, **wrong}, units=units, folds=1))
    with pytest.raises(ValueError, match=r"units_of\(model\)"):
        ablation_effects(Experiment(model, batches, units=units_of(MLP(12, 2, 9, 3)), folds=1))
    model.train()
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        ablation_effects(Experiment(model, batches, units=units, folds=1))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize(("sizes", "neurons"), [([1], 1), ([63, 2], 7), ([64, 65], 16), ([200], 33)])
def test_the_compiled_loop_gives_the_formula(sizes, neurons, kind):
    draw = torch.Generator().manual_seed(0)
    units = 5
    weight, bias = torch.randn(1, neurons, generator=draw, dtype=kind), torch.full((1, 1), 0.3, dtype=kind)
    write = torch.randn(units, neurons, generator=draw, dtype=kind)
    pre = [torch.randn(neurons, size, generator=draw, dtype=kind) for size in sizes]
    margin = [weight @ block.relu() + bias for block in pre]
    loop = fused.FusedMargin(pre, margin, weight, bias)
    for place, size in enumerate(sizes):
        delta = torch.randn(units, size, generator=draw, dtype=kind)
        delta[0], delta[1] = 0, delta[1].relu()  # a neuron that changes nothing, and one that is off on some examples
        found = torch.empty(units, size, dtype=kind)
        loop(place, delta, write, out=found)
        wanted = (pre[place][None] + delta[:, None] * write[..., None]).relu().mul(weight[0, :, None]).sum(1) + bias
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        assert torch.equal(found[0], margin[place][0])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_the_compiled_loop_hides_no_bad_number(bad):
    pre = torch.zeros(3, 2)
    pre[1, 1] = bad
    loop = fused.FusedMargin([pre], [torch.zeros(1, 2)], torch.ones(1, 3), torch.zeros(1, 1))
    found = torch.empty(1, 2)
    loop(0, torch.ones(1, 2), torch.ones(1, 3), out=found)
    assert found[0, 0] == 3
    assert not found[0, 1].isfinite()


def test_the_compiled_loop_does_what_it_can_alone(batches, monkeypatch):
    """Other activations and classes go without; the effects are compared with the oracle above."""
    used = []
    loop = fused.FusedMargin.__call__
    monkeypatch.setattr(fused.FusedMargin, "__call__", lambda *given, **out: used.append(True) or loop(*given, **out))
    for name, expected in {
        "two_classes": True,
        "deep_relu": True,
        "three_classes": False,
        "one_hidden": False,
        "deep_gelu": False,
    }.items():
        used.clear()
        model = scaled(NETWORKS[name]())
        ablation_effects(Experiment(model, batches, folds=2))
        assert bool(used) == expected
    assert not fused.fusable("relu", torch.zeros(1, dtype=torch.bfloat16), 1, None)
    assert not fused.fusable("relu", torch.zeros(1, device="meta"), 1, None)


@pytest.mark.parametrize("name", ["two_classes", "deep_relu"])
def test_without_the_compiler_the_numbers_are_the_same(name, batches, monkeypatch):
    """And numba is not imported: it is an extra."""
    experiment = Experiment(scaled(NETWORKS[name]()), batches, folds=2)
    wanted = ablation_effects(experiment).values
    monkeypatch.setattr(fused, "compiler", lambda: False)
    monkeypatch.setattr(fused, "_compiled", None)
    np.testing.assert_allclose(ablation_effects(experiment).values, wanted, atol=1e-6)
