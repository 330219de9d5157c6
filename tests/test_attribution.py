import numpy as np
import pytest
import torch

from skilloc.ablation import ablation_effects
from skilloc.attribution import attribution_effects, integrated_gradients_effects
from skilloc.experiment import (
    Experiment,
    Reference,
    flat_mean_reference,
    mean_reference,
    read_activations,
    resample_reference,
    zero_reference,
)
from skilloc.models.makers import units_of
from skilloc.tasks import IGNORE, Examples, fold


@pytest.fixture
def batches(tokens):
    return {"a": Examples(tokens[:2, :-1], tokens[:2, 1:]), "b": Examples(tokens[2:, :-1], tokens[2:, 1:])}


def near(reference, model, batches, units, step):
    """A reference a small step away from the activations, where every estimate must become exact."""
    activations = read_activations(model, fold(batches, 1).examples, units)
    moved = {h: v + step * (reference.on(h, slice(None)) - v) for h, v in activations.items()}
    return Reference("near", moved, per_row=True)


@pytest.mark.parametrize("kind", ["zero", "mean", "flat mean", "resample"])
def test_first_order_is_the_slope_of_the_ablation(any_model, batches, kind):
    units = units_of(any_model)
    reference = {
        "zero": lambda: zero_reference(units),
        "mean": lambda: mean_reference(any_model, batches, units),
        "flat mean": lambda: flat_mean_reference(any_model, batches, units),
        "resample": lambda: resample_reference(any_model, batches, units, seed=0),
    }[kind]()
    step = 1e-3  # small enough for the kinks of a relu
    close = near(reference, any_model, batches, units, step)
    chosen = np.arange(len(units)) % 5 == 0
    exact = ablation_effects(
        Experiment(any_model, batches, units=units, reference=close, folds=2), select=chosen
    ).values[..., chosen]
    first = attribution_effects(
        Experiment(any_model, batches, units=units, reference=close, folds=2), curvature=0
    ).values[..., chosen]
    size = np.abs(exact).max()
    assert size > 1e-6
    np.testing.assert_allclose(first, exact, atol=0.05 * size)


def test_first_order_scales_with_the_step_and_curvature_with_its_square(llama, batches):
    units = units_of(llama)
    zero = zero_reference(units)

    def at(step, m):
        return attribution_effects(
            Experiment(llama, batches, units=units, reference=near(zero, llama, batches, units, step), folds=1),
            curvature=m,
        ).values

    first = at(1.0, 0)
    np.testing.assert_allclose(at(0.5, 0), 0.5 * first, atol=1e-6)
    np.testing.assert_allclose(at(0.5, 4) - at(0.5, 0), 0.25 * (at(1.0, 4) - first), atol=1e-6)
    assert (at(1.0, 4) - first >= 0).all()


@pytest.mark.slow
def test_curvature_is_the_expected_squared_slope_of_labels_drawn_from_the_model(llama, tokens):
    """Against autograd on the summed loss of every possible label, one position scored: no sampling is left."""
    units = units_of(llama)
    targets = torch.full((1, 6), IGNORE)
    targets[0, 5] = 3
    batch = Examples(tokens[:1, :6], targets)
    first = attribution_effects(Experiment(llama, {"a": batch}, units=units, folds=1), curvature=0).values[0, 0]
    drawn = (
        attribution_effects(Experiment(llama, {"a": batch}, units=units, folds=1), curvature=3000).values[0, 0] - first
    )
    with torch.no_grad():
        probabilities = llama(batch.inputs)[0, 5].softmax(dim=0)
    wanted = np.zeros(len(units))
    for label, probability in enumerate(probabilities.tolist()):
        one = targets.clone()
        one[0, 5] = label
        slope = attribution_effects(
            Experiment(llama, {"a": Examples(batch.inputs, one)}, units=units, folds=1), curvature=0
        ).values[0, 0]
        wanted += 0.5 * probability * slope**2
    assert np.corrcoef(drawn, wanted)[0, 1] > 0.99
    assert drawn.sum() == pytest.approx(wanted.sum(), rel=0.1)


