from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from skilloc import store
from skilloc.ablation import ablation_effects, mask_effects
from skilloc.attribution import attribution_effects
from skilloc.experiment import Experiment, flat_mean_reference
from skilloc.masks import Mask
from skilloc.models.makers import units_of
from skilloc.models.mlp import MLP
from skilloc.pruning import Curve, effects_again, mask_curve, masks_of, prune, recover, remaining
from skilloc.tasks import Examples
from skilloc.tasks.parity import parity_stream, parity_subtasks
from skilloc.training import TrainConfig
from skilloc.units import Units, neurons

SUBTASKS = parity_subtasks(8, atoms=2, k=3, composites=[(0, 1)])
UNITS = Units((neurons("layers.0.hook_post", 4, 0), neurons("layers.1.hook_post", 2, 1)))


def batches(n=80, split="report"):
    return {name: subtask.draw(n, split=split) for name, subtask in SUBTASKS.items()}


def kept(masks):
    return ["".join("x" if k else "." for k in mask.keep) for mask in masks]


def test_one_shot_masks_keep_the_top_of_one_list():
    scores = np.array([3.0, -1.0, 0.5, np.nan, 2.0, 0.0])
    assert kept(masks_of(UNITS, scores, [6, 4, 2, 0])) == ["xxxxxx", "x.x.xx", "x...x.", "......"]
    # Per layer the same share: 4 of 6 are 3 of 4 (2.67) and 1 of 2 (1.33).
    assert kept(masks_of(UNITS, scores, [4, 3], per_layer=True)) == ["xxx.x.", "x.x.x."]


def test_iterative_masks_score_what_is_left_again():
    asked = []

    def scores(mask):
        # Unit 1 is worthless until unit 0 is gone, and then the best.
        asked.append(int(mask.keep.sum()))
        values = np.array([1.0, 0.0, 5.0, 4.0, 3.0, 2.0])
        return values if mask.keep[0] else values + np.array([0, 9, 0, 0, 0, 0])

    assert kept(masks_of(UNITS, scores, [2, 4], every=1)) == ["..xx..", "..xxxx"]
    assert asked == [6, 5, 4, 3]
    first = np.array([0.0, 1.0, 5.0, 4.0, 3.0, 2.0])
    again = lambda mask: first if mask.keep.all() else first + np.array([0, 9, 0, 0, 0, 0])  # noqa: E731
    assert kept(masks_of(UNITS, again, [2], every=1)) == [".xx..."]
    assert kept(masks_of(UNITS, again, [2])) == ["..xx.."]  # one round
    assert kept(masks_of(UNITS, first, [2])) == ["..xx.."]


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        ({"scores": np.zeros(5)}, "one value per unit"),
        ({"counts": [7]}, "keep 0 to 6"),
        ({"counts": []}, "keep 0 to 6"),
        ({"every": 0}, "at least 1"),
        ({"every": 2}, "as a function"),
    ],
)
def test_masks_that_cannot_be(arguments, cure):
    with pytest.raises(ValueError, match=cure):
        masks_of(UNITS, **{"scores": np.zeros(6), "counts": [3], **arguments})


@pytest.fixture(scope="module")
def network():
    """A network that has learned both atoms."""
    from skilloc.training import train

    model = MLP(10, 2, 24, 3)
    stream = parity_stream([SUBTASKS["parity_0"], SUBTASKS["parity_1"]], 200, seed=0)
    train(model, stream, TrainConfig(500, rate=5e-3), evaluate=batches(split="selection"), progress=False)
    return model


def test_a_curve_is_what_the_pruned_networks_do(network, tmp_path):
    effects = ablation_effects(Experiment(network, batches(split="selection")))
    report = batches(400)
    experiment = Experiment(network, report)
    curve = mask_curve(experiment, masks_of(experiment.units, effects.mean("parity_0"), [48, 40, 24, 8]), draws=3)
    assert curve.losses.shape == (4, 8, 3)
    for i, mask in enumerate(curve.masks):
        smaller = prune(network, mask)
        for s, batch in enumerate(report.values()):
            with torch.no_grad():
                logits = smaller(batch.inputs)
            loss = functional.cross_entropy(logits.double(), batch.targets).item()
            assert curve.losses[i, :, s].mean() == pytest.approx(loss, abs=1e-5)
            right = (logits.argmax(1) == batch.targets).double().mean().item()
            assert curve.accuracies[i, :, s].mean() == pytest.approx(right, abs=1e-9)
    np.testing.assert_allclose(curve.losses[0], curve.baseline)
    # The units that parity_0 needs keep it longer than random ones do, and longer than the other atom.
    of = {name: place for place, name in enumerate(curve.subtasks)}
    assert curve.accuracies[1, :, of["parity_0"]].mean() > 0.95
    assert curve.losses[2, :, of["parity_0"]].mean() < curve.random_losses[:, 2, :, of["parity_0"]].mean() - 0.1
    assert curve.accuracies[2, :, of["parity_0"]].mean() > curve.accuracies[2, :, of["parity_1"]].mean() + 0.2
    assert [len(set(row)) for row in curve.random_losses.mean(axis=(2, 3)).T][:3] == [1, 3, 3]
    store.save(curve, tmp_path / "curve")
    again = store.load(Curve, tmp_path / "curve")
    np.testing.assert_array_equal(again.random_losses, curve.random_losses)
    assert (again.kept == [48, 40, 24, 8]).all()
    assert [mask.keep.tolist() for mask in again.masks] == [mask.keep.tolist() for mask in curve.masks]
    same = mask_curve(experiment, masks_of(experiment.units, effects.mean("parity_0"), [24]), draws=3)
    assert (same.random_losses[:, 0] == curve.random_losses[:, 2]).all()
    other = mask_curve(experiment, masks_of(experiment.units, effects.mean("parity_0"), [24]), draws=3, seed=1)
    assert (other.random_losses != same.random_losses).any()