def test_curvature_brings_the_estimate_nearer_when_labels_come_from_the_model(llama):
    """A model is calibrated on labels that are drawn from it."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(61, (64, 16), generator=generator)
    with torch.no_grad():
        probabilities = llama(inputs).softmax(dim=-1)
    labels = torch.multinomial(probabilities.flatten(0, 1), 1, generator=generator).view(64, 16)
    batches = {"own": Examples(inputs, labels)}
    units = units_of(llama)
    half = near(zero_reference(units), llama, batches, units, 0.5)
    exact = ablation_effects(Experiment(llama, batches, units=units, reference=half, folds=1)).values[0, 0]
    first = attribution_effects(Experiment(llama, batches, units=units, reference=half, folds=1), curvature=0).values[
        0, 0
    ]
    both = attribution_effects(Experiment(llama, batches, units=units, reference=half, folds=1), curvature=16).values[
        0, 0
    ]
    assert np.linalg.norm(both - exact) < 0.6 * np.linalg.norm(first - exact)


def test_small_blocks_of_rows_give_the_same(llama, batches, monkeypatch):
    units = units_of(llama)
    whole = attribution_effects(Experiment(llama, batches, units=units, folds=2), curvature=0)
    monkeypatch.setattr("skilloc.models.losses.MAX_LOGITS", 1)
    blocks = attribution_effects(Experiment(llama, batches, units=units, folds=2), curvature=0)
    np.testing.assert_allclose(whole.values, blocks.values, atol=1e-6)


def test_seeds(llama, batches):
    units = units_of(llama)

    def values(seed):
        return attribution_effects(Experiment(llama, batches, units=units, folds=1), curvature=2, seed=seed).values

    np.testing.assert_array_equal(values(0), values(0))
    assert np.abs(values(0) - values(1)).max() > 0


def test_weights_that_require_no_gradient_make_no_difference(llama, batches):
    units = units_of(llama)
    free = attribution_effects(Experiment(llama, batches, units=units, folds=1), curvature=0).values
    parameters = [p for p in llama.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        frozen = attribution_effects(Experiment(llama, batches, units=units, folds=1), curvature=0).values
    finally:
        for p in parameters:
            p.requires_grad_(True)
    np.testing.assert_array_equal(free, frozen)


def test_integrated_gradients_of_a_hook_add_up_to_its_joint_removal(any_model, batches):
    units = units_of(any_model, kinds=("neuron",))
    effects = integrated_gradients_effects(Experiment(any_model, batches, units=units, folds=1), steps=24)
    completeness = np.array(effects.made["completeness"])
    assert completeness.shape == (2, len(units.hooks))
    np.testing.assert_allclose(completeness, 1, atol=0.15)


def test_a_point_of_the_path_is_the_slope_of_moving_all_places_of_a_bank(any_model, batches):
    """The residual stream, whose later places read its earlier ones, half of the way to its mean."""
    units = units_of(any_model, kinds=("residual",))
    own = Experiment(any_model, {"a": batches["a"]}, units=units, reference="mean", folds=1)
    found = integrated_gradients_effects(own, steps=1).values[0, 0]
    (bank,) = units.banks

    def loss(share):
        def moved(hook):
            return lambda value: torch.lerp(value, own.held.on(hook, slice(None)).to(value), share)

        with torch.no_grad(), own.face.attached({hook: moved(hook) for hook in bank.writes}):
            logits = own.face.run(own.folded.examples.inputs)
        return own.metric(logits, own.folded.examples).double().mean().item()

    slope = (loss(0.51) - loss(0.49)) / 0.02
    assert abs(slope) > 1e-3
    assert found.sum() == pytest.approx(slope, rel=0.02, abs=1e-4)


def test_same_arguments_same_result_type_as_ablation(llama, batches):
    units = units_of(llama)
    chosen = units.in_layers([1])
    a = ablation_effects(Experiment(llama, batches, units=units, folds=2), select=chosen)
    b = attribution_effects(Experiment(llama, batches, units=units, folds=2), select=chosen)
    assert a.values.shape == b.values.shape
    assert (a.measured == b.measured).all()
    assert (a.measured == chosen).all()
    np.testing.assert_allclose(a.baseline, b.baseline, atol=1e-6)
    assert a.made["tokens"] == b.made["tokens"]
    assert a.exact.all()
    assert not b.exact.any()


def test_no_gradient_is_an_error(llama, batches):
    units = units_of(llama)
    activations = read_activations(
        llama,
        Examples(torch.cat([b.inputs for b in batches.values()]), torch.cat([b.targets for b in batches.values()])),
        units,
    )
    with pytest.raises(RuntimeError, match="by ablation instead"):
        attribution_effects(
            Experiment(llama, batches, units=units, reference=Reference("own", activations, per_row=True), folds=1),
            curvature=0,
        )