def test_a_curve_of_a_language_model_has_no_accuracy(gpt2, tokens):
    units = units_of(gpt2)
    batch = {"text": Examples(tokens[:, :-1], tokens[:, 1:].clone())}
    scores = np.random.default_rng(0).random(len(units))
    experiment = Experiment(gpt2, batch, folds=2)
    curve = mask_curve(experiment, masks_of(experiment.units, scores, [len(units) // 2]), draws=1)
    wanted, base = mask_effects(experiment, curve.masks)
    np.testing.assert_allclose(curve.losses, wanted + base, atol=1e-12)
    assert np.isnan(curve.accuracies).all()


@pytest.mark.parametrize("kind", ["zero", "flat mean"])
def test_scores_again_are_effects_on_top_of_what_is_gone(network, gpt2, tokens, kind):
    text = {"text": Examples(tokens[:, :-1], tokens[:, 1:].clone())}
    for model, given in ((network, batches()), (gpt2, text)):
        units = units_of(model)
        reference = "zero" if kind == "zero" else flat_mean_reference(model, given, units)
        experiment = Experiment(model, given, reference=reference, folds=1)
        mask = Mask(units, np.random.default_rng(1).random(len(units)) < 0.6)
        found = effects_again(experiment, ablation_effects)(mask)
        assert np.isfinite(found[mask.keep]).all()
        for unit in np.flatnonzero(mask.keep)[::37]:
            without = Mask(units, mask.keep & (np.arange(len(units)) != unit))
            (both, one), _ = mask_effects(experiment, [without, mask])
            assert found[unit] == pytest.approx((both - one).mean(), abs=2e-5)


def test_magnitudes_and_estimates_score_too(network):
    experiment = Experiment(network, batches())
    mask = Mask(experiment.units, np.arange(48) % 4 > 0)
    signed = effects_again(experiment, ablation_effects)(mask)
    absolute = effects_again(experiment, ablation_effects, magnitudes=True)(mask)
    assert (absolute[mask.keep] >= np.abs(signed[mask.keep]) - 1e-12).all()
    estimate = effects_again(experiment, partial(attribution_effects, curvature=0))(mask)
    assert np.corrcoef(estimate[mask.keep], signed[mask.keep])[0, 1] > 0.3


def plain_losses(model, mask, stream, steps, config, batch):
    """A copied, smaller network and a plain loop."""
    network = prune(model, mask)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    settings = {"lr": config.rate, "weight_decay": config.weight_decay}
    if config.optimiser == "sgd":
        optimiser = torch.optim.SGD(network.parameters(), momentum=0.9, **settings)
    else:
        optimiser = kinds[config.optimiser](network.parameters(), eps=config.eps, **settings)
    for step in range(steps):
        examples = stream(step)
        optimiser.zero_grad()
        functional.cross_entropy(network(examples.inputs), examples.targets).backward()
        optimiser.step()
    with torch.no_grad():
        logits = network(batch.inputs)
    return functional.cross_entropy(logits, batch.targets).item(), (
        logits.argmax(1) == batch.targets
    ).double().mean().item()


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(("activation", "depth"), [("relu", 2), ("relu", 3), ("relu", 4), ("gelu", 3)])
def test_recovery_is_that_of_a_plain_loop(monkeypatch, optimiser, activation, depth):
    monkeypatch.setattr("skilloc.training.step.CACHED", 70 * 40)  # blocks of some rows, with a rest
    monkeypatch.setattr("skilloc.training.many.WIDTH", 40)  # several stacks
    model = MLP(10, 2, 20, depth, activation=activation)
    units = units_of(model)
    order = np.random.default_rng(0).permutation(len(units))
    masks = [Mask(units, order < n) for n in (len(units), 2 * len(units) // 3, len(units) // 4, 2)]
    config = TrainConfig(12, rate=5e-3, optimiser=optimiser, weight_decay=0.01, evaluate_at=(5,))
    stream = parity_stream([SUBTASKS["parity_0"]], 150, seed=0)
    report = {"parity_0": SUBTASKS["parity_0"].draw(320)}
    found = recover(Experiment(model, report), masks, stream, config)
    assert found.steps == (0, 5, 12)
    assert found.kept.tolist() == [mask.keep.sum() for mask in masks]
    for i, mask in enumerate(masks):
        for j, steps in enumerate(found.steps):
            loss, right = plain_losses(model, mask, stream, steps, config, report["parity_0"])
            assert found.losses[i, j].mean() == pytest.approx(loss, abs=2e-5)
            assert found.accuracies[i, j].mean() == pytest.approx(right, abs=0.01)
    assert (found.losses[:, 2] != found.losses[:, 0]).any()


def test_recovery_says_what_is_wrong(network):
    stream = parity_stream([SUBTASKS["parity_0"]], 50, seed=0)
    units = units_of(network)
    masks = [Mask(units, np.ones(48, dtype=bool))]
    experiment = Experiment(network, batches())
    with pytest.raises(ValueError, match="at least one mask"):
        recover(experiment, [], stream, TrainConfig(5))
    with pytest.raises(ValueError, match="leave the others out"):
        recover(experiment, masks, stream, TrainConfig(5, until={"parity_0": 0.1}))

    def broken(step):
        examples = stream(step)
        return replace(examples, inputs=examples.inputs * torch.nan)

    with pytest.raises(FloatingPointError, match=r"step 0 .*smaller `rate`"):
        recover(experiment, masks, broken, TrainConfig(5))
    assert remaining(network, masks[0]).all()
